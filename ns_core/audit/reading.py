"""Labels of artifacts as arrays for an audit: of the holdout, of a fold, of the pool or an even sample of it.

In: open files of pseudo-label artifacts (`data.pseudo_labels`) and indexes of datasets. Out: `HeldOut`, `Pool`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ns_core.audit.figures import HOLDOUT, Floats, HeldOut
from ns_core.data.pseudo_labels import dense
from ns_core.errors import StageFailed
from ns_core.selection.class_thresholds import HOLDOUT_FILE

SAMPLED, SAMPLED_NUMBERS = 200_000, 20_000_000
"""Images of a pool that are looked at, and probabilities of them, at most: 20,000 images of 1,000 classes."""
SAMPLED_FILES = 256
"""Label files they are taken from, at most, spread over all."""
_NARROW = ["key", "top1", "confidence", "calibrated"]

Open = Callable[[str], BinaryIO]
"""Name of a file of an artifact -> the file, to be read and sought."""


@dataclass(frozen=True)
class Pool:
    """What a teacher says of a pool's readable images, or of a sample."""

    top1: NDArray[np.int32]
    confidence: Floats
    calibrated: Floats
    probabilities: Floats
    """[N,C], as they are."""
    images: int
    """Of the whole pool, readable or not."""

    def score(self, calibrated: bool) -> Floats:
        return self.calibrated if calibrated else self.confidence


def holdout(open_: Open, classes: int) -> tuple[HeldOut, Floats]:
    """The holdout as the labels' teacher predicted it, and its probabilities [N,C]."""
    with open_(HOLDOUT_FILE) as file:
        table = pq.read_table(file)
    return _held(table, table["label"].to_numpy(), HOLDOUT), dense(table, classes)


def fold(open_: Open, files: Sequence[str], labels: dict[str, int], number: int) -> HeldOut:
    """The images of fold `number`, labelled as a pool is. `labels`: key -> true class.

    Raises `StageFailed` for an image that is none of the fold's.
    """
    tables = []
    for name in files:
        with open_(name) as file:
            tables.append(pq.read_table(file, columns=[*_NARROW, "reason"]))
    table = pa.concat_tables(tables)
    table = table.filter(pc.is_null(table["reason"]))
    keys = table["key"].to_pylist()
    if strange := next((key for key in keys if key not in labels), None):
        raise StageFailed(
            f"{strange} is no labelled image of the dataset, and stands among the labels of fold {number}"
        )
    return _held(table, np.array([labels[key] for key in keys], np.int32), number)


def labelled(index: BinaryIO) -> dict[str, int]:
    """Key -> true class of the labelled split."""
    table = pq.read_table(index, columns=["key", "label"], filters=pc.field("split") == "labeled")
    return dict(zip(table["key"].to_pylist(), table["label"].to_pylist(), strict=True))


def pool(open_: Open, files: Sequence[str], images: int, classes: int) -> Pool:
    """All of a small pool. Of a large one equally many rows of up to `SAMPLED_FILES` files, drawn with a fixed seed."""
    limit = max(1, min(SAMPLED, SAMPLED_NUMBERS // classes))
    if images > limit and len(files) > SAMPLED_FILES:
        files = [files[place] for place in np.linspace(0, len(files) - 1, SAMPLED_FILES).astype(int)]
    draw, parts = np.random.default_rng(0), []
    for name in files:
        with open_(name) as file:
            table = pq.read_table(file)
        table = table.filter(pc.is_null(table["reason"]))
        if images > limit and table.num_rows > (each := max(1, limit // len(files))):
            table = table.take(np.sort(draw.choice(table.num_rows, each, replace=False)))
        if table.num_rows:
            parts.append((table, dense(table, classes)))
    if not parts:
        raise StageFailed("no image of the pool could be read: there is nothing to audit")

    def column(name: str) -> NDArray[np.float32]:
        values: NDArray[np.float32] = np.concatenate([table[name].to_numpy() for table, _ in parts])
        return values

    return Pool(
        column("top1").astype(np.int32),
        column("confidence"),
        column("calibrated"),
        np.concatenate([values for _, values in parts]),
        images,
    )


def _held(table: pa.Table, labels: NDArray[np.int32], number: int) -> HeldOut:
    top1, confidence, calibrated = (table[name].to_numpy() for name in _NARROW[1:])
    return HeldOut(labels, top1, confidence, calibrated, np.full(len(labels), number, np.int16))
