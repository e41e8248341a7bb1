"""Pseudo-labels on disk: what the teacher said of each image, one Parquet file for each shard of the pool.

Columns, one row an image of the shard:

    key, sha256      text: the image and its bytes, by which labels are joined; never by position
    reason           text: why the image could not be read, else null; then all numbers that follow are null, and
                     lists hold zeros (Arrow does not read back a fixed-size list that is null)
    top1             int32: the most probable class
    confidence       float32: its probability
    calibrated       float32: the same after temperature scaling (`models.temperature`)
    margin           float32: log-odds of the first over the second class; unlike their difference in probability it
                     still tells images apart whose confidence is 1.0 in float32
    probabilities    fp16[C]: the soft label at temperature 1, error below 2.5e-4; readers normalise again
      or, where a recipe keeps the `top_k` most probable classes:
    classes          uint16[k] (uint32 from 65,536 classes on), the most probable first
    probabilities    fp16[k]: theirs
    kept_mass        float32: their sum before rounding
    embedding        fp16[D]: the features that the classifier sees, where a recipe asks for them

The footer of each file names its teacher (`TEACHER`).
"""

import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ns_core.errors import StageFailed
from ns_core.fingerprint import SHORT

LABEL_FILES = "labels-*.parquet"
TEACHER = b"ns.teacher"
"""In a file's footer: fingerprint of the teacher whose labels it holds."""
SOFT = ("probabilities", "classes", "kept_mass")
"""The columns that hold a soft label, as far as a table has them."""
_LARGEST_HALF = float(np.finfo(np.float16).max)
"""Features beyond it would be stored as infinite."""


def label_file(shard: str) -> str:
    """Name of a shard's labels. Shards of the person's own may have equal names in different folders."""
    path = PurePosixPath(shard)
    if path.parent == PurePosixPath("."):
        return f"labels-{path.stem}.parquet"
    return f"labels-{path.stem}-{hashlib.sha256(shard.encode()).hexdigest()[:12]}.parquet"


def label_table(
    texts: pa.Table,
    logits: NDArray[np.float32],
    temperature: float = 1.0,
    top_k: int = 0,
    features: NDArray[np.float32] | None = None,
    unreadable: Mapping[int, str] = {},
) -> pa.Table:
    """The labels of one shard. `texts`: columns key and sha256, one row an image.

    `logits`: float32[N,C], `features`: float32[N,D]; rows of images that could not be read hold anything.
    `temperature`: of `calibrated`. `top_k`: classes that are kept; 0, or as many as there are: all.
    `unreadable`: row -> reason. Logits of the other rows must be finite.
    """
    count, classes = logits.shape
    assert texts.num_rows == count, (texts.num_rows, count)
    bad = np.zeros(count, bool)
    bad[list(unreadable)] = True
    logits = np.where(bad[:, None], np.float32(0), logits)
    top1, probabilities = logits.argmax(axis=1), softmax(logits)
    second = np.partition(logits, -2, axis=1)[:, -2] if classes > 1 else logits[:, 0]
    columns = {
        "key": texts["key"],
        "sha256": texts["sha256"],
        "reason": pa.array([unreadable.get(row) for row in range(count)], pa.string()),
        "top1": pa.array(top1, pa.int32(), mask=bad),
        "confidence": pa.array(probabilities.max(axis=1), pa.float32(), mask=bad),
        "calibrated": pa.array(softmax(logits / np.float32(temperature)).max(axis=1), pa.float32(), mask=bad),
        "margin": pa.array(logits.max(axis=1) - second, pa.float32(), mask=bad),
        **_soft(logits, probabilities, top_k if 0 < top_k < classes else 0, bad),
    }
    if features is not None:
        columns["embedding"] = _lists(np.clip(features, -_LARGEST_HALF, _LARGEST_HALF), np.float16, bad)
    return pa.table(columns)


def check_teacher(file: str, schema: pa.Schema, teacher: str | None) -> None:
    """That `file`, of this schema, holds labels of the teacher with this fingerprint; None: whose they are to be is not
    known. A footer that names nobody was written before footers did. Raises `StageFailed`."""
    named = (schema.metadata or {}).get(TEACHER, b"").decode()
    if teacher is not None and named not in ("", teacher):
        raise StageFailed(
            f"{file} holds labels of the teacher {named[:SHORT]}, and is among those of {teacher[:SHORT]}: delete the "
            "artifact's folder and label the pool again"
        )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[N,C] -> float32[N,C], rows that sum to 1."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def dense(table: pa.Table, classes: int) -> NDArray[np.float32]:
    """The soft labels of a table's rows, float32[N,`classes`]; every row must have one.

    Full ones as they were rounded. Of a label with the most probable classes alone, the mass that is not theirs is
    spread evenly over the others, so that confidences stay what the teacher said.
    """
    stored = table["probabilities"].combine_chunks()
    kept = stored.type.list_size
    values = np.asarray(stored.flatten().to_numpy(), np.float32).reshape(-1, kept)
    assert values.any(axis=1).all(), "an image that cannot be read has no soft label"
    if "classes" not in table.column_names:
        assert kept == classes, (kept, classes)
        return values
    places = table["classes"].combine_chunks().flatten().to_numpy().reshape(-1, kept)
    return spread_rest(values, places, table["kept_mass"].to_numpy(), classes)


def spread_rest(
    values: NDArray[np.float32], places: NDArray[np.unsignedinteger[Any]], mass: NDArray[np.float32], classes: int
) -> NDArray[np.float32]:
    """float32[N,`classes`] of the kept probabilities [N,k], their classes [N,k] and the mass they had [N]."""
    rest = np.maximum(0, 1 - mass) / np.float32(classes - values.shape[1])
    labels: NDArray[np.float32] = np.repeat(rest[:, None].astype(np.float32), classes, axis=1)
    np.put_along_axis(labels, places.astype(np.int64), values, axis=1)
    return labels


def _soft(
    logits: NDArray[np.float32], probabilities: NDArray[np.float32], top_k: int, bad: NDArray[np.bool_]
) -> dict[str, pa.Array]:
    """Classes are ranked by logit: probabilities that are equal in float32 would part the first one from `top1`."""
    if not top_k:
        return {"probabilities": _lists(probabilities, np.float16, bad)}
    order = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    kept = np.take_along_axis(probabilities, order, axis=1)
    return {
        "classes": _lists(order, np.uint16 if logits.shape[1] < 1 << 16 else np.uint32, bad),
        "probabilities": _lists(kept, np.float16, bad),
        "kept_mass": pa.array(np.minimum(kept.sum(axis=1), 1), pa.float32(), mask=bad),
    }


def _lists(values: NDArray[Any], kind: type[np.generic], bad: NDArray[np.bool_]) -> pa.Array:
    """[N,W] -> fixed-size lists of a numpy type, zeros where `bad`."""
    kept = np.where(bad[:, None], kind(0), values.astype(kind))
    return pa.FixedSizeListArray.from_arrays(pa.array(kept.ravel()), values.shape[1])
