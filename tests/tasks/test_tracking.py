"""What MLflow is told of a run, in a real MLflow file, and what Prefect shows of it."""

import json
import signal
from asyncio import CancelledError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ns_core.artifacts import Record
from ns_core.config import EvaluateConfig, StudentConfig
from ns_core.errors import StageFailed
from ns_core.storage import open_storage
from tasks.observe import StageOutcome
from tasks.run import Run, StageCall
from tests.lineage_stores import run_of_two
from tests.tasks.campaigns import client, recipe_of, reference, run_of

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]

BOTH_LEVELS = {
    *("ns.level", "ns.recipe", "ns.arm", "ns.seed", "ns.generation", "ns.key", "ns.run"),
    *("prefect.flow_run_id", "prefect.flow_run_name", "prefect.flow_run_url"),
}


def in_a_flow(body: Callable[[], Any], name: str = "a-campaign") -> Any:
    from prefect import flow

    return flow(name="one-campaign", flow_run_name=name)(body)()


def opened(run: Run, generations: int = 1) -> tuple[Run, list[str]]:
    """A parent and its children, from a flow."""
    from tasks.tracking import open_child, open_parent

    recipe = recipe_of()

    def body() -> tuple[Run, list[str]]:
        own = open_parent(run, recipe)
        return own, [open_child(own, recipe, index) for index in range(generations + 1)]

    result: tuple[Run, list[str]] = in_a_flow(body)
    return result


def status(run: Run, mlflow_run: str) -> str:
    return str(client(run).get_run(mlflow_run).info.status)


def test_both_levels_say_what_they_are_and_lead_to_prefect(tmp_path: Path) -> None:
    run, (first, second) = opened(run_of(tmp_path))
    found = {each: client(run).get_run(each) for each in (run.mlflow_run, first, second)}
    for one in found.values():
        tags = one.data.tags
        assert tags.keys() >= BOTH_LEVELS
        assert (tags["ns.recipe"], tags["ns.seed"], tags["prefect.flow_run_name"]) == ("digits", "0", "a-campaign")
        assert tags["prefect.flow_run_id"] in tags["prefect.flow_run_url"]
        assert tags["mlflow.note.content"] == f"[a-campaign in Prefect]({tags['prefect.flow_run_url']})"
    told = [(one.data.tags["ns.level"], one.data.tags["ns.generation"]) for one in found.values()]
    assert told == [("pipeline", "all"), ("generation", "0"), ("generation", "1")]
    name = found[run.mlflow_run].info.run_name
    assert [one.info.run_name for one in found.values()] == [name, f"{name}-g0", f"{name}-g1"]


def test_campaigns_have_names_of_their_own_and_the_same_one_goes_on_in_its_run(tmp_path: Path) -> None:
    from tasks.tracking import open_parent

    recipes = [recipe_of(), recipe_of(seed=1), recipe_of(generations=2), recipe_of()]
    runs = [open_parent(run_of(tmp_path), recipe).mlflow_run for recipe in recipes]
    assert runs[0] == runs[3]
    names = [client(run_of(tmp_path)).get_run(each).info.run_name for each in runs[:3]]
    assert len(set(names)) == 3
    assert [name.rpartition("-")[0] for name in names] == ["digits-seed0", "digits-seed1", "digits-seed0"]


def test_an_evaluation_has_the_same_two_levels(tmp_path: Path) -> None:
    from tasks.evaluation_run import open_checkpoint, open_evaluation

    config = EvaluateConfig()

    def body() -> list[str]:
        run = open_evaluation(run_of(tmp_path), "evaluate-xs", config, {"checkpoint": "a" * 64})
        return [run.mlflow_run, open_checkpoint(run, "evaluate-xs", config, 0)]

    for mlflow_run in in_a_flow(body):
        tags = client(run_of(tmp_path)).get_run(mlflow_run).data.tags
        assert tags.keys() >= BOTH_LEVELS
        assert tags["ns.recipe"] == "evaluate-xs"


