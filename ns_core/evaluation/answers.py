"""From logits to the rows of a table: what a network said of each picture.

In: float32[N,C] logits, in which order the pictures are. Out: `Predictions`, computed in float64, so that a row does
not depend on those beside it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ns_core.errors import StageFailed
from ns_core.evaluation.tables import Predictions

Logits = NDArray[np.float32]


def masked(logits: Logits, classes: NDArray[np.int64] | None) -> Logits:
    """float32[N,C] with -inf at the classes that are none of `classes`, as ImageNet-A's own evaluation does before the
    softmax; the same array when all are."""
    if classes is None:
        return logits
    kept = np.full_like(logits, -np.inf)
    kept[:, classes] = logits[:, classes]
    return kept


def predictions(
    keys: Sequence[str], labels: NDArray[np.int32], logits: Logits, reasons: Sequence[str] | None = None
) -> Predictions:
    """A table of N pictures.

    Args:
        keys: of the N source images.
        labels: int32[N], -1 without one.
        logits: float32[N,C], -inf at classes that cannot be chosen; anything where there is a reason.
        reasons: why a picture could not be read, or an empty string; None: all were read.
    """
    reason = np.array([""] * len(keys) if reasons is None else reasons, np.object_)
    read, labelled = reason == "", labels >= 0
    scores = np.where(read[:, None], logits, 0).astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    odds = np.exp(scores)
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    rows = np.arange(len(keys))
    top1, label = scores.argmax(axis=1), np.maximum(labels, 0)
    own = scores[rows, label][:, None]
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < label[:, None]))
    return Predictions(
        key=np.array(keys, np.object_),
        label=labels.astype(np.int32),
        top1=np.where(read, top1, -1).astype(np.int32),
        confidence=np.where(read, probabilities[rows, top1], 0).astype(np.float32),
        label_probability=np.where(read & labelled, probabilities[rows, label], 0).astype(np.float32),
        squares=np.where(read, (probabilities**2).sum(axis=1), 0).astype(np.float32),
        rank=np.where(read & labelled, before.sum(axis=1), -1).astype(np.int32),
        reason=reason,
    )


def check_finite(logits: Logits) -> Logits:
    """The same logits. Raises `StageFailed` for those that are no numbers: no figure could be made of them."""
    if not np.isfinite(logits).all():
        raise StageFailed("the network's output is not finite: train it anew, or import other weights")
    return logits
