"""Pictures that the corruptions are tried on."""

from functools import cache

import cv2
import numpy as np
from sklearn.datasets import load_sample_image

from ns_core.evaluation.corruptions import Pixels


def waves(height: int, width: int, seed: int = 0) -> Pixels:
    """Smooth waves, of another period in each channel."""
    y, x = np.mgrid[:height, :width]
    channels = [np.sin(x / 3 + seed) + np.cos(y / 5), np.sin((x + y) / 4), np.cos(x / 7 - seed) * np.sin(y / 2)]
    return np.asarray(np.stack([127.5 + 60 * channel for channel in channels], axis=2), dtype=np.uint8)


@cache
def photographs(height: int, width: int) -> tuple[Pixels, ...]:
    """scikit-learn's two photographs: the temple, the flower."""
    squares = [load_sample_image(name)[:420, :420] for name in ("china.jpg", "flower.jpg")]
    scaled = [cv2.resize(square, (width, height), interpolation=cv2.INTER_AREA) for square in squares]
    return tuple(np.asarray(image, dtype=np.uint8) for image in scaled)


def whole_numbers() -> Pixels:
    """32 x 32 by integer arithmetic alone, so that it is the same on every machine."""
    y, x = np.mgrid[:32, :32]
    channels = [(7 * x + 3 * y) % 256, (5 * x * y) % 256, (x * x + 11 * y) % 256]
    return np.asarray(np.stack(channels, axis=2), dtype=np.uint8)


def extremes(height: int, width: int) -> Pixels:
    """Noise over the whole range, with black, white, one grey and the pure colours in stripes of their own."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    colours = [(0, 0, 0), (255, 255, 255), (200, 200, 200), (255, 0, 0), (0, 255, 0), (0, 0, 255), (1, 0, 0)]
    for row, colour in enumerate(colours):
        image[row] = colour
    return image
