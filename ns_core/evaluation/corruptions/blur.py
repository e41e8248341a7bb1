"""The five blurs: out of focus, through frosted glass, by motion, by zooming, and Gaussian.

In: a uint8 image [H, W, 3], a level as in `tables`, a generator, of which `glass_blur` and `motion_blur` draw.
Out: a new uint8 image [H, W, 3].

Source: functions of the same names in hendrycks/robustness, ImageNet-C/create_c.
"""

import math
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from ns_core.evaluation.corruptions.motion import motion_blurred
from ns_core.evaluation.corruptions.pixels import Floats, Pixels, cut

HAIR = np.float32(2**-13)
"""Levels of 255, added before the fraction is cut off. A float32 average of equal values falls up to 0.00008 short of
them, so that an even area of 200 would become 199: at sigma 6 that befell 138 of the 256 levels. (In the originals'
float64 it befalls up to 56 of 256.)"""


def defocus_blur(image: Pixels, lens: tuple[float, float], rng: np.random.Generator) -> Pixels:
    """Averaged over a disk of so many pixels radius, its edge softened by a Gaussian of so many pixels sigma."""
    return cut(cv2.filter2D(image.astype(np.float32), -1, _disk(*lens)) + HAIR)


@cache
def _disk(radius: float, alias_blur: float) -> Floats:
    """The disk, float32 [odd, odd], summing to about 1.

    The official kernel is at least 17 pixels wide; its zero margin is cut off here, which changes no result
    and makes severity 3 at 32 pixels a filter of 3 by 3.
    """
    reach, window = (8, 3) if radius <= 8 else (int(radius), 5)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.float32)
    softened = cv2.GaussianBlur(disk / disk.sum(), (window, window), alias_blur)
    margin = int(np.flatnonzero(softened.any(axis=1))[0])
    kernel = softened[margin : softened.shape[0] - margin, margin : softened.shape[1] - margin]
    return np.ascontiguousarray(kernel, dtype=np.float32)


def gaussian_blur(image: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """As skimage's `gaussian`: the kernel ends at 4 sigma, the picture's edge pixels go on."""
    side = 2 * int(4 * sigma + 0.5) + 1
    blurred = cv2.GaussianBlur(image.astype(np.float32), (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
    return cut(blurred + HAIR)


def motion_blur(image: Pixels, motion: tuple[float, float], rng: np.random.Generator) -> Pixels:
    """Motion of so many pixels radius and sigma towards a drawn angle of -45 to 45 degrees.

    ImageMagick's bytes are rounded, so these are as well.
    """
    return cut(motion_blurred(image.astype(np.float32), *motion, rng.uniform(-45, 45)) + np.float32(0.5))


def zoom_blur(image: Pixels, scales: tuple[float, ...], rng: np.random.Generator) -> Pixels:
    """The mean of the picture and of its middle magnified by each of `scales`, of which the first is 1."""
    height, width = image.shape[:2]
    picture = image.astype(np.float32)
    total = 2 * picture
    for scale in scales[1:]:
        (down, top), (across, left) = _magnified(height, scale), _magnified(width, scale)
        back = np.array([[across, 0, left], [0, down, top]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        layer = cv2.warpAffine(picture, back, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        cv2.add(total, layer, total)
    return cut(total / np.float32(len(scales) + 1) + HAIR)


def _magnified(side: int, scale: float) -> tuple[float, int]:
    """Where pixel i of a magnified side comes from: factor and offset of i.

    The official way: the middle ceil(side / scale) pixels go through scipy's `zoom`, which maps first to first and last
    to last pixel, onto a length that rounding makes up to a pixel longer than the side; what is over is cut off.
    (Of 12 sides below 300 pixels, none of them an official one, scipy's rounding places the last row outside of the
    picture, and makes it black. Not so here.)
    """
    middle = math.ceil(side / scale)
    return (middle - 1) / (round(middle * scale) - 1), (side - middle) // 2


def glass_blur(image: Pixels, glass: tuple[float, int, int], rng: np.random.Generator) -> Pixels:
    """Blurred, pixels moved about, blurred again.

    Args:
        image: uint8 [H, W, 3].
        glass: sigma of the blurs; pixels that a pixel comes from at most; rounds of moving.
        rng: draws the moves, anew for each image.
    """
    sigma, farthest, rounds = glass
    blurred = gaussian_blur(image, sigma, rng)
    height, width = image.shape[:2]
    moves = rng.integers(4 * farthest**2, size=(rounds, *glass_interior(height, width, farthest)), dtype=np.uint8)
    moved = blurred.reshape(-1, 3).take(glass_sources(height, width, farthest, moves), axis=0)
    return gaussian_blur(moved.reshape(image.shape), sigma, rng)


def glass_interior(height: int, width: int, farthest: int) -> tuple[int, int]:
    """Rows and columns of pixels that move: from `farthest` + 1 to the side minus `farthest`, if there are any."""
    return max(height - 2 * farthest, 0), max(width - 2 * farthest, 0)


def glass_sources(height: int, width: int, farthest: int, moves: Pixels) -> npt.NDArray[np.intp]:
    """Where each pixel of the moved picture comes from, as flat indices, intp [height * width].

    The official loop goes through the interior from its last pixel to its first, and each takes the value that stands
    `dy` rows and `dx` columns on, both from -farthest to farthest - 1. (It means to swap the two, but what it puts back
    is a view of the pixel just overwritten, so one value is copied and the other lost.) A pixel further on has already
    changed in this round: so a pixel's value is that of the first one, along its chain of ever later pixels, whose
    source lies before it. The ends are found by doubling, in all chains at once: 1 ms instead of 80 at level 3 of 224
    pixels, so that each image has moves of its own.

    Args:
        height, width: of the picture.
        farthest: as in `tables`.
        moves: uint8 [rounds, *glass_interior()], (dy + farthest) * 2 * farthest + dx + farthest, in the loop's order.
    """
    rows, columns = glass_interior(height, width, farthest)
    steps = np.arange(-farthest, farthest)
    offsets = (steps[:, np.newaxis] * width + steps).reshape(-1)
    pixels = np.arange(height * width)
    sources = pixels
    for round_moves in moves:
        origin = pixels.copy()
        interior = origin.reshape(height, width)[farthest + 1 :, farthest + 1 :][:rows, :columns]
        interior += offsets.take(round_moves[::-1, ::-1])
        last = np.maximum(origin, pixels)
        while not np.array_equal(last, further := last.take(last)):
            last = further
        sources = sources.take(origin.take(last))
    return sources
