"""From a decoded picture to the square that the model sees: the clean view and the noisy one.

In:  a uint8 picture of shape (height, width, 3), RGB, of any size.
Out: a uint8 picture of shape (size, size, 3), RGB, contiguous. Normalisation is the device's work.

`eval_view` is what a teacher labels and what every evaluation reads; `TrainView` is what a student
learns from. Neither writes to its input, and either may return the input itself when there is
nothing to do. `TrainView.encoded` starts from the file instead, and decodes no more of a large JPEG
than the square can show.
"""

from math import ceil, sqrt
from typing import NamedTuple, Self, cast

import cv2
import numpy as np

from ns_core.config import Augmentation
from ns_core.data.images import decode, decode_at_least, dimensions
from ns_core.data.randaugment import Pixels, RandAugment

_MIN_ASPECT, _MAX_ASPECT = 3 / 4, 4 / 3
_TRIES = 10


class Box(NamedTuple):
    """A rectangle of whole pixels inside a picture."""

    top: int
    left: int
    height: int
    width: int


def eval_view(image: Pixels, size: int, crop_pct: float) -> Pixels:
    """The centre of a picture, with no chance in it.

    The short side is resized to round(size / crop_pct), by `cv2.INTER_AREA` when that shrinks and
    `cv2.INTER_CUBIC` when it grows, and the central `size` x `size` pixels are kept, as timm's
    evaluation does with `crop_pct` in (0, 1]. A picture that is `size` x `size` already comes back
    unchanged when `crop_pct` is 1.
    """
    assert 0 < crop_pct <= 1, crop_pct
    height, width, _ = image.shape
    short = min(height, width)
    # Only what the crop can reach is resized: a square, or one pixel longer where that keeps its
    # centre the picture's. All of a 1 x 10,000 strip would become 256 x 2,560,000 pixels, 2 GB.
    tall, wide = short + (height - short) % 2, short + (width - short) % 2
    seen = _crop(image, _centre(image.shape[:2], tall, wide))
    edge = round(size / crop_pct)
    resized = _resize(seen, round(edge * tall / short), round(edge * wide / short))
    return np.ascontiguousarray(_crop(resized, _centre(resized.shape[:2], size, size)))


