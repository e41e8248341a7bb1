"""Calibration: by hand, against torchmetrics and scikit-learn, and the published code's mistake."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from ns_core.evaluation.figures.calibration import (
    brier,
    confidence_histogram,
    ece,
    nll,
    reliability,
    rms_calibration_error,
)


def columns(images: int, classes: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.int64]]:
    """Probabilities float32 [N, C], and the columns `confidence`, `right` of them, and labels."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.3), size=images).astype(np.float32)
    return probabilities, probabilities.max(axis=1), rng.integers(0, classes, images)


def test_ece_is_the_gap_of_each_bin_weighted_by_its_images() -> None:
    # Bins of 1/15: 0.81 and 0.85 share [12/15, 13/15); 0.55 is alone in [8/15, 9/15).
    confident = 3 / 4 * abs(1 / 3 - (0.81 + 0.85 + 0.85) / 3)
    doubtful = 1 / 4 * abs(1 - 0.55)
    found = ece(np.array([0.81, 0.85, 0.85, 0.55]), np.array([True, False, False, True]))
    assert found == pytest.approx(confident + doubtful, rel=1e-12)


def test_gaps_of_opposite_sign_cancel_within_a_bin_and_not_between_bins() -> None:
    assert ece(np.full(4, 0.75), np.array([True, True, True, False])) == pytest.approx(0.0, abs=1e-12)
    assert ece(np.array([0.75, 0.85]), np.array([True, False])) == pytest.approx((0.25 + 0.85) / 2, rel=1e-12)


def test_a_confidence_on_an_edge_belongs_to_the_bin_above() -> None:
    # 0.6 = 9/15 and 0.65 share the bin [9/15, 10/15), where their gaps cancel; 0.59 lies in the bin below.
    right = np.array([True, False])
    assert ece(np.array([0.6, 0.65]), right) == pytest.approx(abs(0.5 - 0.625), rel=1e-12)
    assert ece(np.array([0.6, 0.59]), right) == pytest.approx((0.4 + 0.59) / 2, rel=1e-12)


def test_certainty_has_a_bin_of_its_own() -> None:
    assert ece(np.array([1.0, 0.95]), np.array([False, True])) == pytest.approx((1.0 + 0.05) / 2, rel=1e-12)


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (500, 3), (5_000, 20)])
def test_ece_is_that_of_torchmetrics(images: int, classes: int) -> None:
    probabilities, confidence, label = columns(images, classes)
    oracle = multiclass_calibration_error(torch.from_numpy(probabilities), torch.from_numpy(label), classes, 15, "l1")
    assert ece(confidence, probabilities.argmax(axis=1) == label) == pytest.approx(float(oracle), abs=1e-6)


def test_a_softmax_just_past_1_counts_as_certain() -> None:
    assert confidence_histogram(np.array([1.0000001]), np.array([True])).images.tolist() == [0] * 15 + [1]


def test_histogram_holds_every_image_once_and_reliability_its_filled_bins() -> None:
    confidence, right = np.array([0.55, 0.81, 0.85, 1.0]), np.array([True, True, False, True])
    histogram = confidence_histogram(confidence, right, bins=10)
    assert histogram.images.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 1]
    assert histogram.lower[8] == pytest.approx(0.8)
    assert math.isnan(histogram.accuracy[0])
    assert math.isnan(histogram.confidence[0])
    rows = reliability(confidence, right, bins=10)
    assert rows == [pytest.approx((0.55, 1, 1)), pytest.approx((0.83, 0.5, 2)), pytest.approx((1, 1, 1))]


def test_logits_are_not_taken_for_confidences() -> None:
    for values in ([2.0], [-1.0]):
        with pytest.raises(AssertionError, match="logit"):
            ece(np.array(values), np.array([True]))
    with pytest.raises(AssertionError, match="NaN"):
        ece(np.array([np.nan]), np.array([True]))


def published(confidence: NDArray[np.float64], right: NDArray[np.bool_], dropped: int) -> float:
    """natural-adv-examples' RMS calibration error, bin by bin; it drops the last 1 bin, and means to drop none."""
    ranked = sorted(zip(confidence.tolist(), right.tolist(), strict=True), key=lambda pair: pair[0])
    bins = [ranked[first : first + 100] for first in range(0, len(ranked) // 100 * 100, 100)]
    bins[-1] += ranked[len(bins) * 100 :]
    total = 0.0
    for rows in bins[: len(bins) - dropped]:
        gap = sum(one for one, _ in rows) / len(rows) - sum(hit for _, hit in rows) / len(rows)
        total += len(rows) / len(ranked) * gap**2
    return math.sqrt(total)


@pytest.mark.parametrize("images", [100, 199, 200, 1_050, 7_500])
def test_rms_error_counts_the_last_bin_and_compat_drops_it_as_published(images: int) -> None:
    rng = np.random.default_rng(images)
    confidence = rng.permutation(np.linspace(0.1, 1, images))
    right = rng.random(images) < confidence**2
    assert rms_calibration_error(confidence, right) == pytest.approx(published(confidence, right, 0), rel=1e-9)
    compat = rms_calibration_error(confidence, right, compat=True)
    assert compat == pytest.approx(published(confidence, right, 1), rel=1e-9)
    assert (compat == 0) == (images < 200)


def test_rms_error_of_less_than_a_bin_is_refused() -> None:
    with pytest.raises(AssertionError, match="no bin"):
        rms_calibration_error(np.full(99, 0.5), np.full(99, True))


def test_nll_is_that_of_scikit_learn_and_finite_for_the_impossible() -> None:
    probabilities, _, label = columns(300, 6)
    of_label = probabilities[np.arange(300), label].astype(np.float64)
    whole = probabilities.astype(np.float64) / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    assert nll(of_label) == pytest.approx(log_loss(label, whole, labels=list(range(6))), abs=1e-5)
    assert nll(np.array([0.0])) == pytest.approx(126 * math.log(2), rel=1e-12)


@given(classes=st.integers(2, 30), seed=st.integers(0, 1_000))
def test_brier_from_the_sum_of_squares_is_the_distance_to_the_one_hot_label(classes: int, seed: int) -> None:
    probabilities, _, label = columns(40, classes, seed)
    by_hand = np.square(probabilities - np.eye(classes)[label]).sum(axis=1).mean()
    squares = np.square(probabilities.astype(np.float64)).sum(axis=1)
    assert brier(squares, probabilities[np.arange(40), label]) == pytest.approx(by_hand, abs=1e-6)


def test_brier_goes_from_0_to_2() -> None:
    one = np.array([1.0])
    assert brier(one, one) == 0
    assert brier(one, np.array([0.0])) == 2
