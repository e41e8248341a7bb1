"""A confidence for each class that keeps labels of a wanted precision, instead of one confidence for all.

In: held-out predictions, as in `figures`. Out: one `ClassThreshold` a class, with both confidences of
`selection.precision`, which says what `assured` and `estimated` mean.
"""

import numpy as np
from numpy.typing import NDArray

from ns_core.artifacts import Frozen
from ns_core.audit.figures import Floats, HeldOut, Share, share
from ns_core.selection.precision import lowest, needed_images


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
        assured, estimated = lowest(confidence, right, own, target)
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
