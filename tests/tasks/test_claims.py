"""Claims: one at a time among threads and processes of a home, let go of by death, no condition of a run."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ns_core.config import ComputeConfig, DataConfig
from tasks.claims import claimed, until
from tasks.run import Run, StageCall

HOLD = """
import sys
from pathlib import Path
from tests.tasks.test_claims import call
from tasks.claims import claimed
with claimed(call(Path(sys.argv[1]), "theirs"), print):
    print("held", flush=True)
    sys.stdin.read()
"""
SECONDS = 60.0


def call(folder: Path, run_id: str, seed: int = 0, store: str = "store") -> StageCall:
    run = Run(
        run_id=run_id,
        store=str(folder / store),
        home=str(folder / "home"),
        tracking_uri="",
        experiment="",
        compute=ComputeConfig(),
    )
    return StageCall(run, 0, DataConfig(seed=seed), {})


def met(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def another(tmp_path: Path) -> "subprocess.Popen[str]":
    """A process that holds the claim until its standard input is closed, or it is killed."""
    made = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        text=True,
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert made.stdout is not None
    assert made.stdout.readline() == "held\n"
    return made


def waiting(call: StageCall, said: list[str], within: Callable[[], None]) -> threading.Thread:
    """A thread that calls `within` once it has the claim."""

    def run() -> None:
        with claimed(call, said.append):
            within()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_threads_have_a_claim_one_after_the_other(tmp_path: Path) -> None:
    inside, most, said = list[int](), list[int](), list[str]()

    def within() -> None:
        inside.append(1)
        most.append(len(inside))
        threading.Event().wait(0.01)
        inside.pop()

    threads = [waiting(call(tmp_path, f"run{number}"), said, within) for number in range(5)]
    for thread in threads:
        thread.join(SECONDS)
    assert most == [1] * 5


def test_who_waits_says_once_for_whom_and_goes_on_when_that_one_is_killed(
    tmp_path: Path, another: "subprocess.Popen[str]"
) -> None:
    said, got = list[str](), threading.Event()
    ours = call(tmp_path, "ours")
    thread = waiting(ours, said, got.set)
    met(lambda: said)
    assert said == [f"waits for theirs, which is at {ours.paths.folder}"]
    assert not got.is_set()
    another.send_signal(signal.SIGKILL)
    another.wait(SECONDS)
    thread.join(SECONDS)
    assert got.is_set()
    assert len(said) == 1


def test_other_stages_and_other_stores_are_not_waited_for(tmp_path: Path) -> None:
    said = list[str]()
    others = call(tmp_path, "other", seed=1), call(tmp_path, "other", store="elsewhere")
    with claimed(call(tmp_path, "one"), said.append):
        for other in others:
            thread = waiting(other, said, lambda: None)
            thread.join(SECONDS)
            assert not thread.is_alive()
    assert not said


def test_a_claim_inside_itself_does_not_wait_for_itself_and_is_kept(tmp_path: Path) -> None:
    one, said, got = call(tmp_path, "one"), list[str](), threading.Event()
    with claimed(one, said.append):
        with claimed(one, said.append):
            pass
        thread = waiting(call(tmp_path, "two"), said, got.set)
        met(lambda: said)
        assert not got.is_set()
    thread.join(SECONDS)
    assert got.is_set()


def test_a_wait_ends_when_all_are_stopped(tmp_path: Path) -> None:
    stop, ended = threading.Event(), list[type[BaseException]]()

    def wait() -> None:
        try:
            with until(stop), claimed(call(tmp_path, "two"), lambda line: stop.set()):
                pass
        except BaseException as error:
            ended.append(type(error))

    with claimed(call(tmp_path, "one"), print):
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        thread.join(SECONDS)
    assert ended == [KeyboardInterrupt]


def test_a_home_that_takes_no_files_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "home").write_text("no folder", encoding="utf-8")
    with claimed(call(tmp_path, "one"), print):
        pass
    assert "others may compute the same" in caplog.text


def test_what_goes_wrong_inside_is_raised_and_lets_go(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="ours"), claimed(call(tmp_path, "one"), print):
        raise OSError("ours")
    said = list[str]()
    with claimed(call(tmp_path, "two"), said.append):
        assert not said
