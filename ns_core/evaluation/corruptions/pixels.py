"""Bytes and floats: how a corruption's result becomes an image again.

In: floats on a scale where white is 1 or 255, of any shape. Out: uint8 of the same shape.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""One image [H, W, 3], RGB."""
Floats = npt.NDArray[np.float32]
"""One image [H, W, 3] or one layer [H, W]."""


def truncated(unit: npt.NDArray[Any]) -> Pixels:
    """Floats of 0 to 1 as bytes, the official way: clipped, times 255, the fraction cut off, not rounded."""
    return cut(unit * 255)


def cut(levels: npt.NDArray[Any]) -> Pixels:
    """As `truncated`, of floats on a scale of 0 to 255."""
    return np.asarray(np.clip(levels, 0, 255), dtype=np.uint8)
