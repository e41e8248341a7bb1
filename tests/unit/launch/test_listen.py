"""What comes through a worker's pipe, and what its end is told as."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Any

import pytest

from ns_core.launch.listen import TAIL_LINES, Ear, End, end_of_group, event_in, listen
from ns_core.stage import MARK


class Listener:
    """An ear, and all that it passed on."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.ear = Ear(self.lines.append, self.events.append)


def marked(**event: Any) -> bytes:
    return f"{MARK}{json.dumps(event)}\n".encode()


def failure(kind: str, message: str) -> bytes:
    return marked(event="failure", kind=kind, message=message)


@pytest.fixture
def pipes() -> Iterator[list[tuple[IO[bytes], int]]]:
    """Two pipes: what is listened to, and the descriptor that is written to."""
    with ExitStack() as stack:
        ends = [os.pipe() for _ in range(2)]
        yield [(stack.enter_context(open(read, "rb")), write) for read, write in ends]


def test_lines_of_two_pipes_arrive_whole_however_they_were_cut(pipes: list[tuple[IO[bytes], int]]) -> None:
    listeners = [Listener(), Listener()]
    (first, to_first), (second, to_second) = pipes
    closed = listen([first, second], [listener.ear for listener in listeners])
    for piece in (b"on", b"e\ntwo\r", b"\n", "größe".encode()[:3]):
        os.write(to_first, piece)
    os.write(to_second, b"other\xff\n" + marked(event="progress", done=1) + b"last words")
    os.close(to_second)
    assert next(closed) == 1
    assert (listeners[1].lines, listeners[1].events) == (["other�", "last words"], [{"event": "progress", "done": 1}])
    os.write(to_first, "größe".encode()[3:])
    os.close(to_first)
    assert list(closed) == [0]
    assert listeners[0].lines == ["one", "two", "größe"]


def test_a_bar_that_is_drawn_over_itself_is_lines() -> None:
    listener = Listener()
    listener.ear.hear(b"10%\r20%\r")
    listener.ear.hear(b"")
    assert listener.lines == ["10%", "20%"]


def test_of_failures_the_first_counts_but_a_persons_before_all() -> None:
    ear = Listener().ear
    ear.hear(failure("stage", "first") + failure("stage", "second"))
    assert ear.end(1).reason() == "first"
    ear.hear(failure("user", "set k"))
    assert ear.end(1).failure == {"event": "failure", "kind": "user", "message": "set k"}


def test_an_end_without_a_failure_is_told_with_the_last_lines() -> None:
    listener = Listener()
    listener.ear.hear(b"".join(b"%d\n" % number for number in range(30)))
    assert len(listener.lines) == 30
    told = "; last lines: " + " | ".join(str(number) for number in range(30 - TAIL_LINES, 30))
    assert listener.ear.end(3).reason() == f"the worker ended with exit status 3{told}"
    assert listener.ear.end(-signal.SIGSEGV).reason() == f"the worker died of SIGSEGV{told}"


_KILLED = "  exitcode  : -9 (pid: 41)  (SIGKILL)\n  traceback : Signal 9 (SIGKILL) received by PID 41\n"
_FAILED = "  exitcode  : 1 (pid: 40)\n  error_file: <N/A>\n"
_SENT = "W0731 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 41 closing signal SIGTERM\n"
_EVENT = {"event": "failure", "kind": "stage", "message": "RuntimeError: Connection closed by peer"}


@pytest.mark.parametrize(
    ("words", "told"),
    [(_KILLED + _FAILED, "SIGKILL"), (_FAILED + _KILLED, "SIGKILL"), (_SENT + _KILLED + _FAILED, "closed by peer")],
    ids=["a killed rank", "a peer noticed first", "torchrun lost patience with the peer"],
)
def test_a_signal_is_the_cause_unless_torchrun_was_ending_that_rank(words: str, told: str) -> None:
    assert told in end_of_group(End(1, _EVENT, []), words).reason()


def test_torchruns_words_are_told_when_no_worker_said_any() -> None:
    end = end_of_group(End(1, None, []), "No module named torch\n")
    assert end.reason() == "the worker ended with exit status 1; last lines: No module named torch"


def test_what_two_processes_wrote_into_each_other_is_a_log_line() -> None:
    assert event_in(MARK + '{"event": "pro@ns {"event"') is None
    assert event_in(MARK + '{"event": "progress"}') == {"event": "progress"}
