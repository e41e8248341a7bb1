"""A worker is a child that says what it does, fails in words, and never outlives whoever started it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ns_core.artifacts import Paths, find
from ns_core.config import DataConfig
from ns_core.errors import StageFailed, UserError
from ns_core.launch import local
from ns_core.launch.local import run_worker
from ns_core.launch.spec import WorkerSpec
from ns_core.storage import open_storage
from tests.worker_specs import digits_spec, pictures_spec, reference, spec_of

REPOSITORY = Path(__file__).resolve().parents[3]
DEADLINE_S = 30.0
LAST_WORDS = 3000
"""Lines of 100 bytes: several times what a pipe holds."""
LAUNCHER = """
import sys
from ns_core.launch.local import run_worker
from ns_core.launch.spec import WorkerSpec
spec = WorkerSpec.model_validate_json(sys.argv[1])
run_worker(spec, print, lambda event: print(event, flush=True))
"""
TALKER = f"""
import time
from ns_core.stage import emit, on_terminate
stopping = on_terminate()
emit({{"event": "progress", "done": 1, "total": 2, "text": ""}})
while not stopping():
    time.sleep(0.01)
for line in range({LAST_WORDS}):
    print(f"{{line:099d}}")
emit({{"event": "progress", "done": 2, "total": 2, "text": ""}})
print("saved")
"""


@pytest.fixture
def spec(tmp_path: Path) -> WorkerSpec:
    return digits_spec(str(tmp_path / "store"))


@pytest.fixture
def long_work(tmp_path: Path) -> WorkerSpec:
    """Seconds of work from the first event on."""
    return pictures_spec(tmp_path)


@pytest.fixture(autouse=True)
def _no_worker_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where those that are killed leave their scratch
    yield
    assert workers_of(os.getpid()) == []


def workers_of(launcher: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(launcher).children() if "ns_core.worker" in child.cmdline()]


def worker() -> psutil.Process:
    """The one that this process started."""
    (child,) = workers_of(os.getpid())
    return child


def artifact(spec: WorkerSpec) -> Any:
    return find(open_storage(spec.store), Paths(spec.stage, spec.fingerprint))


def left_in_store(spec: WorkerSpec) -> list[Path]:
    """Files that are neither an artifact's nor saved for the next attempt."""
    return [path for path in Path(spec.store).rglob("*") if path.is_file() and path.parent.name != "resume"]


def silent(_: object) -> None:
    """A callback that does not care."""


def test_a_worker_commits_and_its_events_arrive_in_order(spec: WorkerSpec) -> None:
    events: list[dict[str, Any]] = []
    run_worker(spec, silent, events.append)
    record = artifact(spec)
    assert record.result["images"] == 1797
    assert record.inputs == {"source": "digits"}
    assert {event["event"] for event in events} == {"progress"}
    done = [event["done"] for event in events]
    assert done == sorted(done)
    assert (done[-1], events[-1]["total"]) == (1797, 1797)


def test_a_persons_mistake_in_the_worker_is_raised_here_word_for_word(tmp_path: Path) -> None:
    spec = digits_spec(str(tmp_path / "store"), labels_per_class=500)
    with pytest.raises(UserError) as caught:
        run_worker(spec, silent, silent)
    message = str(caught.value)
    assert message.startswith("data.labels_per_class 500 of 10 classes")
    assert message.count("\n") == 0
    assert left_in_store(spec) == []


def test_log_lines_arrive_and_a_failure_tells_its_cause(spec: WorkerSpec) -> None:
    broken = Path(spec.store) / Paths(spec.stage, spec.fingerprint).record
    broken.parent.mkdir(parents=True)
    broken.write_text("{}", encoding="utf-8")
    lines: list[str] = []
    with pytest.raises(StageFailed, match=r"^prepare-dataset: input 'dataset' \(.*\) is not in the store$"):
        run_worker(spec_of(DataConfig(), spec.store, {"dataset": reference(spec)}, {}), lines.append, silent)
    assert "its record cannot be read" in lines[0], "a log line of the work"
    assert lines[-1].startswith("ns_core.errors.StageFailed: "), "and the traceback, for who reads the log"


def test_a_killed_worker_is_a_failure_that_says_sigkill(long_work: WorkerSpec) -> None:
    with pytest.raises(StageFailed, match=r"^prepare-dataset: the worker was killed \(SIGKILL: out of memory"):
        run_worker(long_work, silent, lambda event: worker().kill())
    assert artifact(long_work) is None


def test_an_interrupt_stops_the_worker(long_work: WorkerSpec) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        child = worker()
        assert os.getsid(child.pid) == child.pid, "a terminal's Ctrl-C does not reach it: passing it on is our turn"
        raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        run_worker(long_work, silent, interrupt)
    assert left_in_store(long_work) == [], "it stopped half-way and cleaned up"


def test_whatever_a_callback_raises_ends_a_worker_even_if_it_ignores_sigterm(
    long_work: WorkerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "GRACE_SECONDS", 0.1)
    monkeypatch.setenv("PYTHONUNBUFFERED", "yes")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    environment: dict[str, str] = {}

    def freeze(event: dict[str, Any]) -> None:
        environment.update(worker().environ())
        worker().suspend()
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        run_worker(long_work, silent, freeze)
    assert artifact(long_work) is None
    assert environment["OMP_WAIT_POLICY"] == "passive"
    assert environment["PYTHONUNBUFFERED"] == "yes", "the caller's environment comes first"


def test_all_that_a_worker_says_while_it_is_stopped_arrives_in_the_log(
    long_work: WorkerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not even save if nobody emptied its pipe."""
    monkeypatch.setattr(local, "_command", lambda *_: ["-c", TALKER])
    lines: list[str] = []

    def interrupt(event: dict[str, Any]) -> None:
        assert event["done"] == 1, "who wants to get away is told no progress"
        raise KeyboardInterrupt("enough")

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt, match="enough"):
        run_worker(long_work, lines.append, interrupt)
    assert time.monotonic() - started < local.GRACE_SECONDS / 2
    assert lines == [*(f"{line:099d}" for line in range(LAST_WORDS)), "saved"]


def test_a_log_that_fails_does_not_keep_a_stopped_worker_from_its_end(
    long_work: WorkerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_command", lambda *_: ["-c", TALKER])
    told: list[str] = []

    def fail(line: str) -> None:
        told.append(line)
        raise OSError("the log is away")

    def interrupt(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        run_worker(long_work, fail, interrupt)
    assert told[-1] == "saved"


def test_a_second_interrupt_ends_the_grace(long_work: WorkerSpec) -> None:
    def again(*_: object) -> None:
        raise KeyboardInterrupt("again")

    def freeze(event: dict[str, Any]) -> None:
        worker().suspend()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        raise KeyboardInterrupt("once")

    before = signal.signal(signal.SIGALRM, again)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt, match="again"):
            run_worker(long_work, silent, freeze)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < local.GRACE_SECONDS


def test_a_worker_is_gone_soon_after_its_launcher_was_killed(long_work: WorkerSpec) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, long_work.model_dump_json()], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    with launcher.stdout:
        assert "progress" in launcher.stdout.readline()
        (child,) = workers_of(launcher.pid)
        launcher.kill()
        launcher.wait()
    _, alive = psutil.wait_procs([child], timeout=DEADLINE_S)
    assert alive == []
    assert left_in_store(long_work) == [], "it stopped half-way, as it was told, and cleaned up"
