"""Paired tests and bootstraps: by hand, against scipy and explicit resampling, and what the intervals cover."""

from math import comb

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import bootstrap

from ns_core.evaluation.figures.paired import (
    common_rows,
    compared,
    mcnemar_p_value,
    mean_estimate,
    mean_ratio_estimate,
    paired_interval,
    resampled_means,
    share_estimate,
)


def right_but(images: int, wrong: list[int]) -> npt.NDArray[np.bool_]:
    right = np.ones(images, dtype=bool)
    right[wrong] = False
    return right


def test_models_on_different_images_are_not_compared() -> None:
    with pytest.raises(AssertionError, match="not paired"):
        paired_interval(right_but(10, []), right_but(1, []))


def test_mcnemar_is_the_two_sided_binomial_of_the_discordant_images() -> None:
    # a alone is right on 2 images, b alone on 9; both wrong on 3; the rest does not matter.
    a = right_but(60, [*range(9), 20, 21, 22])
    b = right_but(60, [9, 10, 20, 21, 22])
    by_hand = 2 * sum(comb(11, k) for k in range(3)) / 2**11
    assert mcnemar_p_value(a, b) == pytest.approx(by_hand, rel=1e-12)
    assert mcnemar_p_value(b, a) == mcnemar_p_value(a, b)
    assert mcnemar_p_value(a[:25], b[:25]) == mcnemar_p_value(a, b)


def test_mcnemar_cannot_tell_models_apart_that_err_together() -> None:
    assert mcnemar_p_value(right_but(10, [1]), right_but(10, [1])) == 1.0


def test_interval_of_the_same_errors_has_no_width() -> None:
    assert paired_interval(right_but(50, [3, 4]), right_but(50, [3, 4])) == (0.0, 0.0)


def test_interval_is_symmetric_where_the_models_win_equally_often() -> None:
    a, b = right_but(400, list(range(20))), right_but(400, list(range(20, 40)))
    low, high = paired_interval(a, b)
    assert low < 0 < high
    assert low == pytest.approx(-high, abs=0.0026)


def test_interval_turns_round_with_the_models() -> None:
    a, b = right_but(400, list(range(30))), right_but(400, list(range(30, 40)))
    low, high = paired_interval(a, b)
    other_low, other_high = paired_interval(b, a)
    assert (low, high) == pytest.approx((-other_high, -other_low), abs=0.0026)


def test_interval_agrees_with_the_normal_approximation_on_many_images() -> None:
    a, b = right_but(10_000, list(range(700))), right_but(10_000, list(range(700, 1100)))
    deviation = ((0.07 + 0.04 - 0.03**2) / 10_000) ** 0.5
    expected = (0.03 - 1.96 * deviation, 0.03 + 1.96 * deviation)
    assert paired_interval(a, b) == pytest.approx(expected, abs=4e-4)


def test_interval_agrees_with_scipys_bootstrap_of_the_differences() -> None:
    a, b = right_but(500, list(range(60))), right_but(500, list(range(40, 80)))
    oracle = bootstrap((b.astype(float) - a,), np.mean, n_resamples=4_000, method="percentile", rng=0)
    expected = (oracle.confidence_interval.low, oracle.confidence_interval.high)
    assert paired_interval(a, b) == pytest.approx(expected, abs=0.004)


def test_interval_widens_with_the_level_and_repeats_with_the_seed() -> None:
    a, b = right_but(300, list(range(30))), right_but(300, list(range(20, 40)))
    low, high = paired_interval(a, b, level=0.8)
    wide_low, wide_high = paired_interval(a, b, level=0.99)
    assert wide_low < low < high < wide_high
    assert paired_interval(a, b, 0.95, 2000, 1) == paired_interval(a, b, 0.95, 2000, 1)


def test_interval_counts_pairs_and_not_two_independent_samples() -> None:
    # The same 100 errors in both models: only the two images that differ carry any doubt.
    a, b = right_but(200, list(range(100))), right_but(200, list(range(2, 100)))
    low, high = paired_interval(a, b)
    assert high - low < 0.03


def test_a_comparison_counts_what_was_lost_and_what_was_won() -> None:
    ours, baseline = right_but(100, [0, 1, 2]), right_but(100, [2, 3, 4, 5, 6])
    found = compared(ours, baseline)
    assert (found.negative_flips, found.positive_flips) == (0.02, 0.04)
    assert found.difference.value == pytest.approx(0.02)
    assert found.difference.low < 0.02 < found.difference.high
    assert found.p_value == mcnemar_p_value(baseline, ours)