class TrainView:
    """Random resized crop, padded crop, flip and RandAugment, in this order.

    The resized crop and the flip are those of the official EfficientNet input pipeline; the padded
    crop is that of the official SVHN example (4 pixels at 32 px; there it comes last).
    """

    def __init__(
        self,
        size: int,
        min_area: float,
        max_area: float,
        hflip: float,
        pad: int,
        randaugment: RandAugment | None,
    ) -> None:
        """`min_area` and `max_area` are shares of the picture, (1, 1) meaning all of it and no
        random crop; `hflip` is a probability; `pad` is in pixels of the result, 0 meaning none."""
        assert 0 < min_area <= max_area <= 1, (min_area, max_area)
        assert 0 <= hflip <= 1, hflip
        assert 0 <= pad < size, (pad, size)
        self.size = size
        self.min_area = min_area
        self.max_area = max_area
        self.hflip = hflip
        self.pad = pad
        self.randaugment = randaugment

    @classmethod
    def configured(cls, noise: Augmentation, size: int) -> Self:
        """The one that the settings describe."""
        return cls(size, noise.min_area, noise.max_area, noise.hflip, noise.pad, RandAugment.configured(noise))

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """(height, width, 3) -> (size, size, 3), both uint8; all chance comes from `rng`."""
        return self._square(_crop(image, self._box(image.shape[:2], rng)), rng)

    def encoded(self, data: bytes, rng: np.random.Generator) -> Pixels:
        """The bytes of an image file -> uint8(size, size, 3); raises `CorruptImage`.

        Equal to `self(decode(data), rng)`, with the same draws from `rng`, but for a plain JPEG whose
        box has twice `size` pixels or more on both sides. That is decoded at the smallest scale, a
        half or less, at which the box keeps `size` pixels each way, so that nothing grows that did
        not grow before. The box is then rounded to the scaled pixels, which moves an edge by half
        of one at most; the rest is the same. Without RandAugment, on scikit-learn's photographs at
        32 to 128 px, that is 33 to 41 dB from the full decode for the whole picture, and for random
        boxes, whose edges move, 30 to 33 dB on average and never below 22. For training only.
        """
        size = dimensions(data)
        if size is None:
            return self(decode(data), rng)
        box = self._box(size, rng)
        eighths = ceil(8 * self.size / min(box.height, box.width))
        image = decode_at_least(data, ceil(size[0] * eighths / 8), ceil(size[1] * eighths / 8))
        if image.shape[:2] != size:
            box = _scaled(box, eighths)
        return self._square(_crop(image, box), rng)

    def _box(self, size: tuple[int, int], rng: np.random.Generator) -> Box:
        """What is shown of a picture of `size`, its height and width."""
        if self.min_area < 1:
            return random_area_box(size, self.min_area, self.max_area, rng)
        return Box(0, 0, *size)

    def _square(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """All that follows the resized crop's choice of place."""
        # Bilinear reads every source pixel as long as the picture shrinks by 2 at most, in a
        # quarter of INTER_AREA's time: 100 us against 375 us from 240 px to 224 px, on one thread.
        image = _resize(image, self.size, self.size, linear_to=2)
        if self.pad:
            image = _padded_crop(image, self.pad, rng)
        if rng.random() < self.hflip:
            image = cast(Pixels, cv2.flip(image, 1))
        if self.randaugment is not None:
            image = self.randaugment(image, rng)
        return np.ascontiguousarray(image)


def random_area_box(
    size: tuple[int, int],
    min_area: float,
    max_area: float,
    rng: np.random.Generator,
) -> Box:
    """A box of uniform area, log-uniform aspect in 3/4..4/3 and uniform place in a picture
    of `size`, its height and width.

    Areas are shares of the picture's, kept to but for the rounding of the sides to whole pixels.
    When ten draws do not fit (a picture much longer than wide), the box is the central one of the
    full short side and of the permitted aspect nearest to the picture's own.
    """
    height, width = size
    for _ in range(_TRIES):
        area, aspect, down, right = rng.random(4).tolist()
        pixels = height * width * (min_area + area * (max_area - min_area))
        ratio = _MIN_ASPECT * (_MAX_ASPECT / _MIN_ASPECT) ** aspect
        tall, wide = round(sqrt(pixels / ratio)), round(sqrt(pixels * ratio))
        if 0 < tall <= height and 0 < wide <= width:
            return Box(int(down * (height - tall + 1)), int(right * (width - wide + 1)), tall, wide)
    tall, wide = round(width / _MIN_ASPECT), round(height * _MAX_ASPECT)
    return _centre(size, min(height, tall), min(width, wide))


def _scaled(box: Box, eighths: int) -> Box:
    """The box in the picture decoded at `eighths` / 8 of its size.

    Edges go to the nearest whole pixel, halves always upwards: a side of n pixels and a fraction
    becomes n at least, wherever it lies.
    """
    top, bottom = (int(edge * eighths / 8 + 0.5) for edge in (box.top, box.top + box.height))
    left, right = (int(edge * eighths / 8 + 0.5) for edge in (box.left, box.left + box.width))
    return Box(top, left, bottom - top, right - left)


def _padded_crop(image: Pixels, pad: int, rng: np.random.Generator) -> Pixels:
    """The picture moved by up to `pad` pixels each way; what comes in is its reflection."""
    height, width, _ = image.shape
    padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REFLECT_101)
    top, left = rng.integers(2 * pad + 1, size=2).tolist()
    return _crop(cast(Pixels, padded), Box(top, left, height, width))


def _centre(size: tuple[int, int], height: int, width: int) -> Box:
    return Box((size[0] - height) // 2, (size[1] - width) // 2, height, width)


def _crop(image: Pixels, box: Box) -> Pixels:
    return image[box.top : box.top + box.height, box.left : box.left + box.width]


def _resize(image: Pixels, height: int, width: int, linear_to: float = 1) -> Pixels:
    """Cubic when growing, bilinear when shrinking by `linear_to` times at most, else the average
    of what a pixel covers. A picture that has the wanted size is not touched."""
    if image.shape[:2] == (height, width):
        return image
    shrink = max(image.shape[0] / height, image.shape[1] / width)
    how = cv2.INTER_AREA
    if shrink <= linear_to:
        how = cv2.INTER_LINEAR if shrink > 1 else cv2.INTER_CUBIC
    return cast(Pixels, cv2.resize(image, (width, height), interpolation=how))
