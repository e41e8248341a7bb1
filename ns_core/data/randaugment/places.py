"""Operations that move a picture or cover a part of it.

In:  a uint8 picture of shape (height, width, 3), RGB, and an argument in the unit that is named.
Out: a uint8 picture of the same shape; what is uncovered or cut out has the level `fill`.

Rotations and shears map the centres of pixels, as the official code does. Pillow, and so timm and
torchvision, count from the corner of a pixel, which moves a shear by half of its argument in pixels.
"""

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ns_core.data.randaugment.operation import Pixels, Surroundings


def rotate(image: Pixels, degrees: float, around: Surroundings) -> Pixels:
    """About the centre, counter-clockwise when positive."""
    height, width, _ = image.shape
    centre = ((width - 1) / 2, (height - 1) / 2)
    return _warp(image, cv2.getRotationMatrix2D(centre, degrees, 1.0), around)


def shear_x(image: Pixels, shear: float, around: Surroundings) -> Pixels:
    """About the top-left corner: row y moves left by y * shear pixels when positive."""
    return _warp(image, np.array([[1, -shear, 0], [0, 1, 0]]), around)


def shear_y(image: Pixels, shear: float, around: Surroundings) -> Pixels:
    """About the top-left corner: column x moves up by x * shear pixels when positive."""
    return _warp(image, np.array([[1, 0, 0], [-shear, 1, 0]]), around)


def translate_x(image: Pixels, pixels: float, around: Surroundings) -> Pixels:
    """To the right when positive; by whole pixels, since a part of one would also blur the picture."""
    width = image.shape[1]
    shift = min(max(round(pixels), -width), width)
    moved = np.full_like(image, around.fill)
    if shift >= 0:
        moved[:, shift:] = image[:, : width - shift]
    else:
        moved[:, :shift] = image[:, -shift:]
    return moved


def translate_y(image: Pixels, pixels: float, around: Surroundings) -> Pixels:
    """Downwards when positive; by whole pixels."""
    height = image.shape[0]
    shift = min(max(round(pixels), -height), height)
    moved = np.full_like(image, around.fill)
    if shift >= 0:
        moved[shift:] = image[: height - shift]
    else:
        moved[:shift] = image[-shift:]
    return moved


def cutout(image: Pixels, half: float, around: Surroundings) -> Pixels:
    """Covers a square of 2 * half pixels whose centre is drawn from the pixels of the picture, all alike;
    what lies outside the picture is lost (DeVries & Taylor 2017, arXiv 1708.04552; official code)."""
    height, width, _ = image.shape
    row, column = divmod(int(around.rng.integers(height * width)), width)
    reach = int(half)
    covered = image.copy()
    covered[max(0, row - reach) : row + reach, max(0, column - reach) : column + reach] = around.fill
    return covered


def _warp(image: Pixels, matrix: NDArray[np.float64] | cv2.typing.MatLike, around: Surroundings) -> Pixels:
    """The affine map from a point of `image` to a point of the result."""
    height, width, _ = image.shape
    warped = cv2.warpAffine(
        image,
        matrix,
        (width, height),
        flags=around.flag,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(around.fill, around.fill, around.fill),
    )
    return cast(Pixels, warped)
