"""Accuracy, calibration and intervals, against numbers worked out by hand."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from ns_core.evaluation.metrics import (
    brier,
    confidence_histogram,
    confusion_matrix,
    correct,
    ece,
    nll,
    per_class_accuracy,
    top1,
    wilson_interval,
    worst_class_accuracy,
)

PROBS = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.4, 0.1], [0.2, 0.5, 0.3]])
LABELS = np.array([0, 1, 1, 1])
"""Right, right, wrong (0 for 1), right; class 2 has no image."""


def two_class(confidences: list[float], right: list[bool]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Predictions of class 0 with these confidences (above 0.5), right or wrong as told."""
    first = np.array(confidences)
    return np.stack([first, 1 - first], axis=1), np.where(right, 0, 1)


def test_top1_counts_the_highest_score_and_takes_logits_too() -> None:
    assert correct(PROBS, LABELS).tolist() == [True, True, False, True]
    assert top1(PROBS, LABELS) == 0.75
    assert top1(np.log(PROBS) * 10 - 3, LABELS) == 0.75


def test_a_tie_goes_to_the_lower_class() -> None:
    assert correct(np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([0, 1])).tolist() == [True, False]


def test_confusion_rows_are_the_truth_and_columns_the_prediction() -> None:
    assert confusion_matrix(PROBS, LABELS).tolist() == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]


def test_a_class_without_images_has_no_accuracy() -> None:
    accuracy = per_class_accuracy(PROBS, LABELS)
    assert accuracy.dtype == np.float64
    assert accuracy[:2].tolist() == [1.0, 2 / 3]
    assert math.isnan(accuracy[2])


def test_worst_class_ignores_classes_that_are_too_small_to_tell() -> None:
    scores = np.eye(3)[[0, 0, 0, 1, 0, 0]]
    labels = np.array([0, 0, 0, 1, 1, 2])
    assert worst_class_accuracy(scores, labels) == 0.0
    assert worst_class_accuracy(scores, labels, min_images=2) == 0.5
    assert worst_class_accuracy(scores, labels, min_images=3) == 1.0


def test_worst_class_is_the_overall_accuracy_where_all_classes_are_too_small() -> None:
    assert worst_class_accuracy(PROBS, LABELS, min_images=4) == 0.75


def test_nll_is_the_mean_log_of_the_labels_probability() -> None:
    expected = -(math.log(0.7) + math.log(0.6) + math.log(0.4) + math.log(0.5)) / 4
    assert nll(PROBS, LABELS) == pytest.approx(expected, rel=1e-12)


