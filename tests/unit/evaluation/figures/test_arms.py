"""Arms over seeds: intervals, paired tests and Holm's correction, against scipy and by hand."""

import numpy as np
import pytest
from scipy import stats

from ns_core.evaluation.figures.arms import compare, holm, over_seeds, paired_p_value


def test_a_mean_comes_with_students_interval() -> None:
    values = [0.91, 0.94, 0.92, 0.97]
    found = over_seeds(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.low, found.high, found.seeds) == (
        pytest.approx(0.935),
        pytest.approx(low),
        pytest.approx(high),
        4,
    )


def test_one_seed_has_no_interval_and_no_p_value() -> None:
    found = compare({"base": {0: 0.9}, "arm": {0: 0.95}})["arm"]
    assert found.figure is not None
    assert (found.figure.low, found.figure.seeds) == (None, 1)
    assert found.against is not None
    assert found.against.change.mean == pytest.approx(0.05)
    assert (found.against.p_value, found.against.adjusted) == (None, None)


def test_the_p_value_is_that_of_scipys_paired_t_test() -> None:
    before, after = np.array([0.90, 0.92, 0.95, 0.91, 0.93]), np.array([0.93, 0.93, 0.96, 0.95, 0.94])
    assert paired_p_value(list(after - before)) == pytest.approx(stats.ttest_rel(after, before).pvalue)


def test_equal_differences_have_no_p_value_as_nothing_varies() -> None:
    assert paired_p_value([0.0, 0.0, 0.0]) is None


def test_holm_multiplies_by_the_tests_that_are_left_and_never_falls() -> None:
    assert holm([0.04, 0.01, 0.03, 0.9]) == pytest.approx([0.09, 0.04, 0.09, 0.9])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_an_arm_is_compared_on_the_seeds_that_both_have_and_one_that_failed_throughout_is_told() -> None:
    figures = {"base": {0: 0.90, 1: 0.80, 2: 0.85}, "arm": {1: 0.82, 2: 0.88, 3: 0.10}, "lost": dict[int, float]()}
    found = compare(figures)
    assert found["base"].against is None
    assert found["arm"].against is not None
    assert found["arm"].against.change.mean == pytest.approx(0.025)
    assert found["arm"].against.change.seeds == 2
    assert (found["lost"].figure, found["lost"].against) == (None, None)
