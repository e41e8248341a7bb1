"""Joint batches: labelled and pseudo-labelled images at an exact ratio in every step.

Step t takes positions [t*B, (t+1)*B) of the labelled stream and [t*B*ratio, (t+1)*B*ratio) of the pseudo
stream (`data.order`), so a batch is a function of the step and resuming needs the step alone. Each image's
augmentation draws from a generator keyed by (seed, stream, position): the bytes of a batch depend neither
on the number of threads nor on what was loaded before.

Threads, not processes: OpenCV and the decoders release the GIL. A batch is made by one thread, and a few
are made ahead.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ns_core.data.order import StreamOrder, stream_key
from ns_core.data.rows import Image, ImageSource, Rows

View = Callable[[Image, np.random.Generator], Image]
AUGMENTATION_KEY = 1 << 16
"""Keeps the keys of augmentation apart from those of the order."""


@dataclass(frozen=True)
class Batch:
    """One step's images. Labelled rows come first: `labelled` of them."""

    step: int
    images: Image
    """uint8[B,H,W,3]"""
    targets: NDArray[np.float32]
    """float32[B,C]"""
    labelled: int
    keys: list[str]


class JointLoader:
    """Batches from `start` to `stop`, in order."""

    def __init__(self, source: ImageSource, view: View, streams: list[tuple[Rows, int]], seed: int) -> None:
        """`streams`: rows and images a step of the labelled stream, then of the pseudo stream if any."""
        self._source, self._view, self._streams, self._seed = source, view, streams, seed
        self._orders = [StreamOrder(len(rows), seed, stream) for stream, (rows, _) in enumerate(streams)]

    def batch(self, step: int) -> Batch:
        """The batch of one step."""
        images, targets, keys = [], [], []
        for stream, (rows, count) in enumerate(self._streams):
            positions = np.arange(step * count, (step + 1) * count, dtype=np.int64)
            for position, row in zip(positions, self._orders[stream].rows(positions), strict=True):
                rng = np.random.Generator(self._key(stream, int(position)))
                images.append(self._view(self._source.image(rows, int(row)), rng))
                keys.append(rows.keys[row])
                targets.append(rows.targets[row])
        return Batch(step, np.stack(images), np.stack(targets), self._streams[0][1], keys)

    def batches(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Made by `workers` threads, at most two a thread ahead."""
        with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
            ahead: deque[Future[Batch]] = deque()
            following = start
            try:
                for _ in range(start, stop):
                    while following < stop and len(ahead) < 2 * workers:
                        ahead.append(pool.submit(self.batch, following))
                        following += 1
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _key(self, stream: int, position: int) -> np.random.Philox:
        low, high = position & 0xFFFFFFFF, position >> 32
        return stream_key(self._seed, AUGMENTATION_KEY + stream, low, high)
