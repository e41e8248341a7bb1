"""How steady a network's predictions are along one sequence of frames: flips, and the top-5 distance.

In: the logits of T frames, float32 [T, C]. Out: one `Stability`, a row of `tables.Sequences`.

Source: Hendrycks & Dietterich, ICLR 2019 (arXiv 1903.12261), section 4.3, and `flip_prob`, `ranking_dist` and `dist` of
hendrycks/robustness, ImageNet-P/test.py. There the frames of a step k form k sub-sequences whose pairs are pooled,
which are all pairs k frames apart.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_TOP = 5


class Stability(NamedTuple):
    """What a network made of one sequence."""

    frames: int
    right: int
    """Frames on which the prediction is the label."""
    compared: int
    """Pairs of frames that were compared."""
    flips: int
    """Pairs with different predictions."""
    t5d: float
    """Mean top-5 distance of the pairs, 0 to 25; NaN with fewer than 5 classes, or with no pair."""


def stability(logits: npt.NDArray[np.float32], label: int, against_first: bool, step: int = 1) -> Stability:
    """Score one sequence.

    Args:
        logits: [T, C], frame by frame.
        label: class number; -1, or any other that is no class, is right on no frame.
        against_first: compare every later frame with the first (noises, whose first frame is the clean picture and
            whose others do not follow from each other). Else each is compared with that `step` frames before.
        step: frames apart, the official difficulty 1, 2 or 3; of no effect with `against_first`.

    The prediction is the highest logit, of equals the lowest class number, and so are the ranks (scipy's `ordinal`).
    """
    assert logits.ndim == 2, f"stability() takes logits [T, C], got shape {logits.shape}"
    assert step >= 1, f"step {step} is not positive"
    # A stable sort of 31 x 1000 takes 1.1 ms; partitioning would not keep the order of equals.
    best = np.argsort(-logits, axis=1, kind="stable")[:, :_TOP]
    later = best[1:] if against_first else best[step:]
    earlier = np.broadcast_to(best[:1], later.shape) if against_first else best[:-step]
    return Stability(
        frames=len(best),
        right=int(np.count_nonzero(best[:, 0] == label)),
        compared=len(later),
        flips=int(np.count_nonzero(later[:, 0] != earlier[:, 0])),
        t5d=_top5_distance(earlier, later) if len(later) and logits.shape[1] >= _TOP else math.nan,
    )


def _top5_distance(earlier: npt.NDArray[np.int64], later: npt.NDArray[np.int64]) -> float:
    """Mean over P pairs of how far the five best classes [P, 5] moved, places below the fifth being all one place."""
    same = earlier[:, :, np.newaxis] == later[:, np.newaxis, :]
    now = np.where(same.any(axis=2), same.argmax(axis=2), _TOP)
    return float(np.abs(now - np.arange(_TOP)).sum(axis=1).mean())
