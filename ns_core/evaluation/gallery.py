"""What the pictures of a generation show, read from the artifacts of its stages.

In: local folders of a dataset, a selection and a report. Out: arrays and decoded images for `pictures`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ns_core.data.images import decode
from ns_core.data.index import DatasetIndex
from ns_core.evaluation.gate import paired_interval

SUREST, LEAST_SURE = 5, 5
"""Examples a class from either end of the kept ones."""

Example = tuple[NDArray[np.uint8], float]
Read = Callable[[str, int, int], bytes]


def confidences(selection: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_], float]:
    """Confidence of every image of the pool, whether it was kept, and the lowest kept confidence."""
    kept = pq.read_table(selection / "selection.parquet", columns=["confidence"])["confidence"].to_numpy()
    dropped = pq.read_table(selection / "dropped.parquet", columns=["confidence"])["confidence"].to_numpy()
    outcome = np.concatenate([np.ones(len(kept), bool), np.zeros(len(dropped), bool)])
    return np.concatenate([kept, dropped]), outcome, float(kept.min())


def examples(dataset: Path, selection: Path, read: Read, classes: int) -> list[tuple[str, list[Example]]]:
    """For each class its surest and its least sure kept images, the surest first: uint8[H,W,3], confidence.

    `read(shard, offset, size)` gives an image's bytes. Only the first `classes` classes get images; the
    others are there by name, with none.
    """
    columns = ["shard", "offset", "size", "top1", "confidence"]
    table = pq.read_table(selection / "selection.parquet", columns=columns)
    top1, confidence = table["top1"].to_numpy(), table["confidence"].to_numpy()
    groups: list[tuple[str, list[Example]]] = []
    for label, name in enumerate(DatasetIndex.load(dataset).class_names):
        members = np.flatnonzero(top1 == label) if label < classes else np.empty(0, np.int64)
        members = members[np.argsort(-confidence[members], kind="stable")]
        if len(members) > SUREST + LEAST_SURE:
            members = np.concatenate([members[:SUREST], members[-LEAST_SURE:]])
        rows = table.take(pa.array(members)).to_pylist()
        group = [(decode(read(row["shard"], row["offset"], row["size"])), row["confidence"]) for row in rows]
        groups.append((name, group))
    return groups


def gain_interval(dataset: Path, before: Path, after: Path) -> tuple[float, float]:
    """95 % paired bootstrap interval of the test accuracy of report `after` minus that of `before`."""
    labels = DatasetIndex.load(dataset).split("test").labels
    right = [np.load(report / "predictions.npz")["test"].argmax(axis=1) == labels for report in (before, after)]
    return paired_interval(right[0], right[1])


def corruption_errors(report: Path) -> Mapping[str, Mapping[str, float]]:
    """Top-1 error by corruption and severity."""
    document = json.loads((report / "report.json").read_text(encoding="utf-8"))
    errors: Mapping[str, Mapping[str, float]] = document["corruptions"]
    return errors
