"""From which confidence on the labels of a class have a wanted precision, by labelled images that were kept from the
teacher.

In: of images that are taken for one class, confidence, whether the label is right, and weight. Out: `Lowest`, of which
the two are told apart:

    assured    fixed-sequence testing (Angelopoulos et al. 2021, Learn then Test, section 4.1): from the surest image
               down, the precision of what lies above is tested against the target at level `RISK`, and the walk ends at
               the first that fails; so the chance that a class's threshold is too low is at most `RISK`. It begins
               where so few images are above that all must be right: 59 for a target of 0.95. With fewer there is none.
    estimated  the lowest confidence above which the estimate itself reaches the target: often too low, as it is the
               best-looking of many.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

Floats = NDArray[np.floating[Any]]

LEVEL = 0.95
"""Of intervals."""
RISK = 0.05
"""Chance, for each class, that its assured threshold keeps labels below the target."""


class Lowest(NamedTuple):
    """Confidences, one for each way to show it."""

    assured: float | None
    """None where the held-out images cannot show it."""
    estimated: float | None
    """None where even the surest labels are not good enough, or there is no held-out image of the class."""


def needed_images(target: float, risk: float = RISK) -> int:
    """So many right answers and no wrong one show a precision of `target`."""
    return math.ceil(math.log(risk) / math.log(target))


def clopper_pearson(share: Floats, trials: Floats, level: float = LEVEL) -> tuple[NDArray[np.float64], ...]:
    """(low, high) of a binomial share, exact; `trials` need not be whole, as Korn and Graubard (1998) use it with the
    effective size of a weighted sample. Without trials: 0 and 1."""
    share, trials = np.asarray(share, np.float64), np.asarray(trials, np.float64)
    hits, tail = share * trials, (1 - level) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(hits > 0, beta.ppf(tail, hits, trials - hits + 1), 0.0)
        high = np.where(hits < trials, beta.ppf(1 - tail, hits + 1, trials - hits), 1.0)
    return low, high


def lowest(confidence: Floats, right: NDArray[np.bool_], own: Floats, target: float) -> Lowest:
    """Of one class, [N] each. `own`: weight of each image. `target`: 0..1, both excluded."""
    order = np.argsort(-confidence, kind="stable")
    confidence, right, own = confidence[order], right[order], own[order]
    if not own.sum():
        return Lowest(None, None)
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
    return Lowest(assured, float(confidence[ends[good[-1]]]) if len(good) else None)
