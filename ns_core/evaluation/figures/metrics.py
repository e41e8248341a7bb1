"""How often predictions are right: overall, among the five best, and by class.

In: columns of a `Predictions` table without unreadable images: `label`, `top1` and `rank`, int [N]. Out: plain floats,
or arrays by class, in float64.
"""

from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from ns_core.evaluation.results import LEVEL

Integers = npt.NDArray[np.integer[Any]]
Right = npt.NDArray[np.bool_]
"""[N] whether each image is predicted right: the input of every paired test."""


def top5(rank: Integers) -> float:
    """Share of images with fewer than 5 classes above their label's."""
    assert len(rank), "no images to measure"
    return float((rank < 5).mean())


def per_class_accuracy(label: Integers, top1: Integers, classes: int) -> npt.NDArray[np.float64]:
    """float64 [classes]: the share of each class's images that are predicted right; NaN for a class without any."""
    _check(label, top1, classes)
    images = np.bincount(label, minlength=classes)
    right = np.bincount(label[label == top1], minlength=classes)
    share = np.full(classes, np.nan)
    np.divide(right, images, out=share, where=images > 0)
    return share


def worst_class_accuracy(label: Integers, top1: Integers, min_images: int = 1) -> float:
    """The lowest accuracy of a class that has at least `min_images` images; where none has, the overall one.

    A minimum over many small classes says little: with 3 images a class at 90 %, one in 1,000 classes is at 0
    by chance alone.
    """
    assert min_images >= 1, f"min_images {min_images}: a class without images has no accuracy"
    accuracy = per_class_accuracy(label, top1, int(max(label.max(), top1.max())) + 1)
    counted = accuracy[np.bincount(label, minlength=len(accuracy)) >= min_images]
    return float(counted.min()) if len(counted) else float((label == top1).mean())


def most_confused(label: Integers, top1: Integers, limit: int) -> list[tuple[int, int, int]]:
    """(true, predicted, images) of the mistakes, the most frequent first, at most `limit`; equals by class number."""
    wrong = label != top1
    pairs, images = np.unique(np.stack([label[wrong], top1[wrong]], axis=1), axis=0, return_counts=True)
    order = np.argsort(-images, kind="stable")[:limit]
    return [(int(pairs[row, 0]), int(pairs[row, 1]), int(images[row])) for row in order]


def wilson_interval(right: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval (1927) for the share `right` / `total` at confidence `level`.

    Unlike the normal approximation it stays within 0..1 and has a width at 0 and at `total`.
    """
    assert 0 <= right <= total, f"{right} right of {total}"
    assert total > 0, "a share of no images has no interval"
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = right / total
    shrink = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrink
    half = z / shrink * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def _check(label: Integers, top1: Integers, classes: int) -> None:
    assert label.shape == top1.shape, f"{len(top1)} predictions for {len(label)} labels"
    assert len(label), "no images to measure"
    assert label.min() >= 0, f"label {label.min()}: an image of no class has no accuracy"
    assert top1.min() >= 0, "an unreadable image has no prediction"
    assert label.max() < classes, f"label {label.max()} of {classes} classes"
    assert top1.max() < classes, f"prediction {top1.max()} of {classes} classes"
