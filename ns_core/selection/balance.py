"""Which pseudo-labelled images are kept, and how often: pure functions over numpy columns.

The paper's rule (section 3.1) made exact: the official `filter_unlabel.py` cuts at the edge of a 0.01 bin
and draws unseeded. Here each class keeps its `per_class` most confident images at or above the threshold,
ties broken by content hash; a class with fewer repeats them up to `per_class`, whole copies first, the odd
ones by a seeded hash; no image stands more than `max_copies` times.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEPT, BELOW_THRESHOLD, CLASS_FULL = 0, 1, 2
REASONS = {BELOW_THRESHOLD: "below_threshold", CLASS_FULL: "class_full"}


@dataclass(frozen=True)
class Choice:
    """One entry an image, in the order of the input."""

    copies: NDArray[np.int32]
    """0 where the image is dropped."""
    outcome: NDArray[np.int8]
    """KEPT or the code of a reason."""


def choose(
    top1: NDArray[np.int32],
    confidence: NDArray[np.float32],
    sha256: NDArray[np.object_],
    threshold: float,
    quota: tuple[int, int],
    seed: int,
) -> Choice:
    """The selection. `quota` is (per_class, max_copies); columns have one entry an image.

    Does not depend on the order of the rows: the same images give the same copies however they are listed.
    """
    per_class, max_copies = quota
    copies = np.zeros(len(top1), np.int32)
    outcome = np.full(len(top1), BELOW_THRESHOLD, np.int8)
    order = np.lexsort((sha256.astype(str), -confidence.astype(np.float64), top1))
    order = order[confidence[order] >= np.float32(threshold)]
    for members in np.split(order, np.flatnonzero(np.diff(top1[order])) + 1) if len(order) else []:
        kept = members[:per_class]
        outcome[members[per_class:]] = CLASS_FULL
        outcome[kept] = KEPT
        copies[kept] = _repeats(sha256[kept], per_class, max_copies, seed)
    return Choice(copies, outcome)


def _repeats(sha256: NDArray[np.object_], per_class: int, max_copies: int, seed: int) -> NDArray[np.int32]:
    """How often each of a class's kept images stands, so that they come to `per_class` or to the cap."""
    whole, odd = divmod(per_class, len(sha256))
    repeats = np.full(len(sha256), whole, np.int32)
    draw = [hashlib.sha256(f"{seed}:{content}".encode()).digest() for content in sha256]
    repeats[sorted(range(len(draw)), key=draw.__getitem__)[:odd]] += 1
    return np.minimum(repeats, max_copies).astype(np.int32)
