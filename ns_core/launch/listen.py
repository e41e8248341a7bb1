"""What workers say, and how they ended: their pipes, one or several at once, as log lines and events.

In: the read ends of pipes, for each an `Ear`. Out: calls of `on_log` and `on_event`, all in the caller's thread,
where Prefect's logger and a person's Ctrl-C are; then, for each worker, an `End`.
"""

import codecs
import io
import json
import os
import re
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from selectors import EVENT_READ, DefaultSelector
from typing import IO, Any

from ns_core.stage import MARK

TAIL_LINES = 10
_READ = 1 << 16
"""Bytes a pipe of Linux holds."""

LogLine = Callable[[str], None]
Event = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class End:
    """How a worker ended."""

    status: int
    """As `Popen.returncode`."""
    failure: dict[str, Any] | None
    """The event in which it said why."""
    tail: Sequence[str]
    """Its last log lines."""

    def reason(self) -> str:
        """Why it failed, in words."""
        if self.failure is not None:
            return str(self.failure["message"])
        last = "; last lines: " + " | ".join(self.tail) if self.tail else ""
        if self.status == -signal.SIGKILL:
            return f"the worker was killed (SIGKILL: out of memory, or by hand){last}"
        if self.status < 0:
            return f"the worker died of {signal.Signals(-self.status).name}{last}"
        return f"the worker ended with exit status {self.status}{last}"


class Ear:
    """Listens to one pipe: a worker's, or that of several that share one."""

    def __init__(self, on_log: LogLine, on_event: Event) -> None:
        self._on_log, self._on_event = on_log, on_event
        self._text = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
        self._rest = ""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._failures: list[dict[str, Any]] = []

    def hear(self, data: bytes) -> None:
        """Passes on the lines that are whole; b"" is the end of all."""
        *lines, self._rest = (self._rest + self._text.decode(data, final=not data)).split("\n")
        if not data and self._rest:
            lines.append(self._rest)
        for line in lines:
            self._line(line)

    def end(self, status: int) -> End:
        """Of several failures the first, which the others follow from, but before all one that a person has to act
        upon."""
        self._failures.sort(key=lambda failure: failure["kind"] != "user")
        return End(status, self._failures[0] if self._failures else None, list(self._tail))

    def _line(self, text: str) -> None:
        event = event_in(text)
        if event is None:
            self._tail.append(text)
            self._on_log(text)
        elif event["event"] == "failure":
            self._failures.append(event)
        else:
            self._on_event(event)


def listen(pipes: Sequence[IO[bytes]], ears: Sequence[Ear]) -> Iterator[int]:
    """Lets each ear hear its pipe until the last is closed at its other end; yields the numbers of those that are."""
    with DefaultSelector() as open_pipes:
        for number, pipe in enumerate(pipes):
            open_pipes.register(pipe, EVENT_READ, number)
        while open_pipes.get_map():
            for key, _ in open_pipes.select():
                data = os.read(key.fd, _READ)
                ears[key.data].hear(data)
                if not data:
                    open_pipes.unregister(key.fileobj)
                    yield key.data


def event_in(line: str) -> dict[str, Any] | None:
    """None for a log line, and for what two processes have written into each other."""
    if not line.startswith(MARK):
        return None
    with suppress(ValueError):
        event: dict[str, Any] = json.loads(line[len(MARK) :])
        return event
    return None


def end_of_group(end: End, words: str) -> End:
    """`end` of torchrun, whose standard error held `words`, as the end of the worker that was the cause.

    A worker that a signal killed could not say so, while its peers tell of a connection that was closed.
    """
    stopped = re.findall(r"Sending process (\d+) closing signal", words)
    ended = re.findall(r"exitcode *: (-?\d+) \(pid: (\d+)\)", words)
    statuses = [int(status) for status, pid in ended if pid not in stopped]
    if killed := [status for status in statuses if status < 0]:
        return replace(end, status=killed[0], failure=None)
    return replace(
        end, status=statuses[0] if statuses else end.status, tail=end.tail or words.splitlines()[-TAIL_LINES:]
    )
