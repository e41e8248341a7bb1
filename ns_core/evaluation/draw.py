"""Which images an evaluation looks at when it may not look at all: a stratified draw. Loads no torch.

Labels in, row numbers out; the same for every checkpoint, so that evaluations of one set can be paired.
"""

import numpy as np
from numpy.typing import NDArray


def subset(labels: NDArray[np.int32], limit: int, seed: int) -> NDArray[np.int64]:
    """Row numbers of a stratified draw of `limit` images (all when there are no more), ascending.

    Classes give images in turn, each in its own seeded order, so that shares differ by one at most.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        turn[members] = np.arange(len(members))
    order = shuffled[np.argsort(turn[shuffled], kind="stable")]
    return np.sort(order[:limit]).astype(np.int64)
