"""`snow`, `frost` and `fog`.

In: one uint8 image [H, W, 3] in RGB, the level of `tables`, a random generator. Out: a new uint8 image [H, W, 3].

Source: the functions of the same names in the official scripts (github.com/hendrycks/robustness, ImageNet-C/create_c).
"""

import math
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from ns_core.evaluation.corruptions.ice import SHEETS, sheet
from ns_core.evaluation.corruptions.motion import motion_blurred
from ns_core.evaluation.corruptions.pixels import Floats, Pixels, truncated

SnowLevel = tuple[float, float, float, float, float, float, float]
"""Mean and deviation of the layer, its magnification, the least that stays of it; radius and sigma of its motion;
share of the picture's own colour."""


def snow(image: Pixels, level: SnowLevel, rng: np.random.Generator) -> Pixels:
    """`image` whitened, with blown flakes over it.

    Only the middle of the layer that will be magnified is drawn: the originals draw all of it, and use as much.
    """
    rows, columns = (math.ceil(side / level[2]) for side in image.shape[:2])
    return _snowed(image, level, rng.standard_normal((rows, columns)), rng.uniform(-135, -45))


def _snowed(image: Pixels, level: SnowLevel, draw: npt.NDArray[np.float64], angle: float) -> Pixels:
    """The deterministic part of `snow`.

    Args:
        image: uint8 [H, W, 3].
        level: as in `snow`.
        draw: [ceil(H / level[2]), ceil(W / level[2])] of the standard normal law: the flakes before magnification.
        angle: of their flight, degrees as in `motion_taps`.
    """
    mean, deviation, factor, least, radius, sigma, own = level
    flakes = _magnified(mean + deviation * draw, factor, image.shape[:2])
    flakes[flakes < least] = 0
    # The layer goes through bytes twice, into ImageMagick by truncation and out of it by rounding.
    blown = np.rint(motion_blurred(np.trunc(255 * np.clip(flakes, 0, 1)).astype(np.float32), radius, sigma, angle))
    unit = image.astype(np.float32) / np.float32(255)
    grey = cv2.cvtColor(unit, cv2.COLOR_RGB2GRAY) * np.float32(1.5) + np.float32(0.5)
    whitened = cv2.addWeighted(unit, own, cv2.max(unit, cv2.merge([grey] * 3)), 1 - own, 0)
    # The layer, and once more upside down.
    both = (blown + blown[::-1, ::-1]) / np.float32(255)
    return truncated(whitened + cv2.merge([both] * 3))