def test_a_share_of_all_or_none_has_an_interval_with_a_width() -> None:
    whole = share_estimate(np.ones(50, bool))
    assert (whole.value, whole.high, whole.images) == (1, 1, 50)
    assert whole.low < 0.95


def test_resampled_means_are_those_of_redrawn_images() -> None:
    values = np.random.default_rng(0).normal(3, 2, (40, 3))
    found = resampled_means(values, resamples=50, seed=7)
    rng = np.random.default_rng(7)
    explicit = [values[rng.integers(0, 40, 40, dtype=np.int32)].mean(axis=0) for _ in range(50)]
    assert found == pytest.approx(np.array(explicit), rel=1e-12)


def test_blocks_of_resamples_do_not_change_them(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(30, 2))
    whole = resampled_means(values, resamples=23, seed=1)
    monkeypatch.setattr("ns_core.evaluation.figures.paired._BLOCK", 30 * 5)
    assert resampled_means(values, resamples=23, seed=1) == pytest.approx(whole, rel=1e-12)


def test_variants_of_one_image_are_not_independent_observations() -> None:
    # 10 variants that fail together are worth one observation: the interval is that of 200 images, not of 2,000.
    failed = (np.random.default_rng(0).random(200) < 0.3).astype(float)
    together = mean_estimate(np.repeat(failed[:, None], 10, axis=1).mean(axis=1))
    width = 2 * 1.96 * (together.value * (1 - together.value) / 200) ** 0.5
    assert together.high - together.low == pytest.approx(width, rel=0.08)
    assert together.images == 200


def test_a_mean_agrees_with_scipys_bootstrap() -> None:
    values = np.random.default_rng(3).gamma(2, 1, 300)
    oracle = bootstrap((values,), np.mean, n_resamples=4_000, method="percentile", rng=0).confidence_interval
    found = mean_estimate(values)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=0.02)


def test_a_mean_of_ratios_resamples_both_sides_together() -> None:
    rng = np.random.default_rng(4)
    ours, baseline = (rng.random((80, 3)) < share for share in (0.3, 0.5))
    found = mean_ratio_estimate(ours.astype(float), baseline.astype(float))
    assert found.value == pytest.approx(100 * np.mean(ours.mean(axis=0) / baseline.mean(axis=0)))
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(2_000):
        rows = rng.integers(0, 80, 80, dtype=np.int32)
        draws.append(100 * np.mean(ours[rows].mean(axis=0) / baseline[rows].mean(axis=0)))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), rel=1e-9)


def test_a_network_against_itself_is_100_without_doubt() -> None:
    errors = (np.random.default_rng(5).random((50, 4)) < 0.4).astype(float)
    same = mean_ratio_estimate(errors, errors)
    assert (same.value, same.low, same.high) == pytest.approx((100, 100, 100))


def test_a_baseline_with_one_mistake_has_a_finite_interval() -> None:
    errors, baseline = np.zeros((30, 1)), np.zeros((30, 1))
    errors[:3], baseline[0] = 1, 1
    found = mean_ratio_estimate(errors, baseline)
    assert found.value == pytest.approx(300)
    assert np.isfinite([found.low, found.high]).all()
    with pytest.raises(AssertionError, match="no mistake"):
        mean_ratio_estimate(errors, np.zeros((30, 1)))


def test_intervals_of_a_ratio_hold_the_truth_as_often_as_they_say() -> None:
    # Each image has a difficulty that both networks share; errors are 0.3 and 0.5 on average, so the truth is 60.
    rng = np.random.default_rng(6)
    held = 0
    for _ in range(100):
        hard = rng.random((150, 1))
        ours, baseline = rng.random((150, 3)) < 0.6 * hard, rng.random((150, 3)) < hard
        found = mean_ratio_estimate(ours.astype(float), baseline.astype(float))
        held += found.low <= 60 <= found.high
    assert 90 <= held <= 99


def test_common_images_keep_the_order_of_the_first_list() -> None:
    first, second = (np.array(list(names), object) for names in ("abcdefghij", "jihgfedcbaz"))
    rows = common_rows(first, second)
    assert rows is not None
    assert rows[0].tolist() == list(range(10))
    assert second[rows[1]].tolist() == first.tolist()


def test_lists_that_share_less_than_nine_tenths_are_not_compared() -> None:
    names = np.array([str(number) for number in range(100)], object)
    assert common_rows(names, names[:90]) is not None
    assert common_rows(names, names[:89]) is None
    assert common_rows(names[:89], names) is None
    assert common_rows(names, np.array([], object)) is None
