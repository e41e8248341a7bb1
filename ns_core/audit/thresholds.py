"""A confidence for each class that keeps labels of a wanted precision, instead of one confidence for all.

In: held-out predictions, as in `figures`. Out: one `ClassThreshold` a class. Two confidences are told apart:

    assured    fixed-sequence testing (Angelopoulos et al. 2021, Learn then Test, section 4.1): from the surest image
               down, the precision of what lies above is tested against the target at level `RISK`, and the walk ends at
               the first that fails; so the chance that a class's threshold is too low is at most `RISK`. It begins
               where so few images are above that all must be right: 59 for a target of 0.95. With fewer there is none.
    estimated  the lowest confidence above which the estimate itself reaches the target: often too low, as it is the
               best-looking of many.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ns_core.artifacts import Frozen
from ns_core.audit.figures import Floats, HeldOut, Share, clopper_pearson, share

RISK = 0.05
"""Chance, for each class, that its assured threshold keeps labels below the target."""


class ClassThreshold(Frozen):
    """One class, and what its labels would be worth."""

    label: int
    assured: float | None
    """None where the held-out images cannot show it."""
    estimated: float | None
    """None where even the surest labels are not good enough, or there is no held-out image of the class."""
    precision: Share | None = None
    """Above the assured threshold, or above the estimated one where there is none."""
    images: int = 0
    """Of the pool above it."""
    needed: int
    """Held-out images above a threshold, all right, that would assure it."""


def needed_images(target: float, risk: float = RISK) -> int:
    """So many right answers and no wrong one show a precision of `target`."""
    return math.ceil(math.log(risk) / math.log(target))


def by_class(
    held: HeldOut, score: Floats, pool: tuple[NDArray[np.int32], Floats], target: float, weights: Floats
) -> list[ClassThreshold]:
    """`pool`: predicted class and confidence of the pool's images, or of a sample. `weights`: as `figures.at_cut`.

    `target`: 0..1, both excluded.
    """
    assert 0 < target < 1, target
    found = []
    for label in range(len(weights)):
        mine = held.top1 == label
        own, confidence, right = weights[held.label[mine]], score[mine], held.right[mine]
        assured, estimated = _lowest(confidence, right, own, target)
        threshold = estimated if assured is None else assured
        images, precision = 0, None
        if threshold is not None:
            above = confidence >= threshold
            images = int(np.count_nonzero((pool[0] == label) & (pool[1] >= threshold)))
            precision = share(right[above], own[above], max(images, 1))
        found.append(
            ClassThreshold(
                label=label,
                assured=assured,
                estimated=estimated,
                precision=precision,
                images=images,
                needed=needed_images(target),
            )
        )
    return found


def _lowest(
    confidence: Floats, right: NDArray[np.bool_], own: Floats, target: float
) -> tuple[float | None, float | None]:
    """(assured, estimated) thresholds of one class."""
    order = np.argsort(-confidence, kind="stable")
    confidence, right, own = confidence[order], right[order], own[order]
    if not own.sum():
        return None, None
    ends = np.flatnonzero(np.append(np.diff(confidence) != 0, True))  # images of one confidence stand or fall together
    total, hits, squares = (np.cumsum(each)[ends] for each in (own, own * right, np.square(own)))
    with np.errstate(invalid="ignore", divide="ignore"):
        value, size = np.minimum(hits / total, 1.0), np.square(total) / squares
    low, _ = clopper_pearson(value, size, 1 - 2 * RISK)
    first = np.flatnonzero(size >= math.log(RISK) / math.log(target) - 1e-9)
    assured = None
    for place in first[:1]:
        passed = low[place:] >= target
        count = len(passed) if passed.all() else int(passed.argmin())
        assured = float(confidence[ends[place + count - 1]]) if count else None
    good = np.flatnonzero(value >= target)
    return assured, float(confidence[ends[good[-1]]]) if len(good) else None
