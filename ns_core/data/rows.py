"""Rows of a stream: where each image lies, what it is trained towards, and in which order they come.

Columns, not objects: a row costs 28 bytes, its key and its target. 81 million rows with hard labels and keys of
16 characters take 4.5 GB.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ns_core.data.index import SplitIndex
from ns_core.data.order import Order, StreamOrder, WindowedOrder


class Targets(Protocol):
    """Probabilities by row: a float32[N,C] array, or `OneHot`."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.float32]:
        """float32[len(rows),C]"""


@dataclass(frozen=True)
class OneHot:
    """Targets made of labels when they are asked for: 1.28 million rows of 1,000 classes would be 5 GB."""

    labels: NDArray[np.int32]
    classes: int
    smoothing: float = 0.0
    """s in (1-s)*q + s/C."""

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        rest = np.float32(self.smoothing / self.classes)
        targets = np.full((len(rows), self.classes), rest, np.float32)
        targets[np.arange(len(rows)), self.labels[rows]] = np.float32(1 - self.smoothing) + rest
        return targets


@dataclass(frozen=True)
class Rows:
    """Images of one stream and what they are trained towards."""

    shard_names: tuple[str, ...]
    shard_codes: NDArray[np.int32]
    """int32[N], into `shard_names`."""
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    keys: pa.Array
    """Text, one array (`index.joined_text`)."""
    targets: Targets
    copies: NDArray[np.int32] | None = None
    """int32[N], how often a pass takes each row; None: once."""

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def positions(self) -> int:
        """Of a pass."""
        return len(self) if self.copies is None else int(self.copies.sum())

    def place(self, row: int) -> tuple[str, int, int]:
        """Shard, offset and size of a row's bytes."""
        return self.shard_names[self.shard_codes[row]], int(self.offsets[row]), int(self.sizes[row])

    def key(self, row: int) -> str:
        key: str = self.keys[row].as_py()
        return key

    def keys_of(self, rows: NDArray[np.int64]) -> list[str]:
        keys: list[str] = self.keys.take(pa.array(rows)).to_pylist()
        return keys


def rows_of(split: SplitIndex, targets: Targets) -> Rows:
    """A split of the index as rows of a stream."""
    columns = (split.shard_names, split.shard_codes, split.offsets, split.sizes, split.key_column)
    return Rows(*columns, targets)


class Shuffle(NamedTuple):
    """What keys the order of the streams."""

    seed: int
    window_shards: int = 0
    """Shards mixed at a time; 0: all."""


@dataclass(frozen=True)
class Stream:
    """Rows in the order of training."""

    rows: Rows
    images: int
    """A step, over all ranks."""
    order: Order


def stream_of(rows: Rows, images: int, number: int, shuffle: Shuffle) -> Stream:
    """Stream `number` (0: labelled, 1: pseudo) of a joint stream."""
    key = (shuffle.seed, number)
    if shuffle.window_shards:
        return Stream(rows, images, WindowedOrder(rows.shard_codes, shuffle.window_shards, *key, rows.copies))
    return Stream(rows, images, StreamOrder(len(rows), *key, rows.copies))
