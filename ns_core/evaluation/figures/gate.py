"""The gate at the end of a generation: does the student take the teacher's place?

In: what teacher and student say of the same holdout images (`Predictions`, N rows each, in one order), and the limits.
Out: a `GateDecision` with a verdict, one sentence for a person, and its numbers.

Both models see the same images, so every comparison is paired: an image that both get right, or both get
wrong, says nothing about which is better. The p-value is McNemar's exact test; the interval is a bootstrap
over images.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ns_core.evaluation.figures.calibration import ece
from ns_core.evaluation.figures.metrics import worst_class_accuracy
from ns_core.evaluation.figures.paired import mcnemar_p_value, paired_interval
from ns_core.evaluation.results import LEVEL
from ns_core.evaluation.tables import Predictions

Verdict = Literal["promote", "keep-teacher", "stop"]

MIN_CLASS_IMAGES = 5
"""Holdout images a class needs to count for the worst class; with fewer, one image moves it by 25 points."""

_ROUNDING = 1e-9
"""Slack on the limits: 0.6 - 0.8 is -0.20000000000000007, and a fall of exactly the limit passes."""


@dataclass(frozen=True)
class GateLimits:
    """What a student must hold to be promoted. All are shares, 0.01 being one point."""

    min_gain: float = 0.0
    """Student's holdout accuracy minus the teacher's, at least."""
    max_worst_class_drop: float = 0.2
    """Fall of the worst class's accuracy, at most."""
    max_ece_rise: float = 0.1
    """Rise of the expected calibration error, at most."""
    stop_p_value: float = 0.05
    """A student that is worse with a p-value below this stops the run."""


@dataclass(frozen=True)
class GateDecision:
    """The verdict and what it rests on. Changes are student minus teacher, as shares."""

    verdict: Verdict
    reason: str
    """One sentence for a person."""
    holdout_gain: float
    interval: tuple[float, float]
    """95 % bootstrap interval of `holdout_gain`."""
    p_value: float
    """Exact McNemar test, two-sided."""
    worst_class_change: float
    """Change of the lowest class accuracy; the two models' worst classes need not be the same class."""
    ece_change: float


def decide(teacher: Predictions, student: Predictions, limits: GateLimits) -> GateDecision:
    """Compares student and teacher on the holdout.

    `stop` when the student is significantly worse; else `promote` when gain, worst class and calibration
    are all within `limits`; else `keep-teacher`. A gain need not be significant: on the few hundred images
    of a holdout, the one or two points of a good generation seldom are.

    Args:
        teacher, student: of the same N images in one order, none of them unreadable.
        limits: see `GateLimits`.
    """
    assert np.array_equal(teacher.key, student.key), "teacher and student were not shown the same images"
    assert np.array_equal(teacher.label, student.label), "an image has two labels"
    images = len(student)
    gain = (int(student.right.sum()) - int(teacher.right.sum())) / images
    worst_class_change = _worst(student) - _worst(teacher)
    ece_change = ece(student.confidence, student.right) - ece(teacher.confidence, teacher.right)
    interval = paired_interval(teacher.right, student.right)
    p_value = mcnemar_p_value(teacher.right, student.right)
    evidence = (
        f"{_points(gain)} points of accuracy on {images} holdout images "
        f"({LEVEL:.0%} interval {_points(interval[0])} to {_points(interval[1])}, p = {p_value:.2g}), "
        f"{_points(worst_class_change)} in the worst class, ECE {ece_change:+.3f}"
    )
    verdict, opening = _verdict(gain, worst_class_change, ece_change, p_value, limits)
    return GateDecision(
        verdict=verdict,
        reason=f"{opening}: {evidence}.",
        holdout_gain=gain,
        interval=interval,
        p_value=p_value,
        worst_class_change=worst_class_change,
        ece_change=ece_change,
    )


def _verdict(
    gain: float, worst_class_change: float, ece_change: float, p_value: float, limits: GateLimits
) -> tuple[Verdict, str]:
    """The verdict, and the opening of its reason."""
    if gain < 0 and p_value < limits.stop_p_value:
        return "stop", f"Stopped because the student is worse (p below {limits.stop_p_value:g})"
    failures = []
    if gain < limits.min_gain - _ROUNDING:
        failures.append(f"the gain is below the {_points(limits.min_gain)} points required")
    if worst_class_change < -limits.max_worst_class_drop - _ROUNDING:
        failures.append(f"the worst class fell by more than the {100 * limits.max_worst_class_drop:.1f} points allowed")
    if ece_change > limits.max_ece_rise + _ROUNDING:
        failures.append(f"ECE rose by more than the {limits.max_ece_rise:.3f} allowed")
    if failures:
        return "keep-teacher", f"Kept the teacher because {' and '.join(failures)}"
    return "promote", "Promoted the student"


def _worst(predictions: Predictions) -> float:
    return worst_class_accuracy(predictions.label, predictions.top1, MIN_CLASS_IMAGES)


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