def test_nll_of_an_impossible_label_is_large_and_finite() -> None:
    assert nll(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(126 * math.log(2), rel=1e-12)


def test_brier_sums_the_squared_error_over_the_classes() -> None:
    expected = ((0.09 + 0.04 + 0.01) + (0.01 + 0.16 + 0.09) + (0.25 + 0.36 + 0.01) + (0.04 + 0.25 + 0.09)) / 4
    assert brier(PROBS, LABELS) == pytest.approx(expected, rel=1e-12)
    assert brier(np.array([[1.0, 0.0]]), np.array([1])) == 2.0


def test_brier_leaves_the_probabilities_alone() -> None:
    probs = PROBS.copy()
    brier(probs, LABELS)
    assert np.array_equal(probs, PROBS)


def test_ece_is_the_gap_of_each_bin_weighted_by_its_images() -> None:
    # Bins of 1/15: 0.81 and 0.85 share [12/15, 13/15); 0.55 is alone in [8/15, 9/15).
    probs, labels = two_class([0.81, 0.85, 0.85, 0.55], [True, False, False, True])
    confident = 3 / 4 * abs(1 / 3 - (0.81 + 0.85 + 0.85) / 3)
    doubtful = 1 / 4 * abs(1 - 0.55)
    assert ece(probs, labels) == pytest.approx(confident + doubtful, rel=1e-12)


def test_gaps_of_opposite_sign_cancel_within_a_bin_and_not_between_bins() -> None:
    probs, labels = two_class([0.75, 0.75, 0.75, 0.75], [True, True, True, False])
    assert ece(probs, labels) == pytest.approx(0.0, abs=1e-12)
    probs, labels = two_class([0.75, 0.85], [True, False])
    assert ece(probs, labels) == pytest.approx((0.25 + 0.85) / 2, rel=1e-12)


def test_a_confidence_on_an_edge_belongs_to_the_bin_above() -> None:
    # 0.6 = 9/15 and 0.65 share the bin [9/15, 10/15), where their gaps cancel; 0.59 lies in the bin below.
    probs, labels = two_class([0.6, 0.65], [True, False])
    assert ece(probs, labels) == pytest.approx(abs(0.5 - 0.625), rel=1e-12)
    probs, labels = two_class([0.6, 0.59], [True, False])
    assert ece(probs, labels) == pytest.approx((0.4 + 0.59) / 2, rel=1e-12)


def test_certainty_has_a_bin_of_its_own_as_in_torchmetrics() -> None:
    probs, labels = two_class([1.0, 0.95], [False, True])
    assert ece(probs, labels) == pytest.approx((1.0 + 0.05) / 2, rel=1e-12)


def test_ece_equals_its_definition_image_by_image() -> None:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(5, 0.4), size=500)
    labels = rng.integers(0, 5, 500)
    total = 0.0
    for k in range(16):
        rows = [row for row in range(500) if k / 15 <= probs[row].max() < (k + 1) / 15]
        if rows:
            accuracy = sum(probs[row].argmax() == labels[row] for row in rows) / len(rows)
            confidence = sum(probs[row].max() for row in rows) / len(rows)
            total += len(rows) / 500 * abs(accuracy - confidence)
    assert ece(probs, labels) == pytest.approx(total, rel=1e-12)


def test_float16_rows_and_a_softmax_just_past_1_are_taken() -> None:
    probs, labels = two_class([0.9, 0.7], [True, True])
    assert ece(probs.astype(np.float16), labels) == pytest.approx(ece(probs, labels), abs=1e-3)
    past = np.array([[1.0000001, 0.0]], dtype=np.float32)
    assert confidence_histogram(past, np.array([0])).images.tolist() == [0] * 15 + [1]


def test_histogram_holds_every_image_once() -> None:
    probs, labels = two_class([0.55, 0.81, 0.85, 1.0], [True, True, False, True])
    histogram = confidence_histogram(probs, labels, bins=10)
    assert histogram.images.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 1]
    assert histogram.lower[8] == pytest.approx(0.8)
    assert histogram.accuracy[8] == 0.5
    assert histogram.confidence[8] == pytest.approx(0.83)
    assert math.isnan(histogram.accuracy[0])
    assert math.isnan(histogram.confidence[0])


def test_logits_are_not_taken_for_probabilities() -> None:
    for metric in (ece, nll, brier, confidence_histogram):
        with pytest.raises(AssertionError, match="logits"):
            metric(np.array([[2.0, -1.0]]), np.array([0]))
        with pytest.raises(AssertionError, match="logits"):
            metric(np.array([[2.0, 1.0]]), np.array([0]))


def test_diverged_scores_are_refused() -> None:
    with pytest.raises(AssertionError, match="NaN"):
        top1(np.array([[np.nan, 1.0]]), np.array([0]))


def test_wilson_interval_of_published_and_extreme_counts() -> None:
    # Newcombe 1998, table I, method 3: 81 of 263, 15 of 148, 0 of 20 and 1 of 29.
    for right, total, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(right, total) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(20, 20) == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)


def test_wilson_interval_narrows_with_images_and_widens_with_level() -> None:
    low, high = wilson_interval(90, 100)
    many_low, many_high = wilson_interval(900, 1000)
    sure_low, sure_high = wilson_interval(90, 100, level=0.99)
    assert sure_low < low < many_low < 0.9 < many_high < high < sure_high
