"""A class's own threshold: assured as often as it says, and none where it cannot be."""

import numpy as np
import pytest

from ns_core.audit.figures import HOLDOUT, HeldOut
from ns_core.audit.thresholds import by_class
from ns_core.selection.precision import RISK, needed_images


def held(confidence: np.ndarray, right: np.ndarray) -> HeldOut:
    label = np.zeros(len(right), np.int32)
    top1 = np.where(right, 0, 1).astype(np.int32)
    # All are predicted as class 0: where that is wrong the label is 1.
    return HeldOut(1 - (top1 == 0).astype(np.int32), label, confidence, confidence, np.full(len(right), HOLDOUT))


def test_59_right_answers_assure_95_percent_and_58_do_not() -> None:
    assert needed_images(0.95) == 59
    pool = (np.zeros(10, np.int32), np.full(10, 0.9))
    for images, assured in ((59, 0.9), (58, None)):
        given = held(np.full(images, 0.9), np.ones(images, bool))
        found = by_class(given, given.confidence, pool, 0.95, np.ones(2))[0]
        assert (found.assured, found.estimated, found.needed) == (assured, 0.9, 59)
        assert found.images == 10
    assert by_class(given, given.confidence, pool, 0.95, np.ones(2))[1].estimated is None


def test_where_even_the_surest_are_wrong_there_is_no_threshold() -> None:
    given = held(np.linspace(0.5, 1, 200), np.zeros(200, bool))
    found = by_class(given, given.confidence, (np.zeros(0, np.int32), np.zeros(0)), 0.9, np.ones(2))[0]
    assert (found.assured, found.estimated, found.precision) == (None, None, None)


def test_images_of_one_confidence_stand_or_fall_together() -> None:
    confidence = np.array([0.9] * 100 + [0.5] * 100)
    right = np.array([True] * 100 + [True, False] * 50)
    given = held(confidence, right)
    found = by_class(
        given, given.confidence, (np.zeros(4, np.int32), np.array([0.95, 0.9, 0.6, 0.5])), 0.95, np.ones(2)
    )
    assert (found[0].assured, found[0].estimated, found[0].images) == (0.9, 0.9, 2)


def test_an_assured_threshold_is_too_low_no_more_often_than_stated() -> None:
    """A teacher that is right with the probability that it says: above confidence t its precision is (1 + t) / 2."""
    rng, target, failures, given_up, estimated = np.random.default_rng(5), 0.8, 0, 0, 0
    rounds = 400
    for _ in range(rounds):
        confidence = rng.random(400)
        given = held(confidence, rng.random(400) < confidence)
        found = by_class(given, confidence, (np.zeros(0, np.int32), np.zeros(0)), target, np.ones(2))[0]
        given_up += found.assured is None
        failures += found.assured is not None and (1 + found.assured) / 2 < target
        estimated += found.estimated is not None and (1 + found.estimated) / 2 < target
    assert failures <= rounds * RISK + 2 * np.sqrt(rounds * RISK)
    assert given_up < rounds / 4
    assert estimated > 3 * failures, "the best-looking of many is too low far more often"


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_a_target_that_nothing_can_show_is_refused(target: float) -> None:
    given = held(np.ones(3), np.ones(3, bool))
    with pytest.raises(AssertionError):
        by_class(given, given.confidence, (np.zeros(0, np.int32), np.zeros(0)), target, np.ones(2))
