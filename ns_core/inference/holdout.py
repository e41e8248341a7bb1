"""The teacher on the holdout, through the very path that labels the pool; kept as a file, so that it is done once.

In: the dataset's holdout split. Out: `holdout.parquet`, the columns of the labels and `label` int32, and in its footer
what the gate goes by.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ns_core.config import InferConfig
from ns_core.data.index import DatasetIndex, SplitIndex
from ns_core.data.pseudo_labels import label_table
from ns_core.data.rows import rows_of
from ns_core.errors import StageFailed, UserError
from ns_core.inference.saved_labels import Counts, Saved, SavedLabels
from ns_core.inference.teacher_gate import Holdout, check_holdout
from ns_core.inference.watched import WatchedLabeller
from ns_core.models.temperature import fit_temperature, negative_log_likelihood

HOLDOUT_FILE = "holdout.parquet"


def examine(
    labeller: WatchedLabeller, labels: SavedLabels, index: DatasetIndex, config: InferConfig, recorded: float | None
) -> tuple[Holdout, Saved]:
    """What the teacher makes of the holdout, and the file that is kept of it.

    Raises `UserError` as `check_holdout` does, also of a file that is there already: tolerances may have changed. What
    does not pass is not kept, so that weights that were put right are looked at anew.

    Every worker of a fan-out may come first, and none waits for another: those that find no file label the holdout
    themselves, and come to the same. It costs each what a few batches of the pool do; waiting for one of them would
    take as long, and longer if that one dies.
    """
    known = labels.find([HOLDOUT_FILE])
    if HOLDOUT_FILE in known:
        found = _parsed(known[HOLDOUT_FILE].extra)
        check_holdout(found, recorded, config.holdout_tolerance)
        return found, known[HOLDOUT_FILE]
    split = index.split("holdout")
    if not len(split):
        raise UserError("the dataset has no holdout to check the teacher on: prepare it with data.holdout_images")
    logits = _logits(labeller, split)
    found = _judged(logits, split.labels)
    check_holdout(found, recorded, config.holdout_tolerance)
    texts = pa.table({"key": split.key_column.cast(pa.string()), "sha256": pa.array(split.sha256, pa.string())})
    table = label_table(texts, logits, found.temperature, config.top_k)
    table = table.append_column("label", pa.array(split.labels, pa.int32()))
    return found, labels.save(HOLDOUT_FILE, table, Counts.of(table, index.num_classes), asdict(found))


def _logits(labeller: WatchedLabeller, split: SplitIndex) -> NDArray[np.float32]:
    labelled = labeller.label(rows_of(split, np.zeros((len(split), 0), np.float32)))
    if labelled.unreadable:
        row, reason = next(iter(labelled.unreadable.items()))
        raise StageFailed(
            f"{len(labelled.unreadable)} images of the holdout cannot be read, first {split.keys[row]} ({reason}): "
            "their bytes have changed since the dataset was prepared; put them back or prepare it again"
        )
    if not np.isfinite(labelled.logits).all():
        raise StageFailed("the teacher's output on the holdout is not finite: label in float32, or train it anew")
    return labelled.logits


def _judged(logits: NDArray[np.float32], labels: NDArray[np.int32]) -> Holdout:
    temperature = fit_temperature(logits, labels)
    return Holdout(
        images=len(labels),
        right=int((logits.argmax(axis=1) == labels).sum()),
        classes=logits.shape[1],
        temperature=temperature,
        nll=(negative_log_likelihood(logits, labels), negative_log_likelihood(logits, labels, temperature)),
    )


def _parsed(document: Mapping[str, Any]) -> Holdout:
    """What `asdict` gave, after JSON has made a list of a tuple."""
    before, after = document["nll"]
    return Holdout(**{**document, "nll": (before, after)})
