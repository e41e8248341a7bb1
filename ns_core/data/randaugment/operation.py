"""What an operation on a picture is, and what it may need besides the picture."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]
"""A picture of shape (height, width, 3), RGB."""


class Surroundings(NamedTuple):
    """What one call of RandAugment hands to each of its operations."""

    fill: int
    """Grey level, 0-255, of what a rotation, shear or translation uncovers and of what is cut out."""
    flag: int
    """OpenCV's of the interpolation of rotations and shears: `INTER_NEAREST` or `INTER_LINEAR`."""
    rng: np.random.Generator
    """For what an operation leaves to chance by itself: the place of a cut-out."""


Operation: TypeAlias = Callable[[Pixels, float, Surroundings], Pixels]
"""(picture, argument, surroundings) -> picture of the same shape, which may be the same object. The
argument is in the operation's own unit, and 0 where it has none; the picture is not written to."""
