"""The gate at the end of a generation: does the student take the teacher's place?

In: the probabilities of teacher and student on the same holdout images, float [N, C] each, the labels,
int [N], and the limits. Out: a `GateDecision` with a verdict, one sentence for a person, and its numbers.

Both models see the same images, so every comparison is paired: an image that both get right, or both get
wrong, says nothing about which is better. The p-value is McNemar's exact test; the interval is a bootstrap
over images.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from ns_core.evaluation.metrics import Labels, Scores, correct, ece, worst_class_accuracy

Correct = npt.NDArray[np.bool_]
Verdict = Literal["promote", "keep-teacher", "stop"]

MIN_CLASS_IMAGES = 5
"""Holdout images a class needs to count for the worst class; with fewer, one image moves it by 25 points."""

LEVEL = 0.95
RESAMPLES = 10_000

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


def decide(teacher_probs: Scores, student_probs: Scores, labels: Labels, limits: GateLimits) -> GateDecision:
    """Compares student and teacher on the holdout.

    `stop` when the student is significantly worse; else `promote` when gain, worst class and calibration
    are all within `limits`; else `keep-teacher`. A gain need not be significant: on the few hundred images
    of a holdout, the one or two points of a good generation seldom are.

    Args:
        teacher_probs, student_probs: float [N, C], rows summing to 1, of the same N images in one order.
        labels: int [N].
        limits: see `GateLimits`.
    """
    assert teacher_probs.shape == student_probs.shape, f"{teacher_probs.shape} against {student_probs.shape}"
    teacher, student = correct(teacher_probs, labels), correct(student_probs, labels)
    gain = (int(student.sum()) - int(teacher.sum())) / len(labels)
    worst_class_change = worst_class_accuracy(student_probs, labels, MIN_CLASS_IMAGES) - worst_class_accuracy(
        teacher_probs, labels, MIN_CLASS_IMAGES
    )
    ece_change = ece(student_probs, labels) - ece(teacher_probs, labels)
    interval = paired_interval(teacher, student)
    p_value = mcnemar_p_value(teacher, student)
    evidence = (
        f"{_points(gain)} points of accuracy on {len(labels)} holdout images "
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


def mcnemar_p_value(a_correct: Correct, b_correct: Correct) -> float:
    """Exact two-sided p-value of "a and b are right equally often" (McNemar 1947), from bool [N] each.

    Of the images that just one of them gets right, the share that is b's is binomial with 1/2. Without any
    such image the models cannot be told apart: 1.
    """
    only_a, only_b = _discordant(a_correct, b_correct)
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_b, only_a + only_b).pvalue)


def paired_interval(
    a_correct: Correct,
    b_correct: Correct,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap percentile interval of accuracy(b) - accuracy(a), resampling images.

    An image's difference is +1, -1 or 0, so a resample of N images is one multinomial draw of three counts:
    the same distribution as redrawing the images, at 8 ms instead of seconds for 10,000 resamples.

    Args:
        a_correct, b_correct: bool [N], whether each image is predicted right.
        level: coverage, 0 to 1.
        resamples: bootstrap resamples.
        seed: of the resampling; the result is a pure function of the arguments.
    """
    assert 0 < level < 1, f"level {level} is not between 0 and 1"
    only_a, only_b = _discordant(a_correct, b_correct)
    images = len(a_correct)
    shares = np.array([only_a, only_b, images - only_a - only_b]) / images
    draws = np.random.default_rng(seed).multinomial(images, shares, size=resamples)
    differences = (draws[:, 1] - draws[:, 0]) / images
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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


def _discordant(a_correct: Correct, b_correct: Correct) -> tuple[int, int]:
    """Images that only a gets right, and that only b does."""
    assert a_correct.shape == b_correct.shape, f"{a_correct.shape} against {b_correct.shape}: not paired"
    assert len(a_correct), "no images to compare"
    return int((a_correct & ~b_correct).sum()), int((b_correct & ~a_correct).sum())


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
