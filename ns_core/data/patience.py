"""Waiting for a server that is away, so that an outage of minutes does not end training.

In: a request of `ns_core.storage`. Out: its answer, however many tries that takes within the deadline. The
waits grow and are drawn at random between nothing and their bound ("full jitter"), so that the readers of a
cluster do not come back all at once.
"""

import errno
import random
import time
from collections.abc import Callable
from threading import Lock
from typing import TypeVar

from ns_core.errors import StageFailed, Unreachable
from ns_core.stage import Stopped, log

DEADLINE_S = 300.0
"""A server that is restarted or moved to another node is back within one or two minutes."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 10.0
_SLICE_S = 0.5
"""How soon a waiting thread sees SIGTERM."""
_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""Of the local disk that the answer is written to."""

T = TypeVar("T")


class Patience:
    """Tries a request again while its server is away. Threads share one: an outage is told once."""

    def __init__(
        self,
        stopping: Callable[[], bool] = lambda: False,
        deadline: float = DEADLINE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`stopping` is asked twice a second while waiting; `deadline` is in seconds from a request's first failure."""
        self._stopping, self._deadline, self._clock, self._sleep = stopping, deadline, clock, sleep
        self._lock = Lock()
        self._away_since: float | None = None

    def __call__(self, request: Callable[[], T]) -> T:
        """What `request` returns.

        Raises `StageFailed` when it still fails after the deadline, `Stopped` after SIGTERM, and at once what a
        second try would not cure: `UserError` (no such bucket, no access), `NotFound`.
        """
        failed_at: float | None = None
        longest = _FIRST_WAIT_S
        while True:
            try:
                answer = request()
            # Nobody answering is a mistake in the endpoint's name when a run begins; a server that this run
            # has read from is more likely away.
            except (OSError, Unreachable) as error:
                if getattr(error, "errno", None) in _OURS:
                    raise
                now = self._clock()
                failed_at = now if failed_at is None else failed_at
                self._tell_away(error, now)
                if now - failed_at >= self._deadline:
                    raise StageFailed(f"no answer for {now - failed_at:.0f} s: {error}") from error
            else:
                self._tell_back()
                return answer
            self._wait(random.uniform(0, longest))
            longest = min(2 * longest, _LONGEST_WAIT_S)

    def _wait(self, seconds: float) -> None:
        end = self._clock() + seconds
        while (left := end - self._clock()) > 0:
            if self._stopping():
                raise Stopped
            self._sleep(min(left, _SLICE_S))

    def _tell_away(self, error: Exception, now: float) -> None:
        with self._lock:
            if self._away_since is None:
                self._away_since = now
                log.warning("%s; trying again for up to %.0f s", error, self._deadline)

    def _tell_back(self) -> None:
        if self._away_since is None:  # the usual case, without the lock
            return
        with self._lock:
            if self._away_since is not None:
                log.info("the server is back after %.0f s", self._clock() - self._away_since)
                self._away_since = None
