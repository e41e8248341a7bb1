"""Detection of unknown classes: scikit-learn as the oracle, ties included, and what the intervals cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from ns_core.evaluation.figures.out_of_distribution import _Ranked, auroc, average_precision, detection

SCORES = st.lists(st.integers(0, 12), min_size=1, max_size=40)
"""Few values, so that many are equal."""


@given(SCORES, SCORES)
def test_figures_are_those_of_scikit_learn(unknown: list[int], known: list[int]) -> None:
    positive = [1] * len(unknown) + [0] * len(known)
    score = -np.array([*unknown, *known]) / 12
    found = detection(np.array(unknown) / 12, np.array(known) / 12, resamples=2)
    assert found.aupr.value == pytest.approx(average_precision_score(positive, score))
    assert found.auroc.value == pytest.approx(roc_auc_score(positive, score))
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    assert found.fpr95 == pytest.approx(fpr[tpr >= 0.95][0])
    assert (found.unknown, found.known) == (len(unknown), len(known))


def test_a_weighted_image_counts_as_often_as_it_was_drawn() -> None:
    rng = np.random.default_rng(0)
    unknown, known = rng.integers(0, 9, 30) / 9, rng.integers(2, 12, 50) / 12
    weights = rng.integers(0, 4, 80).astype(float)
    found, alarms = _Ranked(unknown, known).curves(weights[None])
    positive, score = [1] * 30 + [0] * 50, -np.concatenate([unknown, known])
    assert average_precision(found, alarms)[0] == pytest.approx(
        average_precision_score(positive, score, sample_weight=weights)
    )
    assert auroc(found, alarms)[0] == pytest.approx(roc_auc_score(positive, score, sample_weight=weights))


def test_a_detector_that_knows_finds_all_without_alarm() -> None:
    found = detection(np.full(20, 0.2), np.full(30, 0.9))
    assert (found.aupr.value, found.auroc.value, found.fpr95) == (1, 1, 0)
    assert (found.auroc.low, found.auroc.high) == (1, 1)


def test_intervals_hold_the_true_area_as_often_as_they_say() -> None:
    # Unknown N(0, 1) against known N(1, 1): the area is P(unknown < known) = Phi(1 / sqrt 2) = 0.7602.
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        unknown, known = rng.normal(0, 1, 120), rng.normal(1, 1, 150)
        area = detection(unknown, known, resamples=200, seed=seed).auroc
        held += area.low <= 0.76025 <= area.high
    assert 0.90 <= held / 200 <= 0.985


def test_intervals_repeat_with_the_seed() -> None:
    rng = np.random.default_rng(2)
    unknown, known = rng.random(50), rng.random(60)
    assert detection(unknown, known, 100, seed=3) == detection(unknown, known, 100, seed=3)
    assert detection(unknown, known, 100, seed=3) != detection(unknown, known, 100, seed=4)
