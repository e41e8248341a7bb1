"""How fast training goes, and what it waits for.

In: the moments between which the loop waited for a batch and made an update. Out: `Speed` of the updates since
the last look: images a second, share of the time that the data took, percentiles of the step time.
"""

import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")

_RECENT = 50
"""Updates that the progress line speaks of."""
PERCENTILES = (50, 95, 99)


class Speed(NamedTuple):
    """Of a run of updates."""

    images_per_second: float
    """Of all processes, the time of looking at the holdout and of writing checkpoints left out."""
    data_wait: float
    """Share of that time in which the loop waited for its batch, 0..1."""
    step_ms: tuple[float, float, float]
    """Milliseconds of an update, its batch's wait included: median, 95th and 99th percentile."""

    def __str__(self) -> str:
        median, slow, _ = self.step_ms
        return (
            f"{self.images_per_second:,.0f} images/s, data wait {100 * self.data_wait:.1f} %, "
            f"step {median:.0f} ms (95th percentile {slow:.0f})"
        )

    def points(self, curve: str) -> dict[str, float]:
        """As metrics, by key."""
        median, slow, slowest = self.step_ms
        return {
            f"{curve}/images_per_second": self.images_per_second,
            f"{curve}/data_wait": self.data_wait,
            f"{curve}/step_ms_p50": median,
            f"{curve}/step_ms_p95": slow,
            f"{curve}/step_ms_p99": slowest,
        }


class Meter:
    """Of one process; all of them go at one pace."""

    def __init__(self, images: int) -> None:
        """`images`: of an update, over all processes."""
        self._images = images
        self._waits: list[float] = []
        self._steps: list[float] = []
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)

    def waiting(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; each counts from when it was asked for until `done`."""
        for batch in self._timed(batches):
            self._started = time.perf_counter()
            yield batch

    def done(self) -> None:
        """The update of the batch that was given last is made."""
        wait = self._waits[-1]
        whole = wait + time.perf_counter() - self._started
        self._steps.append(whole)
        self._recent.append((wait, whole))

    def recent(self) -> str:
        """Of the last updates, for the progress line."""
        count, ordered = len(self._recent), sorted(whole for _, whole in self._recent)
        waits, steps = sum(wait for wait, _ in self._recent), sum(ordered)
        median, slow = (1e3 * ordered[min(count - 1, count * share // 100)] for share in PERCENTILES[:2])
        return (
            f"{self._images * count / steps:,.0f} images/s, data wait {100 * waits / steps:.0f} %, "
            f"step {median:.0f} ms (95th percentile {slow:.0f})"
        )

    def take(self) -> Speed | None:
        """Of the updates since it was last asked; None when there was none."""
        steps, waits = self._steps, self._waits[: len(self._steps)]
        self._steps, self._waits = [], self._waits[len(steps) :]
        return self._speed(waits, steps) if steps else None

    def _timed(self, batches: Iterator[T]) -> Iterator[T]:
        while True:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waits.append(time.perf_counter() - asked)
            yield batch

    def _speed(self, waits: list[float], steps: list[float]) -> Speed:
        total = max(sum(steps), 1e-9)
        median, slow, slowest = (float(value) for value in np.percentile(1e3 * np.array(steps), PERCENTILES))
        return Speed(self._images * len(steps) / total, sum(waits) / total, (median, slow, slowest))