def _magnified(layer: npt.NDArray[np.float64], factor: float, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """`layer` enlarged by `factor` with linear interpolation, and of that the middle of `shape`.

    As scipy's `zoom`: the corner pixels keep their place, and the side is rounded to whole pixels.
    """
    if factor == 1:
        return layer
    (above, below, down), (left, right, across) = (
        _neighbours(size, factor, side) for size, side in zip(layer.shape, shape, strict=True)
    )
    tall = layer[above] * (1 - down)[:, np.newaxis] + layer[below] * down[:, np.newaxis]
    return np.take(tall, left, axis=1) * (1 - across) + np.take(tall, right, axis=1) * across


@lru_cache(maxsize=64)
def _neighbours(
    size: int, factor: float, side: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """For each of the `side` middle pixels of a line of `size` magnified: the two it lies between, and how far on."""
    enlarged = round(size * factor)
    first = (enlarged - side) // 2
    place = np.arange(first, first + side) * ((size - 1) / max(enlarged - 1, 1))
    low: npt.NDArray[np.intp] = np.minimum(place.astype(np.intp), size - 1)
    return low, np.minimum(low + 1, size - 1), np.asarray(place - low, dtype=np.float64)


def fog(image: Pixels, level: tuple[float, float], rng: np.random.Generator) -> Pixels:
    """`image` under a cloud of thickness `level[0]`; `level[1]` is how much smoother the cloud is at finer scales.

    The cloud's side is the power of two that covers the picture's longer side, which at 32, 64, 224 and 299 pixels is
    that of the official scripts: 32, 64, 256 and 512.
    """
    size = 1 << (max(image.shape[:2]) - 1).bit_length()
    return _fogged(image, level, plasma(2 * rng.random(size * size - 1, dtype=np.float32) - 1, level[1]))


def _fogged(image: Pixels, level: tuple[float, float], cloud: Floats) -> Pixels:
    """The deterministic part of `fog`: `cloud`, 0 to 1 and at least [H, W], over `image`, as bright as its brightest
    value before. A black picture stays black."""
    height, width = image.shape[:2]
    thickness = level[0]
    brightest = float(image.max()) / 255
    share = brightest / (brightest + thickness)
    haze = cloud[:height, :width] * np.float32(thickness * share)
    return truncated(image.astype(np.float32) * np.float32(share / 255) + cv2.merge([haze] * 3))


def plasma(draw: Floats, decay: float) -> Floats:
    """A cloud by the diamond-square algorithm: float32 [side, side] from 0 to 1, which goes on over its edges.

    Args:
        draw: float32 [side * side - 1] of -1 to 1, `side` a power of two, in the order in which points are filled:
            from coarse to fine and at each step the middles of squares, of their upper and of their left edges.
        decay: by its *square* the wobble shrinks from step to step: the originals multiply by it twice.
    """
    side = math.isqrt(draw.size + 1)
    assert side * side == draw.size + 1, f"{draw.size} draws fill no square"
    assert side & (side - 1) == 0, f"{side} is not a power of two"
    grid = np.zeros((1, 1), dtype=np.float32)
    wobble, start = 100.0, 0
    while len(grid) < side:
        count = len(grid)
        random = draw[start : start + 3 * count**2].reshape(3, count, count) * np.float32(wobble**2)
        grid = _halved(grid, random)
        start += 3 * count**2
        wobble /= decay
    grid -= grid.min()
    return np.asarray(grid / grid.max(), dtype=np.float32)


def _halved(grid: Floats, random: Floats) -> Floats:
    """`grid` [n, n] at half the step: [2n, 2n]; each new point is the mean of its four neighbours plus `random`."""
    quarter = np.float32(0.25)
    count = len(grid)
    wide = cv2.copyMakeBorder(grid, 0, 1, 0, 1, cv2.BORDER_WRAP)
    beside = wide[:-1] + wide[1:]
    middles = (beside[:, :-1] + beside[:, 1:]) * quarter + random[0]
    wrapped = cv2.copyMakeBorder(middles, 1, 0, 1, 0, cv2.BORDER_WRAP)
    finer = np.empty((2 * count, 2 * count), dtype=np.float32)
    finer[::2, ::2] = grid
    finer[1::2, 1::2] = middles
    finer[::2, 1::2] = (wrapped[:-1, 1:] + middles + grid + wide[:-1, 1:]) * quarter + random[1]
    finer[1::2, ::2] = (wrapped[1:, :-1] + middles + beside[:, :-1]) * quarter + random[2]
    return finer


def frost(image: Pixels, level: tuple[float, float], rng: np.random.Generator, photographs: bool) -> Pixels:
    """`level[0]` of `image` plus `level[1]` of a random piece of one of five sheets of ice.

    `photographs` takes the official pictures (`ice.photograph`), otherwise the ice is drawn (`ice.drawing`). A sheet
    that is not larger than the picture is enlarged until it is. As in the originals the last row and column of a
    sheet are never used, and of its six photographs the sixth.

    Raises `UserError` where the photographs are not installed.
    """
    height, width = image.shape[:2]
    ice = sheet(int(rng.integers(SHEETS)), height, width, photographs)
    top, left = (int(rng.integers(ice_side - side)) for ice_side, side in zip(ice.shape, (height, width), strict=False))
    return _frosted(image, level, ice[top : top + height, left : left + width])


def _frosted(image: Pixels, level: tuple[float, float], ice: Pixels) -> Pixels:
    """The deterministic part of `frost`: both uint8 [H, W, 3].

    cv2 rounds where the originals cut the fraction off. Every share is a whole number of twentieths, so every fraction
    is, and 0.475 less rounds to the same.
    """
    return np.asarray(cv2.addWeighted(image, level[0], ice, level[1], -0.475), dtype=np.uint8)
