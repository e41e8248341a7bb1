"""The gate: each verdict on hand-made holdouts, and the statistics it rests on."""

import re

import numpy as np
import numpy.typing as npt
import pytest

from ns_core.evaluation.figures.gate import GateDecision, GateLimits, decide
from ns_core.evaluation.tables import Predictions
from tests import scene_tables

LABELS = np.arange(100) % 4
"""100 images, 25 in each of 4 classes."""

DEFAULTS = GateLimits()


def predictions(wrong: list[int], labels: npt.NDArray[np.int64] = LABELS, confidence: float = 0.9) -> Predictions:
    """Of a model that errs on the images `wrong` alone, equally confident everywhere."""
    right = np.ones(len(labels), bool)
    right[wrong] = False
    return scene_tables.predictions(right, label=labels, confidence=np.full(len(labels), confidence))


def gate(teacher_wrong: list[int], student_wrong: list[int], limits: GateLimits = DEFAULTS) -> GateDecision:
    return decide(predictions(teacher_wrong), predictions(student_wrong), limits)


def test_a_better_student_is_promoted() -> None:
    decision = gate(list(range(10)), list(range(4)))
    assert decision.verdict == "promote"
    assert decision.holdout_gain == pytest.approx(0.06)
    assert decision.interval[0] <= 0.06 <= decision.interval[1]
    # Teacher: 3 of 25 wrong in classes 0 and 1; student: 1 of 25 in every class.
    assert decision.worst_class_change == pytest.approx(2 / 25)
    assert decision.ece_change == pytest.approx(abs(0.96 - 0.9) - abs(0.9 - 0.9), abs=1e-7)


def test_an_equal_student_is_promoted_unless_a_gain_is_asked_for() -> None:
    assert gate([1, 2], [3, 4]).verdict == "promote"
    assert gate([1, 2], [3, 4], GateLimits(min_gain=0.01)).verdict == "keep-teacher"


def test_a_slightly_worse_student_keeps_the_teacher() -> None:
    decision = gate([0], [0, 1, 2])
    assert decision.verdict == "keep-teacher"
    assert decision.p_value == 0.5
    assert "gain is below the +0.0 points" in decision.reason


def test_a_significantly_worse_student_stops_the_run() -> None:
    decision = gate([], list(range(10)))
    assert decision.verdict == "stop"
    assert decision.p_value == pytest.approx(2 / 2**10)
    assert decision.interval[1] < 0


def test_a_significantly_better_student_does_not_stop_the_run() -> None:
    decision = gate(list(range(10)), [])
    assert decision.p_value == pytest.approx(2 / 2**10)
    assert decision.verdict == "promote"


def test_the_level_at_which_a_run_stops_is_the_callers() -> None:
    worse = list(range(7))
    assert gate([], worse).verdict == "stop"
    assert gate([], worse, GateLimits(stop_p_value=0.01)).verdict == "keep-teacher"


def test_a_collapsed_class_keeps_the_teacher_in_spite_of_a_gain() -> None:
    teacher_wrong = [image for image in range(32) if image % 4]
    student_wrong = [4 * step for step in range(20)]
    decision = gate(teacher_wrong, student_wrong)
    assert decision.holdout_gain == pytest.approx(0.04)
    assert decision.worst_class_change == pytest.approx((25 - 20) / 25 - (25 - 8) / 25)
    assert decision.verdict == "keep-teacher"
    assert "worst class fell by more than the 20.0 points" in decision.reason


def test_a_fall_of_exactly_the_limit_passes() -> None:
    # Class 0 goes from 20 to 15 of 25 right, which floats make a fall of 0.20000000000000007.
    teacher_wrong = [4 * step for step in range(5)] + [1, 2, 3, 5, 6]
    student_wrong = [4 * step for step in range(10)]
    decision = gate(teacher_wrong, student_wrong)
    assert decision.worst_class_change < -0.2
    assert decision.verdict == "promote"
    assert gate(teacher_wrong, student_wrong, GateLimits(max_worst_class_drop=0.19)).verdict == "keep-teacher"


def test_overconfidence_keeps_the_teacher_in_spite_of_a_gain() -> None:
    wrong = list(range(30))
    teacher, student = predictions(wrong, confidence=0.7), predictions(wrong[1:], confidence=0.99)
    decision = decide(teacher, student, DEFAULTS)
    assert decision.verdict == "keep-teacher"
    assert decision.ece_change == pytest.approx(0.99 - 0.71, abs=1e-6)
    assert "ECE rose by more than the 0.100" in decision.reason
    assert decide(teacher, student, GateLimits(max_ece_rise=0.3)).verdict == "promote"


def test_classes_of_fewer_than_five_images_do_not_decide() -> None:
    labels = np.array([0] * 40 + [1] * 40 + [2] * 4)
    teacher = predictions([0, 1, 2, 3, 40], labels)
    student = predictions([80, 81, 82, 83], labels)
    decision = decide(teacher, student, DEFAULTS)
    assert decision.worst_class_change == pytest.approx(1.0 - 36 / 40)
    assert decision.verdict == "promote"
    five = np.append(labels, 2)
    decision = decide(predictions([0, 1, 2, 3, 40], five), predictions([80, 81, 82, 83], five), GateLimits())
    assert decision.worst_class_change == pytest.approx(1 / 5 - 36 / 40)
    assert decision.verdict == "keep-teacher"


def test_where_every_class_is_small_the_overall_accuracy_stands_in() -> None:
    labels = np.arange(16) % 4
    decision = decide(predictions([0], labels), predictions([0, 4], labels), DEFAULTS)
    assert decision.worst_class_change == pytest.approx(-1 / 16)


def test_the_reason_is_one_sentence_with_the_numbers() -> None:
    reason = gate(list(range(10)), list(range(4))).reason
    assert re.fullmatch(
        r"Promoted the student: \+6\.0 points of accuracy on 100 holdout images \(95% interval \+\d+\.\d to "
        r"\+\d+\.\d, p = 0\.031\), \+8\.0 in the worst class, ECE \+0\.060\.",
        reason,
    ), reason


def test_a_decision_is_a_pure_function_of_its_arguments() -> None:
    assert gate([1, 2, 3], [2, 9]) == gate([1, 2, 3], [2, 9])


def test_models_on_different_images_are_not_compared() -> None:
    with pytest.raises(AssertionError, match="same images"):
        decide(predictions([]), predictions([], LABELS[:99]), DEFAULTS)
    with pytest.raises(AssertionError, match="two labels"):
        decide(predictions([]), predictions([], (LABELS + 1) % 4), DEFAULTS)
