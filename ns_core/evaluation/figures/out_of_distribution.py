"""How well low confidence tells unknown classes from known ones: AUPR, AUROC and FPR95 of ImageNet-O's protocol.

In: the confidence (largest probability) of N unknown and M known images. Out: `OutOfDistribution`. The score is minus
the confidence and the unknown images are the positive class (natural-adv-examples, eval.py).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ns_core.evaluation.figures.paired import CLUSTER_RESAMPLES, percentiles
from ns_core.evaluation.results import Estimate, OutOfDistribution

Floats = npt.NDArray[np.floating[Any]]
Curve = npt.NDArray[np.float64]

_BLOCK = 1 << 21
"""Cells of the cumulative counts that are held at once: 16 MB each."""


def detection(unknown: Floats, known: Floats, resamples: int = CLUSTER_RESAMPLES, seed: int = 0) -> OutOfDistribution:
    """The three figures; unknown and known images are resampled apart, as many of each as there are.

    Args:
        unknown, known: float [N] and [M], confidences.
        resamples, seed: of the percentile intervals.
    """
    images = len(unknown) + len(known)
    assert len(unknown), "no unknown images"
    assert len(known), "no known images"
    counts = _Ranked(unknown, known)
    whole = counts.curves(np.ones((1, images)))
    draws = np.empty((resamples, 2))
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // images)
    for first in range(0, resamples, block):
        size = min(block, resamples - first)
        weights = np.empty((size, images))
        for row in weights:
            for part in (row[: len(unknown)], row[len(unknown) :]):
                part[:] = np.bincount(rng.integers(0, len(part), len(part)), minlength=len(part))
        curves = counts.curves(weights)
        draws[first : first + size] = np.stack([average_precision(*curves), auroc(*curves)], axis=1)
    values = (float(average_precision(*whole)[0]), float(auroc(*whole)[0]))
    aupr, area = (
        Estimate(value=value, low=low, high=high, images=images)
        for value, (low, high) in zip(values, (percentiles(column) for column in draws.T), strict=True)
    )
    return OutOfDistribution(
        unknown=len(unknown), known=len(known), aupr=aupr, auroc=area, fpr95=float(fpr_at_recall(*whole)[0])
    )


def average_precision(found: Curve, alarms: Curve) -> Curve:
    """Sum over thresholds of precision times the gain in recall, as scikit-learn's `average_precision_score`: [R].

    Args:
        found, alarms: float64 [R, T], unknown and known images at or above each of T falling thresholds.
    """
    precision = found / np.maximum(found + alarms, 1)
    return np.asarray((precision * np.diff(found, axis=1, prepend=0)).sum(axis=1) / found[:, -1])


def auroc(found: Curve, alarms: Curve) -> Curve:
    """Chance that an unknown image scores above a known one, equals counting half: [R]. Arguments as above."""
    steps = np.diff(alarms, axis=1, prepend=0)
    middle = found - np.diff(found, axis=1, prepend=0) / 2
    return np.asarray((steps * middle).sum(axis=1) / (found[:, -1] * alarms[:, -1]))


def fpr_at_recall(found: Curve, alarms: Curve, recall: float = 0.95) -> Curve:
    """Share of the known images at the first threshold that finds `recall` of the unknown: [R]. Arguments as above."""
    first = (found / found[:, -1:] >= recall).argmax(axis=1)
    return np.asarray(alarms[np.arange(len(alarms)), first] / alarms[:, -1])


class _Ranked:
    """Images by falling score; those of one score are one threshold."""

    def __init__(self, unknown: Floats, known: Floats) -> None:
        confidence = np.concatenate([unknown, known])
        self._order = np.argsort(confidence, kind="stable")
        self._positive = self._order < len(unknown)
        self._last = np.flatnonzero(np.diff(confidence[self._order], append=np.inf) != 0)
        assert np.isfinite(confidence).all(), "a confidence is NaN or infinite"

    def curves(self, weights: npt.NDArray[np.float64]) -> tuple[Curve, Curve]:
        """Unknown and known images at or above each threshold, [R, T] each; `weights` [R, N + M] counts each image."""
        ranked = weights[:, self._order]
        found = np.cumsum(ranked * self._positive, axis=1)[:, self._last]
        alarms = np.cumsum(ranked * ~self._positive, axis=1)[:, self._last]
        return found, alarms
