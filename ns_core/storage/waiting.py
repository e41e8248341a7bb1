"""Waiting for a server that is away: a request is sent again until it is answered or the time is over.

The waits grow and are drawn at random between nothing and their bound ("full jitter"), so that the processes of a
cluster do not come back all at once. `data.patience` does the same for a loader, which waits longer and sees SIGTERM.
"""

import logging
import random
import time
from collections.abc import Callable
from threading import Lock
from typing import TypeVar

from ns_core.errors import StageFailed

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 8.0
log = logging.getLogger("noisy_student.storage")

T = TypeVar("T")


class Waiting:
    """For all requests to one server. Threads share it: an outage is told once."""

    def __init__(
        self,
        server: str,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`seconds` from a request's first failure on it is tried again; 0: never."""
        self._server, self._seconds, self._clock, self._sleep = server, seconds, clock, sleep
        self._lock, self._away_since = Lock(), float("inf")

    def __call__(self, request: Callable[[], T], away: Callable[[Exception], bool]) -> T:
        """What `request` returns. Its error is raised as it is unless it is one of a server that is `away`.

        Raises `StageFailed` when the server is still away when the time is over.
        """
        failed_at, longest = float("inf"), _FIRST_WAIT_S
        while True:
            try:
                answer = request()
            except Exception as error:
                if not self._seconds or not away(error):
                    raise
                now = self._clock()
                failed_at = min(failed_at, now)
                said = " ".join(str(error).split())
                self._tell_away(said, now)
                if now - failed_at >= self._seconds:
                    raise StageFailed(
                        f"{self._server}: no answer for {now - failed_at:.0f} s: {said}; "
                        "check the server and run the same again"
                    ) from error
            else:
                self._tell_back()
                return answer
            left = failed_at + self._seconds - self._clock()
            self._sleep(max(0.0, min(left, random.uniform(0, longest))))
            longest = min(2 * longest, _LONGEST_WAIT_S)

    def _tell_away(self, said: str, now: float) -> None:
        with self._lock:
            if self._away_since > now:
                self._away_since = now
                log.warning("%s does not answer (%s); trying again for up to %.0f s", self._server, said, self._seconds)

    def _tell_back(self) -> None:
        if self._away_since == float("inf"):  # the usual case, without the lock
            return
        with self._lock:
            if self._away_since < float("inf"):
                log.warning("%s is back after %.0f s", self._server, self._clock() - self._away_since)
                self._away_since = float("inf")
