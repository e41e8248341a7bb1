"""The real thing through the command line: all stages, real worker processes, real Prefect and MLflow.

One store serves the whole module, tests in order: a run, the same from the cache, artifacts damaged and the store
moved, one field changed, the process tree killed.
"""

import json
import os
import signal
import sqlite3
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.flows.command import Command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RECIPE = ("run", "digits_smoke", "--json")
STAGES = {
    ("prepare-dataset", 0),
    ("train-teacher", 0),
    ("evaluate-robustness", 0),
    ("infer-unlabeled", 1),
    ("filter-and-balance", 1),
    ("train-noisy-student", 1),
    ("finetune-at-test-resolution", 1),
    ("evaluate-robustness", 1),
}
AFTER_THE_STUDENT = {
    ("train-noisy-student", 1),
    ("finetune-at-test-resolution", 1),
    ("evaluate-robustness", 1),
}


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(tmp_path_factory.mktemp("end-to-end"))


@pytest.fixture(scope="module")
def served(command: Command, prefect_api: str) -> Command:
    """On a server that runs already, for what a temporary one adds nothing to."""
    return Command(command.folder, prefect_api)


@pytest.fixture(scope="module")
def store(command: Command) -> Path:
    return command.folder / "store"


def test_a_run_computes_every_stage_and_prints_one_document(command: Command, store: Path) -> None:
    outcome = command(*RECIPE, "--store", str(store))
    assert outcome.status == 0, outcome.stderr
    assert outcome.states == dict.fromkeys(STAGES, "computed")
    document = outcome.document
    for stage in document["stages"]:
        assert set(stage) == {"stage", "generation", "fingerprint", "state", "seconds", "uri"}
        record = json.loads((Path(stage["uri"]) / ".artifact.json").read_text())
        assert record["fingerprint"] == stage["fingerprint"]
    (generation,) = document["generations"]
    for role in ("teacher", "student"):
        assert {"holdout_top1", "test_top1", "ece"} <= set(generation[role])
        assert 0 <= generation[role]["test_top1"] <= 1
    assert generation["gate"]["verdict"] in ("promote", "keep-teacher", "stop")
    assert generation["student"]["parameters"] > document["first_teacher"]["parameters"]
    assert Path(document["report"]).read_text().startswith("<!doctype html>")
    assert "Traceback" not in outcome.stderr


def test_the_same_command_again_takes_everything_from_the_cache(command: Command, store: Path) -> None:
    outcome = command(*RECIPE, "--store", str(store))
    assert outcome.status == 0, outcome.stderr
    assert outcome.states == dict.fromkeys(STAGES, "cached")


def test_mlflow_has_two_levels_and_the_registry_its_aliases(command: Command) -> None:
    with sqlite3.connect(command.home / "mlflow.db") as database:
        levels = dict(database.execute("select run_uuid, value from tags where key = 'ns.level'").fetchall())
        parents = [run for run, level in levels.items() if level == "pipeline"]
        children = [run for run, level in levels.items() if level == "generation"]
        assert (len(parents), len(children)) == (1, 2), "the second run found the first one's"
        keys = {
            run: {k for (k,) in database.execute("select distinct key from metrics where run_uuid=?", (run,))}
            for run in levels
        }
        assert {"gen/holdout_top1", "final/test_top1"} <= keys[parents[0]]
        assert all(not key.startswith(("gen/", "final/")) for run in children for key in keys[run])
        assert any("train/loss" in keys[run] and "pl/kept" in keys[run] for run in children)
        pace = {f"train/{name}" for name in ("images_per_second", "data_wait", "step_ms_p95", "seconds_left")}
        assert any(pace <= keys[run] for run in children)
        ended = database.execute("select status from runs where run_uuid=?", (parents[0],)).fetchone()
        assert ended == ("FINISHED",)
        aliases = {alias for (alias,) in database.execute("select alias from registered_model_aliases")}
        assert {"champion", "teacher-gen1"} <= aliases
        assert database.execute("select count(*) from inputs").fetchone()[0] >= 2, "datasets are inputs"


