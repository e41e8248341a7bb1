"""Precision and its interval: exact where it can be worked out, and covering the truth as often as it says."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from ns_core.audit.figures import (
    HOLDOUT,
    HeldOut,
    at_cut,
    calibrated,
    curve,
    effective,
    joined,
    share,
)
from ns_core.selection.precision import clopper_pearson

CLASSES = 4


def drawn(rng: np.random.Generator, images: int, prior: np.ndarray, fold: int = HOLDOUT) -> HeldOut:
    """A teacher that is right with the probability that it says, and takes class c for c + 1 where it is wrong."""
    label = rng.choice(CLASSES, images, p=prior).astype(np.int32)
    confidence = rng.uniform(0.4, 1.0, images).astype(np.float32)
    right = rng.random(images) < confidence - 0.4 * (label == 0)
    top1 = np.where(right, label, (label + 1) % CLASSES).astype(np.int32)
    return HeldOut(label, top1, confidence, confidence, np.full(images, fold, np.int16))


EVEN = np.full(CLASSES, 1 / CLASSES)


@pytest.mark.parametrize(("right", "trials"), [(0, 10), (7, 10), (10, 10), (1, 1), (480, 500)])
def test_the_interval_of_whole_counts_is_scipys_exact_one(right: int, trials: int) -> None:
    low, high = clopper_pearson(np.array(right / trials), np.array(float(trials)))
    exact = binomtest(right, trials).proportion_ci(method="exact")
    assert (float(low), float(high)) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_an_interval_covers_at_its_level_for_every_share() -> None:
    for trials in (20, 60):
        counts = np.arange(trials + 1)
        low, high = clopper_pearson(counts / trials, np.full(trials + 1, float(trials)))
        for true in (0.5, 0.8, 0.95, 0.99):
            inside = (low <= true) & (true <= high)
            assert binom.pmf(counts, trials, true)[inside].sum() >= 0.95


def test_nothing_held_out_says_nothing() -> None:
    none = share(np.zeros(0, bool), np.zeros(0))
    assert (none.value, none.low, none.high, none.images) == (None, 0.0, 1.0, 0)


def test_even_weights_change_nothing_and_uneven_ones_widen() -> None:
    right = np.arange(100) % 10 != 0
    plain, same = share(right, np.ones(100)), share(right, np.full(100, 7.0))
    assert (plain.value, plain.low, plain.high) == pytest.approx((same.value, same.low, same.high))
    weights = np.where(np.arange(100) % 2 == 0, 3.0, 1.0)
    assert effective(weights) == pytest.approx(80)
    uneven = share(right, weights)
    assert uneven.high - uneven.low > plain.high - plain.low


def test_a_small_pool_has_luck_of_its_own() -> None:
    right = np.arange(300) % 20 != 0
    alone, small = share(right, np.ones(300)), share(right, np.ones(300), among=50)
    assert small.value == alone.value
    assert small.high - small.low > 2 * (alone.high - alone.low)


def test_each_class_counts_by_what_is_kept_of_it() -> None:
    """Class 0 is right 9 times of 10, class 1 5 of 10; of class 1 thrice as much is kept."""
    top1 = np.repeat([0, 1], 10).astype(np.int32)
    label = top1.copy()
    label[[0, 10, 11, 12, 13, 14]] = [1, 0, 0, 0, 0, 0]
    confidence = np.full(20, 0.9, np.float32)
    held = HeldOut(label, top1, confidence, confidence, np.full(20, HOLDOUT, np.int16))
    found = at_cut(held, confidence, np.array([0.5, 0.5]), np.array([100, 300]), np.ones(2))
    assert [one.value for one in found.classes] == pytest.approx([0.9, 0.5])
    assert found.overall.value == pytest.approx(0.6)
    above = at_cut(held, confidence, np.array([0.5, 0.95]), np.array([100, 300]), np.ones(2))
    assert (above.classes[1].value, above.unseen) == (None, 300)
    assert above.overall.value == pytest.approx(0.9)


def test_an_image_exactly_at_the_cut_is_kept() -> None:
    confidence = np.array([0.6, 0.59], np.float32)
    held = HeldOut(np.zeros(2, np.int32), np.zeros(2, np.int32), confidence, confidence, np.zeros(2, np.int16))
    assert at_cut(held, confidence, np.array([0.6]), np.array([5]), np.ones(1)).overall.images == 1


def test_the_stated_interval_holds_the_true_precision_of_a_shifted_pool_in_95_of_100_draws() -> None:
    """500 draws at 95 % give 475 +- 10. Class 1, which class 0 is taken for, is told wrongly without weights."""
    rng, prior = np.random.default_rng(3), np.array([0.7, 0.1, 0.1, 0.1])
    cuts, inside, of_class, unweighted = np.array([0.6, 0.8, 0.6, 0.6]), 0, 0, 0
    for _ in range(500):
        held, pool = drawn(rng, 300, EVEN), drawn(rng, 1000, prior)
        kept = pool.confidence >= cuts[pool.top1]
        counts = np.bincount(pool.top1[kept], minlength=CLASSES)
        weighted, plain = (at_cut(held, held.confidence, cuts, counts, one) for one in (prior / EVEN, np.ones(CLASSES)))
        truth, own = pool.right[kept].mean(), pool.right[kept & (pool.top1 == 1)].mean()
        inside += weighted.overall.low <= truth <= weighted.overall.high
        of_class += weighted.classes[1].low <= own <= weighted.classes[1].high
        unweighted += plain.classes[1].low <= own <= plain.classes[1].high
    assert inside >= 465
    assert of_class >= 465
    assert unweighted < 300


def test_the_curve_falls_in_coverage_and_rises_in_precision() -> None:
    rng = np.random.default_rng(1)
    held, pool = drawn(rng, 3000, EVEN), drawn(rng, 2000, EVEN)
    points = curve(held, held.confidence, pool.confidence, 20_000, np.ones(CLASSES))
    coverage = [point.coverage for point in points]
    assert coverage == sorted(coverage, reverse=True)
    assert coverage[0] == 1.0
    assert points[0].images == 20_000
    by = {round(point.threshold, 2): point for point in points}
    first, later = by[0.4].precision.value, by[0.9].precision.value
    assert first is not None
    assert later is not None
    assert later > first + 0.1
    truth = float(np.mean(pool.right[pool.confidence >= 0.9]))
    assert by[0.9].precision.low <= truth <= by[0.9].precision.high
    assert by[0.9].recall < by[0.4].recall < 1


def test_temperature_shows_in_the_calibration_error() -> None:
    rng = np.random.default_rng(2)
    right = rng.random(2000) < 0.9
    label = np.zeros(2000, np.int32)
    timid = np.full(2000, 0.6, np.float32)
    held = HeldOut(label, np.where(right, 0, 1).astype(np.int32), timid, timid + 0.3, label.astype(np.int16))
    found = calibrated(held)
    assert found.ece[0] == pytest.approx(0.3, abs=0.03)
    assert found.ece[1] < 0.03
    assert found.mean_confidence == pytest.approx((0.6, 0.9))


def test_parts_are_joined_and_told_apart_by_their_fold() -> None:
    rng = np.random.default_rng(0)
    both = joined([drawn(rng, 5, EVEN), drawn(rng, 7, EVEN, fold=2)])
    assert len(both) == 12
    assert len(both.where(both.fold == 2)) == 7
