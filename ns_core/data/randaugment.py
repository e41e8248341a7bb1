"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719), the input noise of the student.

In:  one uint8 picture of shape (height, width, 3), RGB, and a `numpy.random.Generator` of its own.
Out: a uint8 picture of the same shape.

The fourteen operations of the paper, each a pure function of (picture, signed magnitude, fill), in
the table `OPS`. A picture gets `num_ops` of them, drawn uniformly with replacement and each applied
with probability 1, at one magnitude on the official scale, where 10 is full strength:

    Identity, AutoContrast, Equalize             the magnitude plays no part
    Rotate                                       +-30 degrees * M/10, about the centre
    ShearX, ShearY                               +-0.3 * M/10, about the top-left corner
    TranslateX, TranslateY                       +-0.33 * M/10 of the side, less than half of it
    Color, Contrast, Brightness, Sharpness       factor 1 +- 0.9 * M/10, 0.1 at least
    Posterize                                    keeps 8 - round(4 * M/10) bits, 1 at least
    Solarize                                     inverts from 256 - 256 * M/10 up, 0 at least

M may exceed 10: the paper's 27 is 2.7 times full strength. Three things differ from the official
code (google-research/noisystudent, randaugment.py):

* Translation is a share of the side. The official 10 px * M is 45 % of a 600 px picture at M = 27,
  but leaves nothing of a 32 px or a 224 px one. The cap below half the side keeps something even
  of a picture that is shifted twice the same way.
* Posterize and Solarize grow stronger with M. In the official code they grow weaker, which its
  authors call unintended (github.com/tensorflow/tpu, issue 614), and are no-ops at M = 27.
* Cutout and SolarizeAdd, which the official code adds, are not among the paper's fourteen.

Every operation is a few OpenCV or NumPy calls on bytes. The photometric ones give Pillow's levels
to within one; Color, where a factor beyond 2 multiplies the rounding of the luma, to within three.
Per operation, on one thread of an AMD EPYC (Zen 4): 2-9 us at 32 px and 40-240 us at 224 px,
Equalize 28 and 280 us; two operations drawn at random 18 and 210 us.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]
"""A picture of shape (height, width, 3), RGB."""

Operation: TypeAlias = Callable[[Pixels, float, int], Pixels]
"""(picture, magnitude, fill) -> picture of the same shape. The sign of the magnitude is the
direction of the change, for those that have one; the picture is not written to."""

FULL_SCALE = 10.0
"""The magnitude of full strength (the official `_MAX_LEVEL`)."""

_LEVELS = np.arange(256)
_ROUND_DOWN = -0.499
"""Added to what OpenCV would round to the nearest level, since Pillow and the official code cut
fractions off; a thousandth short of a half, so that float error never takes a whole level."""
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
"""Pillow's `ImageFilter.SMOOTH`, which `ImageEnhance.Sharpness` blends with."""


def _identity(image: Pixels, magnitude: float, fill: int) -> Pixels:
    return image


def _autocontrast(image: Pixels, magnitude: float, fill: int) -> Pixels:
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


def _equalize(image: Pixels, magnitude: float, fill: int) -> Pixels:
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


def _rotate(image: Pixels, magnitude: float, fill: int) -> Pixels:
    """Counter-clockwise when positive."""
    height, width, _ = image.shape
    centre = ((width - 1) / 2, (height - 1) / 2)
    return _warp(image, cv2.getRotationMatrix2D(centre, 30 * magnitude / FULL_SCALE, 1.0), fill)


def _shear_x(image: Pixels, magnitude: float, fill: int) -> Pixels:
    """Row y moves left by y * shear pixels when positive."""
    shear = 0.3 * magnitude / FULL_SCALE
    return _warp(image, np.array([[1, -shear, 0], [0, 1, 0]]), fill)


def _shear_y(image: Pixels, magnitude: float, fill: int) -> Pixels:
    """Column x moves up by x * shear pixels when positive."""
    shear = 0.3 * magnitude / FULL_SCALE
    return _warp(image, np.array([[1, 0, 0], [-shear, 1, 0]]), fill)


def _translate_x(image: Pixels, magnitude: float, fill: int) -> Pixels:
    """To the right when positive."""
    shift = _shift(image.shape[1], magnitude)
    moved = np.full_like(image, fill)
    if shift >= 0:
        moved[:, shift:] = image[:, : image.shape[1] - shift]
    else:
        moved[:, :shift] = image[:, -shift:]
    return moved


def _translate_y(image: Pixels, magnitude: float, fill: int) -> Pixels:
    """Downwards when positive."""
    shift = _shift(image.shape[0], magnitude)
    moved = np.full_like(image, fill)
    if shift >= 0:
        moved[shift:] = image[: image.shape[0] - shift]
    else:
        moved[:shift] = image[-shift:]
    return moved


