"""What a classifier's predictions are worth: accuracy, its spread over the classes, and calibration.

In: `scores` float [N, C] (probabilities, or logits where only the order counts) and `labels` int [N] in
0..C-1. Out: plain floats, or arrays by class or by confidence bin. Everything is summed in float64,
whatever the precision of the scores.

Where two classes share the highest score, the one with the lower index is the prediction.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]

ECE_BINS = 15

PROBABILITY_FLOOR = float(np.finfo(np.float32).tiny)
"""What a probability of 0 counts as in the log: a float32 softmax cannot tell 0 from less than 1.2e-38."""


def correct(scores: Scores, labels: Labels) -> npt.NDArray[np.bool_]:
    """bool [N]: whether the highest score of each image is its label's. The input of every paired test."""
    _check(scores, labels)
    return np.asarray(scores.argmax(axis=1) == labels)


def top1(scores: Scores, labels: Labels) -> float:
    """Share of images whose highest score is their label's, 0 to 1."""
    return float(correct(scores, labels).mean())


def confusion_matrix(scores: Scores, labels: Labels) -> npt.NDArray[np.int64]:
    """int64 [C, C]: images counted by true class (row) and predicted class (column)."""
    _check(scores, labels)
    classes = scores.shape[1]
    cells = labels.astype(np.int64) * classes + scores.argmax(axis=1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def per_class_accuracy(scores: Scores, labels: Labels) -> npt.NDArray[np.float64]:
    """float64 [C]: the share of each class's images that are predicted right; NaN for a class without any."""
    confusion = confusion_matrix(scores, labels)
    return _share(confusion.diagonal(), confusion.sum(axis=1))


def worst_class_accuracy(scores: Scores, labels: Labels, min_images: int = 1) -> float:
    """The lowest accuracy of a class that has at least `min_images` images; where none has, the overall one.

    A minimum over many small classes says little: with 3 images a class at 90 %, one in 1,000 classes is at 0
    by chance alone.
    """
    assert min_images >= 1, f"min_images {min_images}: a class without images has no accuracy"
    accuracy = per_class_accuracy(scores, labels)
    counted = accuracy[np.bincount(labels, minlength=len(accuracy)) >= min_images]
    return float(counted.min()) if len(counted) else top1(scores, labels)


def nll(probs: Scores, labels: Labels) -> float:
    """Mean negative log-likelihood of the true class in nats; a probability of 0 costs 87.3 (the floor)."""
    _check_probabilities(probs, labels)
    of_label = probs[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(of_label, PROBABILITY_FLOOR)).mean())


def brier(probs: Scores, labels: Labels) -> float:
    """Mean over images of the squared distance from probabilities to one-hot label: 0 to 2 (Brier 1950)."""
    _check_probabilities(probs, labels)
    error = probs.astype(np.float64)
    error[np.arange(len(labels)), labels] -= 1
    return float(np.square(error).sum(axis=1).mean())


@dataclass(frozen=True)
class ConfidenceHistogram:
    """Images by the probability of their prediction, in `bins` bins of equal width and one for exactly 1.

    Bin k holds `lower[k] <= confidence < lower[k + 1]`; the last, `lower[bins] == 1`, holds confidence 1.
    """

    lower: npt.NDArray[np.float64]
    """[bins + 1] lower edges k / bins."""
    images: npt.NDArray[np.int64]
    """[bins + 1] images in the bin."""
    confidence: npt.NDArray[np.float64]
    """[bins + 1] mean confidence in the bin; NaN where it is empty."""
    accuracy: npt.NDArray[np.float64]
    """[bins + 1] share predicted right in the bin; NaN where it is empty."""


def confidence_histogram(probs: Scores, labels: Labels, bins: int = ECE_BINS) -> ConfidenceHistogram:
    """The data of a reliability diagram: `ece` is the mean gap of its bins, weighted by their images."""
    _check_probabilities(probs, labels)
    # Rounding of a softmax can carry a confidence just past 1.
    confidence = np.minimum(probs.max(axis=1).astype(np.float64), 1)
    lower = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(lower, confidence, side="right") - 1
    images = np.bincount(place, minlength=bins + 1)

    def mean(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return _share(np.bincount(place, weights=values, minlength=bins + 1), images)

    return ConfidenceHistogram(lower, images.astype(np.int64), mean(confidence), mean(correct(probs, labels)))


def ece(probs: Scores, labels: Labels, bins: int = ECE_BINS) -> float:
    """Expected calibration error: sum over bins of (images in bin / N) * |accuracy - mean confidence|.

    Guo et al., ICML 2017, with the bins of torchmetrics 1.9 `MulticlassCalibrationError(norm="l1")`: closed
    below, open above, and a bin of its own for a confidence of exactly 1.
    """
    histogram = confidence_histogram(probs, labels, bins)
    gaps = np.abs(histogram.accuracy - histogram.confidence)
    return float(np.nansum(histogram.images * gaps) / len(labels))


def wilson_interval(right: int, total: int, level: float = 0.95) -> tuple[float, float]:
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


def _share(part: npt.NDArray[Any], whole: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]:
    """`part / whole` in float64, NaN where the whole is 0."""
    share = np.full(len(whole), np.nan)
    np.divide(part, whole, out=share, where=whole > 0)
    return share


def _check(scores: Scores, labels: Labels) -> None:
    assert scores.ndim == 2, f"scores are [N, C], got shape {scores.shape}"
    assert labels.shape == scores.shape[:1], f"{labels.shape} labels for {scores.shape} scores"
    assert len(labels), "no images to measure"
    assert np.isfinite(scores).all(), "scores hold NaN or infinity"
    assert labels.min() >= 0, f"label {labels.min()} is below 0"
    assert labels.max() < scores.shape[1], f"label {labels.max()} of {scores.shape[1]} classes"


def _check_probabilities(probs: Scores, labels: Labels) -> None:
    """Catches logits passed for probabilities; 0.01 leaves room for rows stored as float16."""
    _check(probs, labels)
    assert probs.min() >= 0, "a probability is negative: are these logits?"
    off = float(np.abs(probs.sum(axis=1, dtype=np.float64) - 1).max())
    assert off < 0.01, f"probabilities of an image sum to 1 +- {off:.3g}: are these logits?"
