"""Whether a network's confidence is what it is worth: calibration errors, likelihood and Brier score.

In: columns of a `Predictions` table without unreadable images: `confidence` float [N] (the prediction's probability),
`right` bool [N], `label_probability` and `squares` float [N]. Out: plain floats, or one row a bin. Everything is summed
in float64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Right = npt.NDArray[np.bool_]

ECE_BINS = 15

RMS_BIN = 100
"""Images of an adaptive bin (natural-adv-examples, calibration_tools.py)."""

PROBABILITY_FLOOR = float(np.finfo(np.float32).tiny)
"""What a probability of 0 counts as in the log: a float32 softmax cannot tell 0 from less than 1.2e-38."""


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


def confidence_histogram(confidence: Floats, right: Right, bins: int = ECE_BINS) -> ConfidenceHistogram:
    """The data of a reliability diagram: `ece` is the mean gap of its bins, weighted by their images."""
    _check(confidence, right)
    # Rounding of a softmax can carry a confidence just past 1.
    values = np.minimum(confidence.astype(np.float64), 1)
    lower = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(lower, values, side="right") - 1
    images = np.bincount(place, minlength=bins + 1)

    def mean(column: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        share = np.full(bins + 1, np.nan)
        np.divide(np.bincount(place, weights=column, minlength=bins + 1), images, out=share, where=images > 0)
        return share

    return ConfidenceHistogram(lower, images.astype(np.int64), mean(values), mean(right))


def reliability(confidence: Floats, right: Right, bins: int = ECE_BINS) -> list[tuple[float, float, int]]:
    """(mean confidence, accuracy, images) of each bin of `confidence_histogram` that has images, ascending."""
    found = confidence_histogram(confidence, right, bins)
    rows = zip(found.confidence.tolist(), found.accuracy.tolist(), found.images.tolist(), strict=True)
    return [row for row in rows if row[2]]


def ece(confidence: Floats, right: Right, bins: int = ECE_BINS) -> float:
    """Expected calibration error: sum over bins of (images in bin / N) * |accuracy - mean confidence|.

    Guo et al., ICML 2017, with the bins of torchmetrics 1.9 `MulticlassCalibrationError(norm="l1")`: closed
    below, open above, and a bin of its own for a confidence of exactly 1.
    """
    rows = reliability(confidence, right, bins)
    return sum(images * abs(accuracy - mean) for mean, accuracy, images in rows) / len(right)


def rms_calibration_error(confidence: Floats, right: Right, bin_size: int = RMS_BIN, compat: bool = False) -> float:
    """Root of the mean squared gap between confidence and accuracy, over bins of `bin_size` images of like confidence.

    Hendrycks et al. (natural-adv-examples): images are sorted by confidence, and the last bin takes the remainder.

    Args:
        confidence, right: [N], N at least `bin_size`.
        bin_size: images of a bin.
        compat: leave the last, most confident bin out of the sum but not out of N, as the published code does by
            mistake (its loop ends one bin early): for comparison with published figures. 0.1743 instead of 0.1881 in
            a sample of 1,000, and always 0 below two bins.
    """
    _check(confidence, right)
    assert len(right) >= bin_size, f"{len(right)} images make no bin of {bin_size}"
    order = np.argsort(confidence, kind="stable")
    starts = np.arange(len(right) // bin_size) * bin_size
    images = np.diff(starts, append=len(right))
    gap = np.add.reduceat(confidence[order].astype(np.float64) - right[order], starts)
    squares = images * np.square(gap / images)
    return float(np.sqrt((squares[:-1] if compat else squares).sum() / len(right)))


def nll(label_probability: Floats) -> float:
    """Mean negative log-likelihood of the true class in nats; a probability of 0 costs 87.3 (the floor)."""
    assert len(label_probability), "no images to measure"
    return float(-np.log(np.maximum(label_probability.astype(np.float64), PROBABILITY_FLOOR)).mean())


def brier(squares: Floats, label_probability: Floats) -> float:
    """Mean over images of the squared distance from probabilities to one-hot label: 0 to 2 (Brier 1950).

    With the sum `squares` of squared probabilities, the distance is `squares - 2 * label_probability + 1`.
    """
    assert len(squares), "no images to measure"
    return float((squares.astype(np.float64) - 2 * label_probability.astype(np.float64) + 1).mean())


def _check(confidence: Floats, right: Right) -> None:
    assert confidence.shape == right.shape, f"{len(confidence)} confidences for {len(right)} images"
    assert len(right), "no images to measure"
    assert np.isfinite(confidence).all(), "a confidence is NaN or infinite"
    assert confidence.min() >= 0, "a confidence is negative: is it a logit?"
    assert confidence.max() < 1.01, f"a confidence is {confidence.max():.3g}: is it a logit?"
