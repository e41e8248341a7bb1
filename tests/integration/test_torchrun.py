"""Several workers under torchrun are to a person as one: they commit once, stop together, and fail in one sentence."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ns_core.artifacts import Paths, Record, find
from ns_core.errors import StageFailed, UserError
from ns_core.launch import local
from ns_core.launch.local import run_worker
from ns_core.launch.spec import WorkerSpec
from ns_core.stage import MARK
from ns_core.storage import open_storage
from tests.worker_specs import digits_spec, teacher_spec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCHER = """
import sys
from ns_core.launch.local import run_worker
from ns_core.launch.spec import WorkerSpec
spec = WorkerSpec.model_validate_json(sys.argv[1])
run_worker(spec, print, lambda event: print(event, flush=True))
"""
PROCESSES = 2
DEADLINE_S = 60.0
TORCHRUN_ENDS_S = 30.0
"""What torchrun grants workers that it has told to stop."""
OF_TORCHRUN = ("torch/distributed", "OMP_NUM_THREADS", "SignalException", "ChildFailedError", "exitcode")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WorkerSpec:
    spec = digits_spec(str(tmp_path_factory.mktemp("group") / "store"), holdout_images=50)
    run_worker(spec, silent, silent)
    return spec


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where those that are killed leave their scratch
    yield
    assert torchruns_of(os.getpid()) == []


def silent(_: object) -> None:
    """A callback that does not care."""


def torchruns_of(launcher: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(launcher).children() if "torch.distributed.run" in child.cmdline()]


def artifact(spec: WorkerSpec) -> Record | None:
    return find(open_storage(spec.store), Paths(spec.stage, spec.fingerprint))


def together(dataset: WorkerSpec, **settings: Any) -> WorkerSpec:
    spec = teacher_spec(dataset, **settings)
    return spec.model_copy(update={"compute": spec.compute.model_copy(update={"processes": PROCESSES})})


def endless(dataset: WorkerSpec, seed: int) -> WorkerSpec:
    """Work for hours, under a fingerprint of its own."""
    return together(dataset, steps=10**6, epoch_steps=10**6, seed=seed)


def ranks_of(torchrun: psutil.Process) -> list[psutil.Process]:
    ranks = torchrun.children()
    assert len(ranks) == PROCESSES
    return ranks


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=DEADLINE_S)[1]


def saved(spec: WorkerSpec) -> set[str]:
    resume = Paths(spec.stage, spec.fingerprint).resume
    return {key.removeprefix(resume) for key in open_storage(spec.store).list(f"{resume}/")}


class Meddler:
    """At the first progress event it does `what` to torchrun and its ranks."""

    def __init__(self, what: Callable[[psutil.Process, list[psutil.Process]], None]) -> None:
        self._what = what
        self.family: list[psutil.Process] = []
        self.since = 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        if not self.family:
            (torchrun,) = torchruns_of(os.getpid())
            ranks = ranks_of(torchrun)
            self.family, self.since = [torchrun, *ranks], time.monotonic()
            self._what(torchrun, ranks)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt("enough")


def test_two_processes_train_one_network_and_commit_once(dataset: WorkerSpec, tmp_path: Path) -> None:
    spec, lines, events = together(dataset), list[str](), list[dict[str, Any]]()
    run_worker(spec, lines.append, events.append)
    record = artifact(spec)
    assert record is not None
    assert record.result["steps"] == 2
    folder = Path(spec.store, record.paths.folder)
    assert [path.name for path in folder.glob("attempt-*")] == [f"attempt-{record.attempt}"]
    assert saved(spec) == set()
    assert [event["done"] for event in events if event["event"] == "progress"] in ([1, 2], [2])
    points = [(event["key"], event["step"]) for event in events if event["event"] == "metric"]
    assert len(points) == len(set(points)) > 0, "each is told once"
    assert sum("update 2/2" in line for line in lines) == 1
    assert not [line for line in lines if MARK in line or any(word in line for word in OF_TORCHRUN)]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(("ns-", "torchelastic"))]


def test_a_persons_mistake_that_both_make_is_told_once_and_nothing_else(dataset: WorkerSpec) -> None:
    lines: list[str] = []
    with pytest.raises(UserError, match=r"^model 'ns_efficientnet_xxs' is not known to timm"):
        run_worker(together(dataset, model="ns_efficientnet_xxs"), lines.append, silent)
    assert lines == []


def test_sigkill_of_one_rank_ends_all_and_is_told_as_such(dataset: WorkerSpec) -> None:
    meddler, lines = Meddler(lambda torchrun, ranks: ranks[1].kill()), list[str]()
    spec = endless(dataset, seed=1)
    with pytest.raises(StageFailed, match=r"^train-teacher: the worker was killed \(SIGKILL: out of memory"):
        run_worker(spec, lines.append, meddler)
    assert time.monotonic() - meddler.since < TORCHRUN_ENDS_S
    assert gone(meddler.family)
    assert artifact(spec) is None
    assert not [line for line in lines if any(word in line for word in ("exitcode", "ChildFailedError"))]


def test_last_words_on_standard_error_reach_the_log(dataset: WorkerSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    meddler, lines = Meddler(lambda torchrun, ranks: ranks[1].send_signal(signal.SIGABRT)), list[str]()
    with pytest.raises(StageFailed, match=r"^train-teacher: the worker died of SIGABRT"):
        run_worker(endless(dataset, seed=7), lines.append, meddler)
    assert gone(meddler.family)
    assert any("Fatal Python error: Aborted" in line for line in lines)


def test_an_interrupt_lets_both_save_and_stop(dataset: WorkerSpec) -> None:
    meddler, spec = Meddler(interrupt), endless(dataset, seed=2)
    with pytest.raises(KeyboardInterrupt, match="enough"):
        run_worker(spec, silent, meddler)
    assert time.monotonic() - meddler.since < local.GRACE_SECONDS
    assert gone(meddler.family)
    assert saved(spec), "a checkpoint"
    assert not list(Path(spec.store, Paths(spec.stage, spec.fingerprint).folder).glob("attempt-*"))


def test_ranks_that_ignore_sigterm_end_with_the_grace(dataset: WorkerSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def freeze(torchrun: psutil.Process, ranks: list[psutil.Process]) -> None:
        for rank in ranks:
            rank.suspend()
        interrupt()

    monkeypatch.setattr(local, "GRACE_SECONDS", 0.5)
    meddler = Meddler(freeze)
    with pytest.raises(KeyboardInterrupt, match="enough"):
        run_worker(endless(dataset, seed=3), silent, meddler)
    assert gone(meddler.family)
    assert time.monotonic() - meddler.since < TORCHRUN_ENDS_S


def test_sigkill_of_torchrun_leaves_no_rank_behind(dataset: WorkerSpec) -> None:
    meddler = Meddler(lambda torchrun, ranks: torchrun.kill())
    with pytest.raises(StageFailed, match=r"^train-teacher: the worker was killed \(SIGKILL"):
        run_worker(endless(dataset, seed=4), silent, meddler)
    assert gone(meddler.family)


def test_sigkill_of_torchrun_before_its_ranks_have_begun_leaves_none_behind(dataset: WorkerSpec) -> None:
    spec = endless(dataset, seed=5)
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, spec.model_dump_json()], cwd=REPOSITORY)
    ranks: list[psutil.Process] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(ranks) < PROCESSES and time.monotonic() < deadline:
        (torchrun,) = torchruns_of(launcher.pid) or [None]
        ranks = torchrun.children() if torchrun else []
    assert torchrun is not None
    torchrun.kill()
    assert gone(ranks)
    launcher.wait()


def test_sigkill_of_the_launcher_lets_both_save_and_stop(dataset: WorkerSpec) -> None:
    spec = endless(dataset, seed=6)
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, spec.model_dump_json()], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    with launcher.stdout:
        while "progress" not in launcher.stdout.readline():
            assert launcher.poll() is None
        (torchrun,) = torchruns_of(launcher.pid)
        family = [torchrun, *ranks_of(torchrun)]
        launcher.kill()
        launcher.wait()
    assert gone(family)
    assert saved(spec), "a checkpoint"
    assert artifact(spec) is None