def test_prefect_shows_generations_as_subflows_and_the_workers_log_lines(command: Command) -> None:
    with sqlite3.connect(command.home / "prefect" / "prefect.db") as database:
        flows = database.execute("select name, parent_task_run_id is not null from flow_run").fetchall()
        lines = database.execute(
            "select count(*) from log where message like 'update 20/60:%' and task_run_id is not null"
        )
        assert ("generation-1", 1) in flows
        assert [child for name, child in flows if name.startswith("digits_smoke-")] == [0, 0]
        assert lines.fetchone()[0] == 1, "the teacher's line, once: the second run computed nothing"


def test_the_pictures_are_there_for_people(command: Command, store: Path) -> None:
    for run in (store / "runs").iterdir():
        files = {path.name for path in run.iterdir()}
        assert {"report.html", "report.md", "run.json", "accuracy_by_generation.png", "selection-g1.html"} <= files
        assert 'href="selection-g1.html"' in (run / "report.html").read_text(encoding="utf-8")
        assert "pseudo_labels-g1.png" in files, "of the second run too, whose selection came from the store"
    outcome = command("report", "latest", "--store", str(store))
    assert outcome.status == 0
    assert "|" in outcome.stdout
    shown = {path.name for path in (command.home / "mlflow-artifacts").rglob("report/*")}
    assert {"report.html", "selection-g1.html", "pseudo_labels-g1.png"} <= shown, "MLflow shows them too"


def test_nothing_left_the_machine(command: Command) -> None:
    seen = command.connections.read_text() if command.connections.exists() else ""
    assert seen == ""


def test_harmed_artifacts_are_computed_again_and_another_place_and_other_resources_recompute_nothing(
    served: Command, store: Path
) -> None:
    """A byte of the teacher's weights is wrong, and the student's are gone."""
    moved = store.rename(store.with_name("moved"))
    harmed = [("train-teacher", 0), ("finetune-at-test-resolution", 1)]
    weights = [file for stage, _ in harmed for file in moved.glob(f"{stage}/*/attempt-*/model.safetensors")]
    teacher, student = (file.read_bytes() for file in weights)
    weights[0].write_bytes(teacher[:-1] + bytes([teacher[-1] ^ 1]))
    weights[1].unlink()
    resources = ("compute.loader_workers=3", "compute.retries=0", "infer.batch_size=64")
    settings = [part for resource in resources for part in ("--set", resource)]
    outcome = served(*RECIPE, "--store", str(moved), *settings)
    moved.rename(store)
    assert outcome.status == 0, outcome.stderr
    assert outcome.states == {place: "computed" if place in harmed else "cached" for place in STAGES}
    assert outcome.stderr.count("set aside") >= 2
    again = [file for stage, _ in harmed for file in store.glob(f"{stage}/*/attempt-*/model.safetensors")]
    attempts = {file.parent.name for file in weights}
    assert [file.read_bytes() for file in again if file.parent.name not in attempts] == [teacher, student], "same bits"


def test_one_field_of_the_student_recomputes_the_student_and_what_follows(served: Command, store: Path) -> None:
    outcome = served(*RECIPE, "--store", str(store), "--set", "student.label_smoothing=0.05")
    assert outcome.status == 0, outcome.stderr
    expected = {place: "computed" if place in AFTER_THE_STUDENT else "cached" for place in STAGES}
    assert outcome.states == expected


def test_auto_goes_on_until_the_gate_promotes_no_student_which_is_a_success(served: Command, store: Path) -> None:
    settings = ("--set", "generations=auto", "--set", "evaluate.min_gain=1", "--set", "evaluate.stop_p_value=1e-300")
    outcome = served(*RECIPE, "--store", str(store), *settings)
    assert outcome.status == 0, outcome.stderr
    (generation,) = outcome.document["generations"]
    assert generation["gate"]["verdict"] == "keep-teacher"
    assert outcome.document["ending"] == "the gate promoted no student in generation 1: the teacher stays"
    assert f"No further generation: {outcome.document['ending']}." in outcome.stderr
    trained = {state for (stage, _), state in outcome.states.items() if stage != "evaluate-robustness"}
    assert trained == {"cached"}


