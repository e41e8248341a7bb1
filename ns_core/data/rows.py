"""Rows of a stream: where each image lies and what it is trained towards; and their decoded pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ns_core.data.images import decode
from ns_core.data.index import ShardReader, SplitIndex
from ns_core.data.transforms import eval_view

CACHE_BYTES = 256 << 20
"""Decoded images kept for the next epoch: a small data set is decoded once (1,797 digits: 5 MB)."""

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Rows:
    """Images of one stream and what they are trained towards."""

    shards: list[str]
    """Shard of each row."""
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    keys: list[str]
    targets: NDArray[np.float32]
    """float32[N,C]: probabilities, one-hot for labels."""

    def __len__(self) -> int:
        return len(self.keys)


class ImageSource:
    """Decoded images of a dataset by row, the recent ones from memory."""

    def __init__(self, reader: ShardReader, limit: int = CACHE_BYTES) -> None:
        self._reader, self._room, self._lock = reader, limit, Lock()
        self._cache: dict[tuple[str, int], Image] = {}

    def image(self, rows: Rows, row: int) -> Image:
        """uint8[H,W,3]; the caller must not write into it."""
        place = (rows.shards[row], int(rows.offsets[row]))
        cached = self._cache.get(place)
        if cached is not None:
            return cached
        image = decode(self._reader.read(*place, int(rows.sizes[row])))
        with self._lock:
            if place not in self._cache and image.nbytes <= self._room:
                self._room -= image.nbytes
                self._cache[place] = image
        return image


def rows_of(split: SplitIndex, targets: NDArray[np.float32]) -> Rows:
    """A split of the index as rows of a stream. targets: float32[N,C]."""
    shards = [split.shard_names[code] for code in split.shard_codes]
    return Rows(shards, split.offsets, split.sizes, list(split.keys), targets)


def one_hot(labels: NDArray[np.int32], classes: int, smoothing: float = 0.0) -> NDArray[np.float32]:
    """float32[N,C], with label smoothing (1-s)*q + s/C."""
    hot: NDArray[np.float32] = np.eye(classes, dtype=np.float32)[labels]
    return hot * np.float32(1 - smoothing) + np.float32(smoothing / classes)


def eval_batches(source: ImageSource, rows: Rows, view: tuple[int, float], size: int) -> Iterator[Image]:
    """Clean central views of all rows in their order, `size` at a time: uint8[<=size,H,W,3].

    `view` is (side, crop_pct) as `transforms.eval_view` takes them.
    """
    for first in range(0, len(rows), size):
        chunk = range(first, min(first + size, len(rows)))
        yield np.stack([eval_view(source.image(rows, row), *view) for row in chunk])
