"""A campaign on real servers, as a team runs it: Prefect and MLflow on PostgreSQL, the store in S3, a worker.

The tests follow each other: the whole recipe `digits`, which *Quick run* starts, then what comes from its cache.
"""

import re
from collections.abc import Iterator

import pytest

from flows.recipes.digits import digits
from tests.campaigns import Campaign, deployed_in_s3, mlflow_runs, records
from tests.deployed import Deployed, Document
from tests.servers import lasting_servers

pytestmark = [pytest.mark.integration, pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(3600)]

RUN_SECONDS = 3000.0
"""For the whole recipe, 2.5 minutes on two cores of its own."""
STUDENT = "train-noisy-student"
BEFORE = {("prepare-dataset", 0), ("train-teacher", 0), ("evaluate-robustness", 0)}
LABELLING = {("infer-unlabeled", 1), ("filter-and-balance", 1)}
LEARNING = {(STUDENT, 1), ("finetune-at-test-resolution", 1), ("evaluate-robustness", 1)}
SECOND = {(stage, 2) for stage, _ in LABELLING | LEARNING}
SHORT = (
    "name=digits_short",
    "generations=1",
    "student.steps=150",
    "student.epoch_steps=10",
    "finetune.steps=4",
    "finetune.epoch_steps=2",
    "compute.retries=0",
)
"""A student of other settings, and one attempt at it: all before it is that of `digits`."""


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with lasting_servers() as servers, deployed_in_s3(servers, tmp_path_factory.mktemp("worker")) as made:
        yield made


@pytest.fixture(scope="module")
def first(deployed: Deployed) -> Campaign:
    """The whole recipe, under way."""
    return Campaign.start(deployed)


def _computed(deployed: Deployed, run: Document) -> set[tuple[str, int]]:
    return {stage for stage, state in deployed.states(run).items() if state == "computed"}


def test_what_a_worker_says_is_in_the_runs_log_while_it_works(first: Campaign) -> None:
    line = first.said("update ")
    assert re.match(r"update \d+/400: loss ", line), line
    assert first.state["type"] == "RUNNING"


def test_quick_run_computes_every_stage_into_s3_and_the_student_beats_the_teacher(first: Campaign) -> None:
    run, deployed = first.completed(RUN_SECONDS), first.deployed
    assert _computed(deployed, run) == BEFORE | LABELLING | LEARNING | SECOND == deployed.states(run).keys()
    kept = {record["fingerprint"] for record in records(deployed).values()}
    assert kept == set(deployed.fingerprints(run).values())
    assert not [key for key in deployed.storage.list("") if "/resume/" in key]
    document = deployed.document(run)
    teacher, student = document["first_teacher"]["test_top1"], document["generations"][-1]["student"]["test_top1"]
    assert student > teacher, f"the student ({student}) does not beat the teacher ({teacher})"


def test_names_tell_stage_and_generation(first: Campaign) -> None:
    run = first.ended()
    assert re.fullmatch(r"digits-\d{8}-\d{6}-[0-9a-f]{4}", run["name"])
    assert first.subflows().keys() == {"generation-1", "generation-2"}
    names = [task["name"] for task in first.tasks()]
    stages = {f"{stage}-g{generation}" for stage, generation in BEFORE | LABELLING | LEARNING | SECOND}
    assert stages <= set(names)
    assert len(names) == len(set(names))
    first.until_tasks_ended()
    assert {task["state"]["type"] for task in first.tasks()} == {"COMPLETED"}


def test_progress_and_a_report_that_can_be_read_are_artifacts_of_the_run(first: Campaign) -> None:
    artifacts = first.artifacts()
    bars = {one["description"]: one["data"] for one in artifacts if one["type"] == "progress"}
    assert {STUDENT} <= bars.keys(), "it takes longer than the time between two looks"
    assert set(bars.values()) == {100.0}
    (report,) = [one for one in artifacts if one["key"] == "noisy-student-report"]
    assert report["type"] == "markdown"
    assert first.ended()["name"] in report["description"]
    words = report["data"]
    gained = r"^# The student of generation \d gained .* over the first teacher"
    assert re.search(gained, words, re.MULTILINE), words[:400]
    assert re.search(r"^\| -+:? \|", words, re.MULTILINE), "a table"
    assert "](data:image/png;base64," in words, "a picture"
    assert f"{first.deployed.environment['NS_STORE']}/runs/{first.ended()['name']}/" in words


