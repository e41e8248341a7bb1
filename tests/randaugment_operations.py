"""One operation of a RandAugment set at one magnitude, and pictures to apply it to."""

from collections.abc import Callable

import cv2
import numpy as np

from ns_core.data.randaugment import Interpolation, Pixels
from ns_core.data.randaugment.operation import Surroundings
from ns_core.data.randaugment.sets import PAPER, TIMM, TORCHVISION, OperationSet, official

SETS: dict[str, tuple[OperationSet, float]] = {
    "paper": (PAPER, 30.0),
    "official": (official(), 30.0),
    "official for SVHN": (official(translate=4, cutout=4), 30.0),
    "timm": (TIMM, 10.0),
    "torchvision": (TORCHVISION, 30.0),
}
"""Each set with the largest magnitude that the configuration lets through."""
GEOMETRIC = ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"]


def texture(height: int = 32, width: int = 32) -> Pixels:
    """Coloured blobs a few pixels wide, over the whole range of levels."""
    shape = height // 4 + 1, width // 4 + 1, 3
    blobs = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    return cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC)


def smooth(height: int = 64, width: int = 64) -> Pixels:
    """Slopes of two levels a pixel at most."""
    down, right = np.mgrid[:height, :width]
    return np.stack([down + right, 255 - down - right, 40 + 2 * down], axis=2).clip(0, 255).astype(np.uint8)


def argument(operations: OperationSet, name: str, magnitude: float, side: int = 224) -> float:
    """What the primitive is given for a square picture."""
    return operations.entries[name].argument(magnitude, (side, side))


def operate(
    operations: OperationSet,
    name: str,
    image: Pixels,
    magnitude: float,
    fill: int = 128,
    interpolation: Interpolation = "nearest",
) -> Pixels:
    """The sign of `magnitude` is the direction, for operations that have one."""
    operation, argument, signed = operations.entries[name]
    flag = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR}[interpolation]
    magnitude = magnitude if signed else abs(magnitude)
    around = Surroundings(fill, flag, np.random.default_rng(0))
    return operation(image, argument(magnitude, image.shape[:2]), around)


def sampled(
    image: Pixels, source: Callable[..., tuple[np.ndarray, np.ndarray]], fill: int
) -> tuple[Pixels, np.ndarray]:
    """A geometric operation the slow way, nearest neighbour: `source` leads from (x, y) of the result to (x, y)
    of `image`. Beside the result a mask of the pixels whose source is not as good as halfway between two."""
    height, width, _ = image.shape
    down, right = np.mgrid[:height, :width].astype(float)
    x, y = source(right, down)
    column, row = np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    result = np.full_like(image, fill)
    result[inside] = image[row[inside], column[inside]]
    clear = [np.abs(place - np.floor(place) - 0.5) > 0.005 for place in (x, y)]
    return result, clear[0] & clear[1]
