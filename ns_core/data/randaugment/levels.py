"""Operations that change the levels of a picture and leave everything in its place.

In:  a uint8 picture of shape (height, width, 3), RGB, and an argument in the unit that is named.
Out: a uint8 picture of the same shape.

Each is a few OpenCV or NumPy calls on bytes and gives Pillow's levels to within one; `color`, where a
factor beyond 2 multiplies the rounding of the luma, to within the factor.
"""

from math import ceil
from typing import cast

import cv2
import numpy as np

from ns_core.data.randaugment.operation import Pixels, Surroundings

_LEVELS = np.arange(256)
_ROUND_DOWN = -0.499
"""Added to what OpenCV would round to the nearest level, since Pillow and the official code cut
fractions off; a thousandth short of a half, so that float error never takes a whole level."""
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
"""Pillow's `ImageFilter.SMOOTH`, which `ImageEnhance.Sharpness` blends with."""
_MIDDLE = 128
"""Below it, `solarize_add` adds (official code and timm)."""


def identity(image: Pixels, argument: float, around: Surroundings) -> Pixels:
    """The picture itself, not a copy."""
    return image


def autocontrast(image: Pixels, argument: float, around: Surroundings) -> Pixels:
    """Each channel stretched to 0..255; a channel of one level is left as it is."""
    height, width, _ = image.shape
    # Reducing whole rows first keeps the inner loop contiguous: 3 us against 10 us by cv2.reduce.
    rows = image.reshape(height, width * 3)
    low = rows.min(axis=0).reshape(width, 3).min(axis=0).tolist()
    high = rows.max(axis=0).reshape(width, 3).max(axis=0).tolist()
    stretch = np.zeros((3, 4))
    for channel, (darkest, brightest) in enumerate(zip(low, high, strict=True)):
        if brightest == darkest:
            darkest, brightest = 0, 255
        stretch[channel, channel] = scale = 255 / (brightest - darkest)
        stretch[channel, 3] = -darkest * scale
    return cast(Pixels, cv2.transform(image, stretch))


def equalize(image: Pixels, argument: float, around: Surroundings) -> Pixels:
    """Each channel's histogram made flat, by the integer rule of Pillow and of the official code.

    OpenCV's `equalizeHist` follows another rule, several levels away.
    """
    histograms = [cv2.calcHist([image], [channel], None, [256], [0, 256]) for channel in range(3)]
    counts = np.concatenate(histograms).reshape(3, 256).astype(np.int32)
    darker = counts.cumsum(axis=1, dtype=np.int32) - counts
    # Of all the pixels, those of the brightest level present do not count.
    step = (darker * (counts > 0)).max(axis=1, keepdims=True) // 255
    flat = np.minimum((darker + step // 2) // np.maximum(step, 1), 255)
    tables = np.where(step > 0, flat, _LEVELS).astype(np.uint8)
    return cast(Pixels, cv2.LUT(image, np.ascontiguousarray(tables.T).reshape(256, 1, 3)))


def invert(image: Pixels, argument: float, around: Surroundings) -> Pixels:
    """The negative."""
    return cast(Pixels, cv2.bitwise_not(image))


def color(image: Pixels, factor: float, around: Surroundings) -> Pixels:
    """Blends with the picture's own grey version."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return _blend(image, cast(Pixels, grey), factor)


def contrast(image: Pixels, factor: float, around: Surroundings) -> Pixels:
    """Blends with the mean grey level."""
    mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
    return _blend_level(image, int(mean + 0.5), factor)


def contrast_by_area(image: Pixels, factor: float, around: Surroundings) -> Pixels:
    """Blends with a level that is the number of pixels / 256, 255 at most, whatever they show.

    The official code sums up the histogram where it means to average it, and keeps doing so
    (github.com/tensorflow/tpu, issue 1057): 4 at 32 px, 196 at 224 px, white from 256 px on.
    """
    height, width, _ = image.shape
    return _blend_level(image, min(255, height * width // 256), factor)


def brightness(image: Pixels, factor: float, around: Surroundings) -> Pixels:
    """Blends with black."""
    return _blend_level(image, 0, factor)


def sharpness(image: Pixels, factor: float, around: Surroundings) -> Pixels:
    """Blends with the smoothed picture, whose outermost pixels are, as in Pillow, not smoothed."""
    smooth = cast(Pixels, cv2.filter2D(image, -1, _SMOOTH))
    smooth[0], smooth[-1] = image[0], image[-1]
    smooth[:, 0], smooth[:, -1] = image[:, 0], image[:, -1]
    return _blend(image, smooth, factor)


def posterize(image: Pixels, bits: float, around: Surroundings) -> Pixels:
    """Keeps so many whole bits of a level, 1 at least: of none, which timm asks for at full strength,
    Pillow 13 makes an error. 8 and more keep everything."""
    kept = min(max(int(bits), 1), 8)
    return image & np.uint8(256 - (1 << (8 - kept)))


def solarize(image: Pixels, threshold: float, around: Surroundings) -> Pixels:
    """Inverts the levels from `threshold` up; none, when it is above 255."""
    _, inverted = cv2.threshold(image, ceil(threshold) - 1, 255, cv2.THRESH_BINARY)
    return image ^ cast(Pixels, inverted)


def solarize_add(image: Pixels, addition: float, around: Surroundings) -> Pixels:
    """Adds so many whole levels, saturated, to the levels below 128."""
    _, added = cv2.threshold(image, _MIDDLE - 1, min(int(addition), 255), cv2.THRESH_BINARY_INV)
    return cast(Pixels, cv2.add(image, added))


def _blend(image: Pixels, other: Pixels, factor: float) -> Pixels:
    """other + factor * (image - other), saturated: Pillow's `Image.blend`."""
    return cast(Pixels, cv2.addWeighted(image, factor, other, 1 - factor, _ROUND_DOWN))


def _blend_level(image: Pixels, level: int, factor: float) -> Pixels:
    """`_blend` with a picture of one grey level."""
    offset = level * (1 - factor) + _ROUND_DOWN
    return cast(Pixels, cv2.addWeighted(image, factor, image, 0, offset))