def test_only_a_student_that_starts_from_its_teacher_has_it_as_an_input(served: Command, store: Path) -> None:
    model = "ns_efficientnet_xs"
    settings = (f'student_models=["{model}"]', f"teacher.model={model}", "student.start=teacher")
    outcome = served(*RECIPE, "--store", str(store), *(part for one in settings for part in ("--set", one)))
    assert outcome.status == 0, outcome.stderr
    assert outcome.states == {place: "computed" if place in AFTER_THE_STUDENT else "cached" for place in STAGES}
    stages = {stage["stage"]: stage for stage in outcome.document["stages"]}
    student = stages["train-noisy-student"]["fingerprint"]
    records = [json.loads(path.read_text()) for path in store.glob("train-noisy-student/*/.artifact.json")]
    inputs = {record["fingerprint"]: record["inputs"] for record in records}
    assert inputs.pop(student)["teacher"] == stages["train-teacher"]["fingerprint"]
    assert inputs
    assert all(set(others) == {"dataset", "selection"} for others in inputs.values())


def test_a_threshold_that_keeps_nothing_is_one_line(served: Command, store: Path) -> None:
    outcome = served(*RECIPE, "--store", str(store), "--set", "select.threshold=1.0")
    assert outcome.status == 2, outcome.stderr
    assert outcome.stdout == ""
    last = outcome.stderr.strip().splitlines()[-1]
    assert last.startswith("noisy-student: select.threshold=1.0 keeps none")
    assert "highest confidence" in last
    assert "Traceback" not in outcome.stderr


def test_a_truncated_image_is_named_in_one_line(served: Command, store: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(24):
        for folder in (f"labelled/{'cat' if number % 2 else 'dog'}", "pool"):
            path = tmp_path / folder / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rng.integers(0, 255, (32, 32, 3), np.uint8))
    whole = (tmp_path / "pool" / "7.png").read_bytes()
    (tmp_path / "pool" / "7.png").write_bytes(whole[: len(whole) // 2])
    folders = ["--set", f"data.labeled={tmp_path / 'labelled'}", "--set", f"data.unlabeled={tmp_path / 'pool'}"]
    outcome = served("prepare", "folder", *folders, "--store", str(store))
    assert outcome.status == 2, outcome.stderr
    last = outcome.stderr.strip().splitlines()[-1]
    assert "7.png" in last
    assert "max_corrupt_fraction" in last
    skipped = served("prepare", "folder", *folders, "--store", str(store), "--set", "data.max_corrupt_fraction=0.1")
    assert skipped.status == 0, skipped.stderr
    assert "1 corrupt" in skipped.stdout


def test_an_unknown_model_is_one_line(served: Command, store: Path) -> None:
    outcome = served(*RECIPE, "--store", str(store), "--set", "teacher.model=efficientnet_b00")
    assert outcome.status == 2, outcome.stderr
    assert "did you mean 'efficientnet_b0" in outcome.stderr.strip().splitlines()[-1]
    assert "Traceback" not in outcome.stderr


def test_killed_as_a_whole_and_started_again_it_goes_on(command: Command, store: Path) -> None:
    arguments = [
        *RECIPE,
        "--store",
        str(store),
        "--set",
        "student.steps=60",
        "--set",
        "student.epoch_steps=5",
    ]
    process = command.start(*arguments)
    assert process.stderr is not None
    for line in process.stderr:
        if "update 20/60" in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    outcome = command(*arguments)
    assert outcome.status == 0, outcome.stderr
    assert {place for place, state in outcome.states.items() if state == "computed"} == AFTER_THE_STUDENT
    assert "going on from update" in outcome.stderr