def test_the_runs_in_prefect_and_in_mlflow_lead_to_each_other(first: Campaign) -> None:
    deployed, parent = first.deployed, first.mlflow()
    assert parent.info.status == "FINISHED"
    page = deployed.environment["PREFECT_API_URL"].removesuffix("/api") + f"/flow-runs/flow-run/{first.id}"
    assert parent.data.tags["prefect.flow_run_url"] == page, "an address that Prefect's page knows"
    assert [one["key"] for one in first.artifacts() if parent.info.run_id in str(one["data"])]
    children = mlflow_runs(deployed, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {child.data.tags["ns.generation"] for child in children} == {"0", "1", "2"}
    assert {child.info.status for child in children} == {"FINISHED"}
    assert all(child.data.tags["prefect.flow_run_id"] in first.flow_runs() for child in children)


def test_two_runs_of_a_campaign_queue_and_find_every_stage_in_the_cache(first: Campaign) -> None:
    deployed, parent = first.deployed, first.mlflow()
    second = Campaign.start(deployed)
    second.until_running()
    third = Campaign.start(deployed)
    deployed.until(lambda: bool(third.state["name"] == "AwaitingConcurrencySlot"), 60, "the third run waits")
    assert second.state["type"] == "RUNNING"
    runs = second.completed(), third.completed()
    assert runs[1]["start_time"] >= runs[0]["end_time"]
    fingerprints = deployed.fingerprints(first.ended())
    for run in runs:
        assert _computed(deployed, run) == set()
        assert deployed.fingerprints(run) == fingerprints
        assert deployed.document(run)["generations"] == deployed.document(first.ended())["generations"]
    assert third.mlflow().info.run_id == parent.info.run_id, "the same parameters are the same run in MLflow"
    assert {third.mlflow().info.status} == {"FINISHED"}


def test_a_failed_student_is_told_in_one_line_and_on_retry_only_what_was_missing_is_computed(first: Campaign) -> None:
    """Its worker is killed once it has a checkpoint."""
    deployed, before = first.deployed, first.deployed.fingerprints(first.ended())
    campaign = Campaign.start(deployed, digits().override([*SHORT]))
    campaign.checkpointed(STUDENT).kill()
    failed = campaign.ended()
    assert failed["state"]["type"] == "FAILED"
    assert failed["state"]["message"].startswith(
        f"{STUDENT}: the worker was killed (SIGKILL: out of memory, or by hand)"
    )
    assert "\n" not in failed["state"]["message"]
    parent = campaign.mlflow()
    assert parent.info.status == "FAILED"

    deployed.retry(campaign.id)
    deployed.until(lambda: deployed.read(campaign.id)["run_count"] == 2, RUN_SECONDS, "it is tried again")
    again = campaign.completed(RUN_SECONDS)
    assert again["name"] == failed["name"]
    assert _computed(deployed, again) == LEARNING
    assert deployed.states(again).keys() == BEFORE | LABELLING | LEARNING
    own = deployed.fingerprints(again)
    assert {stage: own[stage] for stage in BEFORE | LABELLING} == {stage: before[stage] for stage in BEFORE | LABELLING}
    assert re.search(r"update [1-9]\d* of 150$", campaign.said("going on from update"))
    assert campaign.mlflow().info.run_id == parent.info.run_id
    assert campaign.mlflow().info.status == "FINISHED"
    key = parent.data.tags["ns.key"]
    assert len(mlflow_runs(deployed, f"tags.`ns.key` = '{key}'")) == 1
