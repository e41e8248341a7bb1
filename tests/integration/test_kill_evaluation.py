"""An evaluation killed with SIGKILL at random moments: nothing is lost, nothing is looked at twice.

Real workers, each killed with its process group. What counts are the files of the artifact, byte for byte.
"""

import os
import random
import shutil
import signal
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from ns_core import artifacts
from ns_core.artifacts import Paths
from ns_core.config import EvaluateConfig
from ns_core.errors import StageFailed
from ns_core.launch.local import run_worker
from ns_core.launch.spec import WorkerSpec
from ns_core.storage import open_storage
from tests.artifact_builders import flip
from tests.labelling_runs import folder_of, found, outcome, resume_of, run_alone, workers_of
from tests.worker_specs import digits_spec, reference, spec_of, teacher_spec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

CONFIG: dict[str, Any] = {
    "perturbations": ("translate", "brightness"),
    "fgsm_eps": (2.0, 8.0),
    "pgd_eps": (2.0,),
    "max_images": 50,
    "max_sequences": 10,
    "max_attacked": 20,
}
TABLES = 2 + 15 * 5 + 2 + 3
KILLS = 5
LARGEST_LEAP = 9
"""Tables between two kills: five kills come before the end."""
PAUSE_S = 0.05
"""After a table was saved at most: by then the next is half-way."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[WorkerSpec, WorkerSpec]:
    """A dataset and a teacher in a store."""
    dataset = digits_spec(str(tmp_path_factory.mktemp("evaluation") / "made"), holdout_images=60, test_images=100)
    teacher = teacher_spec(dataset)
    for spec in (dataset, teacher):
        run_alone(spec)
    return dataset, teacher


@pytest.fixture(autouse=True)
def _scratch_of_killed_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cannot clear it away."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))


def _evaluating(made: tuple[WorkerSpec, WorkerSpec], store: Path, processes: int = 1) -> WorkerSpec:
    """evaluate-robustness in a copy of the store."""
    dataset, teacher = made
    shutil.copytree(dataset.store, store)
    inputs = {"dataset": reference(dataset), "checkpoint": reference(teacher)}
    spec = spec_of(EvaluateConfig(**CONFIG), str(store), inputs, {})
    return spec.model_copy(update={"compute": spec.compute.model_copy(update={"processes": processes})})


def _saved(spec: WorkerSpec) -> dict[str, int]:
    """Tables that wait for the next attempt, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in resume_of(spec).glob("*.parquet")}


def _run(spec: WorkerSpec) -> list[str]:
    """What an attempt logged."""
    log: list[str] = []
    run_worker(spec, log.append, lambda event: None)
    return log


def _run_and_kill(spec: WorkerSpec, tables: int, pause: float) -> None:
    """An attempt whose worker gets SIGKILL, with all of its process group, `pause` seconds after so many tables have
    been saved."""
    over = Event()

    def kill() -> None:
        while not over.wait(0.001):
            if len(_saved(spec)) >= tables:
                over.wait(pause)
                (victim,) = workers_of(os.getpid())
                assert os.getpgid(victim.pid) == victim.pid != os.getpgid(0)
                os.killpg(victim.pid, signal.SIGKILL)
                return

    killer = Thread(target=kill)
    killer.start()
    try:
        _run(spec)
    finally:
        over.set()
        killer.join()


def test_killed_five_times_the_files_and_the_report_are_those_of_a_run_left_alone(
    made: tuple[WorkerSpec, WorkerSpec], tmp_path: Path
) -> None:
    spec, draw, reached = _evaluating(made, tmp_path / "killed"), random.Random(0), [0]
    for _ in range(KILLS):
        before = _saved(spec)
        with pytest.raises(StageFailed, match=r"evaluate-robustness: the worker was killed \(SIGKILL"):
            _run_and_kill(spec, reached[-1] + draw.randrange(1, LARGEST_LEAP), draw.uniform(0, PAUSE_S))
        assert artifacts.load(open_storage(spec.store), Paths(spec.stage, spec.fingerprint)) is None
        assert before.items() <= _saved(spec).items(), "what was saved once stays as it is"
        reached.append(len(_saved(spec)))
    assert reached[-1] < TABLES
    assert len(set(reached)) == KILLS + 1, "each attempt went on"

    flip(resume_of(spec) / min(_saved(spec)))
    log = _run(spec)
    assert any(f"{reached[-1] - 1} of {TABLES} tables are there already" in line for line in log), log
    record = found(spec)
    assert record is not None
    assert not resume_of(spec).exists()
    alone = run_alone(_evaluating(made, tmp_path / "alone"))
    assert outcome(record) == outcome(alone)
    assert len([name for name in record.files if name.endswith("-00000.parquet")]) == TABLES


def test_two_parts_make_the_files_that_one_worker_makes(made: tuple[WorkerSpec, WorkerSpec], tmp_path: Path) -> None:
    spec = _evaluating(made, tmp_path / "together", processes=2)
    log = _run(spec)
    record = found(spec)
    assert record is not None
    assert {line.partition(":")[0] for line in log if line.startswith("part ")} == {"part 0", "part 1"}
    assert outcome(record) == outcome(run_alone(_evaluating(made, tmp_path / "alone")))
    assert (folder_of(spec, record) / "report.json").exists()
