"""A teacher that is not the recorded one, that guesses or that has collapsed is told apart from one that is good."""

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ns_core.config import InferConfig
from ns_core.errors import UserError
from ns_core.inference.teacher_gate import Collapse, Holdout, check_classes, check_holdout, collapse

GOOD = Holdout(images=300, right=240, classes=10, temperature=1.2, nll=(0.7, 0.65))
NAMES = tuple("abcdefghij")
PASSES = InferConfig()


def _counts(*counts: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(counts, np.int32)


def test_the_accuracy_of_the_record_passes() -> None:
    check_holdout(GOOD, 0.8, 0.0)


@pytest.mark.parametrize("recorded", [0.8 + 2 / 300, 0.8 - 2 / 300])
def test_two_images_may_come_out_otherwise_whatever_the_tolerance(recorded: float) -> None:
    check_holdout(GOOD, recorded, 0.0)
    with pytest.raises(UserError, match=r"0\.8000 on 300 images, where its record says"):
        check_holdout(GOOD, recorded + math.copysign(1 / 300, recorded - 0.8), 0.0)


def test_the_tolerance_counts_once_it_is_more_than_two_images() -> None:
    check_holdout(GOOD, 0.85, 0.05)
    with pytest.raises(UserError, match=r"0\.8520 \(allowed difference 0\.0500\).*infer\.holdout_tolerance"):
        check_holdout(GOOD, 0.852, 0.05)


def test_a_record_without_accuracy_is_said_and_passes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_holdout(GOOD, None, 0.0)
    assert "record has no holdout accuracy" in caplog.text


@pytest.mark.parametrize(("right", "passes"), [(30, False), (43, False), (44, True), (0, False)])
def test_guessing_is_told_from_knowing_at_one_percent(right: int, passes: bool) -> None:
    """Of 300 images of 10 classes 30 are right by chance; 44 or more with a probability of 0.7 %, 43 of 1.1 %."""
    found = replace(GOOD, right=right)
    if passes:
        check_holdout(found, found.top1, 0.0)
        return
    with pytest.raises(
        UserError, match=rf"chance level on the holdout \({right / 3:.1f} % of 300 images, 10 classes\)"
    ):
        check_holdout(found, found.top1, 0.0)


def test_a_single_class_cannot_be_guessed_wrongly() -> None:
    check_holdout(Holdout(images=5, right=5, classes=1, temperature=1.0, nll=(0.0, 0.0)), 1.0, 0.0)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("abdc", r"class 2 is 'd' to the teacher \(4 classes\) and 'c' in the dataset \(4\)"),
        ("abc", r"class 3 is none to the teacher \(3 classes\) and 'd' in the dataset"),
        ("abcde", r"class 4 is 'e' to the teacher \(5 classes\) and none in the dataset"),
    ],
)
def test_a_teacher_of_another_class_list_is_told_by_the_first_difference(teacher: str, message: str) -> None:
    check_classes(tuple("abcd"), list("abcd"))
    with pytest.raises(UserError, match=message):
        check_classes(tuple(teacher), tuple("abcd"))


def test_evenly_spread_predictions_are_no_collapse() -> None:
    assert collapse(np.full(10, 200), NAMES, PASSES) is None


def test_too_few_classes_are_a_collapse_that_names_the_setting() -> None:
    config = InferConfig(min_coverage=0.5, min_entropy=0.0)
    assert collapse(np.array([400] * 5 + [0] * 5), NAMES, config) is None
    problem = collapse(np.array([500] * 4 + [0] * 6), NAMES, config)
    assert problem is not None
    assert "predicts 4 of 10 classes, below infer.min_coverage=0.5" in problem


def test_one_class_for_nearly_all_is_a_collapse_that_names_it_and_the_setting() -> None:
    config = InferConfig(min_coverage=0.0, min_entropy=0.1)
    problem = collapse(np.array([1, 1, 1996, 1, 1, 0, 0, 0, 0, 0]), NAMES, config)
    assert problem is not None
    assert "predicts 'c' for 99.8 %" in problem
    assert "below infer.min_entropy=0.1" in problem
    assert collapse(np.array([200, 0, 1800, 0, 0, 0, 0, 0, 0, 0]), NAMES, InferConfig(min_coverage=0)) is None


@given(st.lists(st.integers(0, 50), min_size=2, max_size=30).filter(lambda counts: sum(counts) > 1))
def test_settings_of_zero_let_everything_pass(counts: list[int]) -> None:
    names = [str(label) for label in range(len(counts))]
    assert collapse(np.array(counts), names, InferConfig(min_coverage=0, min_entropy=0)) is None


def test_a_pool_smaller_than_the_classes_is_asked_for_what_it_can_show() -> None:
    predicted = np.zeros(1000, np.int64)
    predicted[:30] = 1
    names = [str(label) for label in range(1000)]
    assert collapse(predicted, names, InferConfig(min_coverage=1.0, min_entropy=0.99)) is None
    predicted[0], predicted[29] = 2, 0
    assert collapse(predicted, names, InferConfig(min_coverage=1.0, min_entropy=0)) is not None


def test_nothing_is_said_before_there_is_enough_to_see() -> None:
    watch = Collapse(PASSES, NAMES)
    for _ in range(15):
        watch.look(_counts(5000, *[0] * 9))
    with pytest.raises(UserError, match="of the first 80000 images"):
        watch.look(_counts(5000, *[0] * 9))


def test_a_pool_that_is_sorted_by_class_is_no_collapse() -> None:
    watch = Collapse(InferConfig(min_coverage=1.0), NAMES)
    for label in range(10):
        watch.look(np.eye(10, dtype=np.int32)[label] * 5000)
    for _ in range(20):
        watch.look(_counts(50_000, *[0] * 9))
    watch.end()


def test_what_earlier_attempts_labelled_is_judged_together() -> None:
    watch = Collapse(InferConfig(min_coverage=1.0), NAMES)
    watch.look(np.full(10, 10_000, np.int32), shards=20)
    watch.end()
    collapsed = Collapse(PASSES, NAMES)
    with pytest.raises(UserError, match="of the first 100000 images"):
        collapsed.look(_counts(100_000, *[0] * 9), shards=20)


def test_a_small_pool_is_judged_at_its_end() -> None:
    watch = Collapse(PASSES, NAMES)
    watch.look(_counts(400, *[0] * 9))
    with pytest.raises(UserError, match="of the first 400 images"):
        watch.end()


def test_a_handful_of_images_is_not_judged() -> None:
    watch = Collapse(PASSES, NAMES)
    watch.look(_counts(19, *[0] * 9))
    watch.end()


def test_of_one_class_there_is_nothing_to_collapse_to() -> None:
    watch = Collapse(PASSES, ["only"])
    watch.look(_counts(5000))
    watch.end()
