"""What a teacher's labels are worth, by labelled images that were kept from it: precision, coverage, calibration.

In: `HeldOut`, one entry an image, and how much each true class weighs. Out: shares with intervals. A share of a pool
is estimated, so its interval covers the luck of the held-out images and that of the pool's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ns_core.artifacts import Frozen
from ns_core.evaluation.figures import calibration
from ns_core.selection.precision import LEVEL, clopper_pearson

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]

_COLUMNS = ("label", "top1", "confidence", "calibrated", "fold")
HOLDOUT = -1
"""The fold of an image of the holdout, which the standing teacher itself predicted."""


@dataclass(frozen=True)
class HeldOut:
    """Predictions on labelled images by a network that was not trained on them; arrays of one length N."""

    label: Ints
    """The true class."""
    top1: Ints
    """The predicted one."""
    confidence: Floats
    """Its probability, as it is."""
    calibrated: Floats
    """The same after temperature scaling."""
    fold: Ints
    """Which fold's teacher predicted it; `HOLDOUT`: the standing one."""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def right(self) -> Mask:
        return np.asarray(self.label == self.top1)

    def score(self, calibrated: bool) -> Floats:
        """What a selection goes by."""
        return self.calibrated if calibrated else self.confidence

    def where(self, mask: Mask) -> "HeldOut":
        """Some of them."""
        return HeldOut(*(getattr(self, name)[mask] for name in _COLUMNS))


def joined(parts: "list[HeldOut]") -> HeldOut:
    """All of them, one part after the other."""
    return HeldOut(*(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS))


class Share(Frozen):
    """A share with its interval; all None where no image tells of it."""

    value: float | None
    low: float
    high: float
    images: int
    """Held-out images that it rests on."""


UNKNOWN = Share(value=None, low=0.0, high=1.0, images=0)


def effective(weights: Floats) -> float:
    """Kish's effective sample size: (sum)^2 / sum of squares; 0 of nothing."""
    total = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / total if total else 0.0


def share(right: Mask, weights: Floats, among: float = np.inf, level: float = LEVEL) -> Share:
    """The weighted share that is right, of `among` images of a pool that are drawn like these.

    Of n held-out and m other images the variance of the difference is p(1-p)(1/n + 1/m): so the interval is that of a
    sample of nm/(n+m).
    """
    size = effective(weights)
    if not size:
        return UNKNOWN
    value = 1.0 if right[weights > 0].all() else float(weights[right].sum() / weights.sum())
    together = size if np.isinf(among) else size * among / max(size + among, 1e-12)
    low, high = clopper_pearson(np.array(value), np.array(together), level)
    return Share(value=value, low=float(low), high=float(high), images=int(np.count_nonzero(weights)))


@dataclass(frozen=True)
class AtCut:
    """What a selection keeps."""

    classes: list[Share]
    """Of what is kept of each class, the share whose label is right."""
    overall: Share
    """Of all kept images."""
    unseen: int
    """Kept images of classes that no held-out image tells of; `overall` takes them to be like the others."""


def at_cut(held: HeldOut, score: Floats, cuts: Floats, kept: Ints, weights: Floats) -> AtCut:
    """The precision of a selection that keeps `kept[c]` images of class c, down to the confidence `cuts[c]`.

    `weights`: by true class, how much more frequent it is in the pool than here. Each class counts in `overall` by
    what is kept of it, so that a class which the cut favours is not mistaken for its share of the held-out images.
    """
    cuts, own = np.asarray(cuts, np.float64), weights[held.label]
    above = score >= cuts[held.top1] - 1e-6  # a cut is a confidence of the pool, rounded as float32
    classes, counted = [], np.zeros(len(held))
    for label, count in enumerate(kept.tolist()):
        mine = above & (held.top1 == label)
        classes.append(share(held.right[mine], own[mine], count) if count else UNKNOWN)
        if count and own[mine].sum() > 0:
            counted[mine] = count * own[mine] / own[mine].sum()
    total = int(kept.sum())
    seen = sum(int(count) for count, one in zip(kept, classes, strict=True) if one.value is not None)
    return AtCut(classes, share(held.right, counted, total) if total else UNKNOWN, total - seen)


THRESHOLDS = (*(step / 20 for step in range(20)), 0.99)
CLASS_THRESHOLDS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Of the curve of a class."""


class Point(Frozen):
    """One confidence, as a single threshold for all classes."""

    threshold: float
    precision: Share
    coverage: float
    """Share of the pool at or above it."""
    images: int
    """Of the pool."""
    recall: float
    """Share of the held-out images that would be kept with the right label."""


def curve(
    held: HeldOut,
    score: Floats,
    pool: Floats,
    pool_images: int,
    weights: Floats,
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[Point]:
    """Precision and coverage at some thresholds. `pool`: confidences of `pool_images`, or of a sample of them.

    For one class: what is predicted as this class, of both.
    """
    points, own = [], weights[held.label]
    for threshold in thresholds:
        above, coverage = score >= threshold - 1e-6, float(np.mean(pool >= threshold - 1e-6)) if len(pool) else 0.0
        images = round(coverage * pool_images)
        points.append(
            Point(
                threshold=float(threshold),
                precision=share(held.right[above], own[above], max(images, 1)),
                coverage=coverage,
                images=images,
                recall=float((own * (above & held.right)).sum() / own.sum()) if own.sum() else 0.0,
            )
        )
    return points


class Calibration(Frozen):
    """Whether confidence means what it says, before and after temperature scaling."""

    accuracy: Share
    ece: tuple[float, float]
    """Expected calibration error, `calibration.ECE_BINS` bins."""
    mean_confidence: tuple[float, float]
    reliability: tuple[list[tuple[float, float, int]], list[tuple[float, float, int]]]
    """(mean confidence, accuracy, images) of each bin with images."""


def calibrated(held: HeldOut) -> Calibration:
    """Of held-out images, at least one."""
    both = (held.confidence, held.calibrated)
    return Calibration(
        accuracy=share(held.right, np.ones(len(held))),
        ece=(calibration.ece(both[0], held.right), calibration.ece(both[1], held.right)),
        mean_confidence=(float(both[0].mean()), float(both[1].mean())),
        reliability=(calibration.reliability(both[0], held.right), calibration.reliability(both[1], held.right)),
    )
