"""What pods say, live, each line once, however often the stream is cut.

A thread for each pod reads its log with times and puts whole lines into one queue; the caller takes them out in its
own thread. A stream that breaks off, or in which nothing came for half a minute, is opened again from a little before
the last line, and what was heard already is skipped by its time and, within one time, by its count.
"""

import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from ns_core.launch.kubernetes.client import Cluster, Missing
from ns_core.launch.kubernetes.names import CONTAINER

PAUSE_S = 2.0
"""Before a stream is opened again."""
MARGIN_S = 60
"""A line reaches us at most so long after its time."""
END_S = 60.0
"""For the last lines of pods that have ended; their node may be gone."""
_LINE = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|[+-]\d\d:\d\d) (.*)", re.DOTALL)
Moment = tuple[bytes, bytes]
"""Seconds as text, nanoseconds as nine digits. A node's clock keeps one zone."""


class Follower:
    """One pod."""

    def __init__(self, cluster: Cluster, pod: str, hear: Callable[[str], None], file: Path) -> None:
        """`hear` is called from a thread of this object's, `file` gets the whole log."""
        self._cluster, self.pod, self._hear, self.file = cluster, pod, hear, file
        self._last: Moment = (b"", b"")
        self._same = 0
        """Lines heard that carry the time of the last."""
        self._heard_at = time.monotonic()
        self._over, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"log-{pod}", daemon=True)
        self._thread.start()

    def ended(self) -> None:
        """The pod said its last word: what is left is read to its end, once."""
        self._over.set()

    def leave(self) -> None:
        """Nobody listens any more."""
        self._leave.set()
        self._over.set()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def _follow(self) -> None:
        with self.file.open("ab") as file:
            deadline = None
            while not self._leave.is_set():
                last = self._over.is_set()
                if last and deadline is None:
                    deadline = time.monotonic() + END_S
                whole = self._read(file.write, follow=not last)
                file.flush()
                if last and (whole or (deadline is not None and time.monotonic() > deadline)):
                    return
                (self._leave if last else self._over).wait(PAUSE_S)

    def _read(self, keep: Callable[[bytes], object], follow: bool) -> bool:
        """Until the stream ends; whether it was read to its end."""
        since, skip = None, 0
        if self._last[0]:
            since = int(time.monotonic() - self._heard_at) + 1 + MARGIN_S
            skip = self._same
        last, seen = self._last, 0
        try:
            with self._cluster.log(self.pod, CONTAINER, since, follow) as pieces:
                for line, complete in _lines(pieces):
                    if self._leave.is_set():
                        return True
                    if not complete and follow:  # cut, perhaps: it comes again
                        continue
                    moment, text = _parsed(line)
                    if moment is None:  # the node's own words, and no line of the worker's
                        continue
                    seen += moment == last
                    if moment < last or (moment == last and seen <= skip):
                        continue
                    self._same = self._same + 1 if moment == self._last else 1
                    self._last = moment
                    self._heard_at = time.monotonic()
                    keep(text + b"\n")
                    self._hear(text.decode("utf-8", "replace"))
        except Missing:
            self._over.set()
            return not follow
        except OSError:
            return False
        return True


class Followers:
    """All pods of a set; their lines come out in the caller's thread."""

    def __init__(self, cluster: Cluster, folder: Path, hear: Callable[[int, str], None]) -> None:
        """`hear(index, line)` gets each line of each pod."""
        self._cluster, self._folder, self._pass_on = cluster, folder, hear
        self._lines: SimpleQueue[tuple[int, str]] = SimpleQueue()
        self._followers: dict[str, Follower] = {}

    def see(self, pod: str, index: int, ended: bool) -> None:
        """A pod that has started, and whether it has ended."""
        if pod not in self._followers:
            self._followers[pod] = Follower(
                self._cluster, pod, lambda line: self._lines.put((index, line)), self._folder / f"{pod}.log"
            )
        if ended:
            self._followers[pod].ended()

    def others_are_gone(self, names: Collection[str]) -> None:
        """Of all pods only these are still there."""
        for name, follower in self._followers.items():
            if name not in names:
                follower.ended()

    def listen(self, seconds: float) -> None:
        """Passes on what is there, and what comes in so long."""
        for _ in range(self._lines.qsize()):
            self._pass_on(*self._lines.get_nowait())
        deadline = time.monotonic() + seconds
        with suppress(Empty):
            while (left := deadline - time.monotonic()) > 0:
                self._pass_on(*self._lines.get(timeout=left))

    def finish(self) -> None:
        """Passes on the last lines of pods that have all ended."""
        for follower in self._followers.values():
            follower.ended()
        deadline = time.monotonic() + END_S + PAUSE_S
        while not all(follower.done for follower in self._followers.values()) and time.monotonic() < deadline:
            self.listen(0.02)
        with suppress(Empty):
            while True:
                self._pass_on(*self._lines.get_nowait())

    def leave(self) -> None:
        """Without waiting."""
        for follower in self._followers.values():
            follower.leave()

    def files(self) -> list[Path]:
        """The whole logs."""
        return [follower.file for follower in self._followers.values() if follower.file.exists()]


def _lines(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Lines, and whether each was ended."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from ((line, True) for line in lines)
    if rest:
        yield rest, False


def _parsed(line: bytes) -> tuple[Moment | None, bytes]:
    """The time of a line, and what was said."""
    if match := _LINE.fullmatch(line):
        return (match[1], (match[2] or b"").ljust(9, b"0")), match[3]
    return None, line
