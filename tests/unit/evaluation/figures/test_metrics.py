"""Accuracy by class and its intervals, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from ns_core.evaluation.figures.metrics import (
    most_confused,
    per_class_accuracy,
    top5,
    wilson_interval,
    worst_class_accuracy,
)

LABEL = np.array([0, 1, 1, 1])
TOP1 = np.array([0, 1, 0, 1])
"""Right, right, wrong (0 for 1), right; class 2 has no image."""


def test_a_class_without_images_has_no_accuracy() -> None:
    accuracy = per_class_accuracy(LABEL, TOP1, 3)
    assert accuracy.dtype == np.float64
    assert accuracy[:2].tolist() == [1.0, 2 / 3]
    assert math.isnan(accuracy[2])


def test_worst_class_ignores_classes_that_are_too_small_to_tell() -> None:
    top1 = np.array([0, 0, 0, 1, 0, 0])
    label = np.array([0, 0, 0, 1, 1, 2])
    assert worst_class_accuracy(label, top1) == 0.0
    assert worst_class_accuracy(label, top1, min_images=2) == 0.5
    assert worst_class_accuracy(label, top1, min_images=3) == 1.0


def test_worst_class_is_the_overall_accuracy_where_all_classes_are_too_small() -> None:
    assert worst_class_accuracy(LABEL, TOP1, min_images=4) == 0.75


def test_the_top_five_are_the_ranks_below_five() -> None:
    assert top5(np.array([0, 4, 5, 900])) == 0.5


def test_the_most_frequent_mistakes_come_first_and_equals_by_class() -> None:
    label = np.array([3, 3, 3, 0, 1, 1, 2])
    top1 = np.array([1, 1, 3, 2, 0, 0, 2])
    assert most_confused(label, top1, limit=50) == [(1, 0, 2), (3, 1, 2), (0, 2, 1)]
    assert most_confused(label, top1, limit=1) == [(1, 0, 2)]
    assert most_confused(label, label, limit=5) == []


def test_images_without_a_class_or_a_prediction_have_no_accuracy() -> None:
    with pytest.raises(AssertionError, match="of no class"):
        per_class_accuracy(np.array([-1, 0]), np.array([0, 0]), 2)
    with pytest.raises(AssertionError, match="unreadable"):
        per_class_accuracy(np.array([1, 0]), np.array([-1, 0]), 2)


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
