"""What of a picture is shown: all of it, or the middle of a larger one that moves behind a window.

In: a uint8 picture [H, W, 3]. Out: `Framed`, from which each perturbation takes what it perturbs.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from ns_core.evaluation.corruptions.pixels import Pixels

_WHOLE, _SHOWN = 256, 224


class Framed(NamedTuple):
    """A picture and the window of it that a frame shows."""

    whole: Pixels
    """[H, W, 3], at least as large as the window."""
    top: int
    left: int
    height: int
    width: int

    def cropped(self, moved: Pixels) -> Pixels:
        """The window of a picture of the size of `whole`."""
        return moved[self.top : self.top + self.height, self.left : self.left + self.width]

    @property
    def shown(self) -> Pixels:
        """The window as it is when nothing moves, contiguous."""
        return np.ascontiguousarray(self.cropped(self.whole))


def framed(image: Pixels, margin: bool) -> Framed:
    """All of `image`; with `margin`, its central 224 x 224 after a resize to a shorter side of 256 (bilinear, Pillow).

    As torchvision's Resize(256) and CenterCrop(224): the longer side is rounded down, the window's place to even.
    """
    height, width = image.shape[:2]
    if not margin:
        return Framed(image, 0, 0, height, width)
    if min(height, width) != _WHOLE:
        short = min(height, width)
        height, width = _WHOLE * height // short, _WHOLE * width // short
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    return Framed(image, round((height - _SHOWN) / 2), round((width - _SHOWN) / 2), _SHOWN, _SHOWN)