def _color(image: Pixels, magnitude: float, fill: int) -> Pixels:
    """Blends with the picture's own grey version."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return _blend(image, cast(Pixels, grey), _factor(magnitude))


def _contrast(image: Pixels, magnitude: float, fill: int) -> Pixels:
    """Blends with the mean grey level."""
    mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
    return _blend_level(image, int(mean + 0.5), _factor(magnitude))


def _brightness(image: Pixels, magnitude: float, fill: int) -> Pixels:
    """Blends with black."""
    return _blend_level(image, 0, _factor(magnitude))


def _sharpness(image: Pixels, magnitude: float, fill: int) -> Pixels:
    """Blends with the smoothed picture, whose outermost pixels are, as in Pillow, not smoothed."""
    smooth = cast(Pixels, cv2.filter2D(image, -1, _SMOOTH))
    smooth[0], smooth[-1] = image[0], image[-1]
    smooth[:, 0], smooth[:, -1] = image[:, 0], image[:, -1]
    return _blend(image, smooth, _factor(magnitude))


def _posterize(image: Pixels, magnitude: float, fill: int) -> Pixels:
    bits = max(1, 8 - round(4 * abs(magnitude) / FULL_SCALE))
    return image & np.uint8(256 - (1 << (8 - bits)))


def _solarize(image: Pixels, magnitude: float, fill: int) -> Pixels:
    threshold = max(0.0, 256 - 256 * abs(magnitude) / FULL_SCALE)
    _, inverted = cv2.threshold(image, ceil(threshold) - 1, 255, cv2.THRESH_BINARY)
    return image ^ cast(Pixels, inverted)


OPS: dict[str, Operation] = {
    "Identity": _identity,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Rotate": _rotate,
    "Solarize": _solarize,
    "Color": _color,
    "Posterize": _posterize,
    "Contrast": _contrast,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
}
"""The operations of the paper's table, in its order."""


class RandAugment:
    """Applies `num_ops` operations drawn from `ops`, uniformly and with replacement."""

    def __init__(
        self,
        num_ops: int,
        magnitude: float,
        fill: int = 128,
        ops: Mapping[str, Operation] = OPS,
    ) -> None:
        """`magnitude` on the official scale (10 is full strength); `fill` is the grey level, 0-255,
        of what a rotation, shear or translation uncovers; `ops` the table to draw from."""
        assert num_ops >= 0, num_ops
        assert 0 <= magnitude < float("inf"), magnitude
        assert 0 <= fill <= 255, fill
        self.num_ops = num_ops
        self.magnitude = magnitude
        self.fill = fill
        self._ops = tuple(ops.values())

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """A uint8 picture of shape (height, width, 3), RGB -> another of the same shape.

        All chance comes from `rng`: one draw a call. `image` is not written to; it is itself the
        result when every operation drawn is Identity.
        """
        assert image.dtype == np.uint8, image.dtype
        assert image.shape[2:] == (3,), image.shape
        # Operation and sign from one draw: a call to the Generator costs 3 us, as much as an
        # operation at 32 px.
        for draw in rng.integers(2 * len(self._ops), size=self.num_ops).tolist():
            operation = self._ops[draw >> 1]
            image = operation(image, -self.magnitude if draw & 1 else self.magnitude, self.fill)
        return image


def _factor(magnitude: float) -> float:
    return max(0.1, 1 + 0.9 * magnitude / FULL_SCALE)


def _shift(side: int, magnitude: float) -> int:
    """Whole pixels, since a part of a pixel would also blur the picture, and less than half the
    side, since two shifts by a whole half would leave nothing but `fill`."""
    shift = min(round(0.33 * abs(magnitude) / FULL_SCALE * side), (side - 1) // 2)
    return shift if magnitude >= 0 else -shift


def _blend(image: Pixels, other: Pixels, factor: float) -> Pixels:
    """other + factor * (image - other), saturated: Pillow's `Image.blend`."""
    return cast(Pixels, cv2.addWeighted(image, factor, other, 1 - factor, _ROUND_DOWN))


def _blend_level(image: Pixels, level: int, factor: float) -> Pixels:
    """`_blend` with a picture of one grey level."""
    offset = level * (1 - factor) + _ROUND_DOWN
    return cast(Pixels, cv2.addWeighted(image, factor, image, 0, offset))


def _warp(image: Pixels, matrix: NDArray[np.float64] | cv2.typing.MatLike, fill: int) -> Pixels:
    """The affine map from a point of `image` to a point of the result, bilinear."""
    height, width, _ = image.shape
    warped = cv2.warpAffine(
        image,
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(fill, fill, fill),
    )
    return cast(Pixels, warped)
