"""A dataset without one fold of its labelled images, which becomes the pool: so the stages that train a teacher and let
it label need no word of cross-fitting, and a fold goes through the very path that the pool goes through.

In: the index of a dataset. Out: that of another, its labels of the fold taken off, its images where they are:
the shards stay those of the whole dataset, which are looked for in the place `WHOLE` (`data.reading`). No test split.
"""

import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import JsonValue

from ns_core.artifacts import Dataset
from ns_core.data.index import CLASSES, CORRUPT_FILE, DROPPED_FILE, DUPLICATES_FILE, INDEX, SCHEMA
from ns_core.errors import UserError
from ns_core.settings import StageConfig, science

WHOLE = "whole"
"""The place of the whole dataset's own shards; a person's own keep the place they have."""
_COPIED = (CLASSES, CORRUPT_FILE, DROPPED_FILE, DUPLICATES_FILE)
"""Files of the dataset that hold for its folds too."""


class FoldConfig(StageConfig):
    """One of `folds` datasets that share their input `dataset`; its records lie beside those of whole datasets."""

    STAGE: ClassVar[str] = Dataset.stage
    VERSION: ClassVar[int] = 1

    folds: int = science(ge=2, le=20)
    """Parts that the labelled images are divided into, each class as evenly as it goes."""
    fold: int = science(ge=0)
    """The part that is held out: 0 to folds - 1."""
    seed: int = science(0, ge=0)
    """Of the division."""


def divide(keys: list[str], labels: NDArray[np.int32], folds: int, seed: int) -> NDArray[np.int32]:
    """The fold of each image: by class, in the order of sha256(seed, key), dealt in turn.

    Dealing goes on where the class before ended, so that small classes do not all lack the same folds. Raises
    `UserError` when a class would lose its only image to a fold.
    """
    counts = np.bincount(labels)
    if (few := np.flatnonzero(counts == 1)).size:
        raise UserError(
            f"class {few[0]} has one labelled image, and a teacher without it would not know the class: label another, "
            "or audit with --folds 0, by the holdout alone"
        )
    marks = [hashlib.sha256(f"{seed}/{key}".encode()).digest() for key in keys]
    order = sorted(range(len(keys)), key=lambda row: (labels[row], marks[row]))
    parts = np.empty(len(keys), np.int32)
    parts[order] = np.arange(len(keys)) % folds
    return parts


def write_fold(source: Path, target: Path, config: FoldConfig) -> dict[str, JsonValue]:
    """The dataset's `index.parquet` and small files below `source`, with the fold as pool, below `target`.

    Out: its totals, as prepare-dataset tells them.
    """
    table = pq.read_table(source / INDEX)
    table = table.filter(pc.is_in(table["split"], pa.array(["labeled", "holdout"])))
    own = pc.equal(table["split"], "labeled").to_numpy(zero_copy_only=False)
    if config.folds > own.sum():
        raise UserError(f"--folds {config.folds}: the dataset has {own.sum()} labelled images; take fewer folds")
    labelled = table.filter(pa.array(own))
    parts = divide(labelled["key"].to_pylist(), labelled["label"].to_numpy(), config.folds, config.seed)
    out = own.copy()
    out[own] = parts == config.fold
    split = pc.if_else(pa.array(out), "pool", table["split"].combine_chunks())
    label = pc.if_else(pa.array(out), pa.scalar(None, pa.int32()), table["label"].combine_chunks())
    shard = [name if "/" in name else f"{WHOLE}/{name}" for name in table["shard"].to_pylist()]
    columns = {"split": split, "label": label, "shard": pa.array(shard, pa.string())}
    columns = {name: columns.get(name, table[name]) for name in SCHEMA.names}
    made = pa.table(columns, schema=SCHEMA).sort_by([("split", "ascending"), ("key", "ascending")])
    pq.write_table(made, target / INDEX, compression="zstd")
    for name in _COPIED:
        if (source / name).exists():
            (target / name).write_bytes((source / name).read_bytes())
    counts = {
        split: int(pc.sum(pc.equal(made["split"], split)).as_py() or 0) for split in ("labeled", "pool", "holdout")
    }
    return {"fold": config.fold, "folds": config.folds, **counts, "test": 0}