def test_a_flow_run_leads_to_its_run_in_mlflow_and_without_a_server_says_what_shows_it(tmp_path: Path) -> None:
    from tests.tasks.test_selection_report import shown_in_prefect

    opened(run_of(tmp_path))
    for key in ("mlflow-run", "mlflow-generation"):
        text = shown_in_prefect(key)[0]
        assert "`noisy-student ui`" in text
        assert "digits-seed0-" in text


def test_a_generation_that_opens_ends_the_one_before_and_finish_ends_the_rest(tmp_path: Path) -> None:
    from tasks.tracking import finish

    run, (first, second, third) = opened(run_of(tmp_path), generations=2)
    assert [status(run, each) for each in (first, second, third)] == ["FINISHED", "FINISHED", "RUNNING"]
    finish(run, "KILLED")
    assert [status(run, each) for each in (second, third, run.mlflow_run)] == ["FINISHED", "KILLED", "KILLED"]


def test_a_run_that_was_stopped_is_killed_and_one_that_broke_has_failed() -> None:
    from prefect.exceptions import CancelledRun, TerminationSignal

    from tasks.tracking import ended

    assert ended(None) == "FINISHED"
    for stopped in (KeyboardInterrupt(), TerminationSignal(signal.SIGTERM), CancelledRun(), CancelledError()):
        assert ended(stopped) == "KILLED"
    for error in (StageFailed("the worker died"), ValueError(), SystemExit(1)):
        assert ended(error) == "FAILED"


def recorded(run: Run, made: dict[str, Record], name: str) -> Any:
    """The MLflow run of a generation after a stage of it is told."""
    from tasks.tracking import record_stage

    record = made[name]
    inputs = {
        role: reference(one) for role, want in record.inputs.items() for one in made.values() if one.fingerprint == want
    }
    own, (_, child) = opened(run)

    class Call(StageCall):
        paths = record.paths  # of the record at hand and not of these settings

    call = Call(own, 1, StudentConfig(), inputs, mlflow_run=child)
    outcome = StageOutcome(
        stage=record.stage, generation=1, fingerprint=record.fingerprint, state="cached", seconds=0.0, uri=""
    )
    record_stage(call, outcome, reference(record))
    from tasks.tracking import finish

    finish(own, "FINISHED")
    return client(run).get_run(child)


def test_what_a_student_learned_from_is_a_dataset_of_its_run_with_its_lineage(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    storage = open_storage(run.store)
    made = run_of_two(storage, tmp_path / "files")
    found = recorded(run, made, "student2")
    inputs = {one.dataset.name: one for one in found.inputs.dataset_inputs}
    contexts = {name: {tag.key: tag.value for tag in one.tags} for name, one in inputs.items()}
    assert contexts == {
        "prepare-dataset": {"mlflow.data.context": "labelled"},
        "filter-and-balance": {"mlflow.data.context": "pseudo-labelled"},
    }
    selection, profile = made["selection2"], json.loads(inputs["filter-and-balance"].dataset.profile)
    assert profile["sha256"] == selection.fingerprint
    assert profile["inputs"] == {
        "dataset": f"prepare-dataset/{made['dataset'].fingerprint}",
        "pseudo_labels": f"infer-unlabeled/{made['labels2'].fingerprint}",
    }
    before = ("finetuned1", "student1", "selection1", "labels1", "teacher")
    images = made["dataset"].inputs["source"]
    assert set(profile["made_of"]) == {f"{made[each].stage}/{made[each].fingerprint}" for each in before} | {images}
    source = json.loads(inputs["filter-and-balance"].dataset.source)
    assert source["uri"] == f"{storage.uri}/{selection.paths.folder}"
    assert json.loads(inputs["prepare-dataset"].dataset.profile)["inputs"] == {"source": images}


def test_the_points_of_a_stage_that_is_told_twice_count_once(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    made = run_of_two(open_storage(run.store), tmp_path / "files")
    for _ in range(2):
        found = recorded(run, made, "student1")
    history = client(run).get_metric_history(found.info.run_id, "timing/train-noisy-student_s")
    assert [point.step for point in history] == [1]
