"""`spatter`: drops of water or splashes of mud on the lens.

In: one uint8 image [H, W, 3] in RGB, the level of `tables`, a random generator. Out: a new uint8 image [H, W, 3].

Source: `spatter` of the official scripts (github.com/hendrycks/robustness, ImageNet-C/create_c).
"""

import cv2
import numpy as np
import numpy.typing as npt

from ns_core.evaluation.corruptions.pixels import Floats, Pixels, truncated

Level = tuple[float, float, float, float, float, int]
"""Mean and deviation of the liquid, sigma of its blur, the least that stays of it; strength of water or sigma of mud;
0 for water, 1 for mud."""

_WATER = np.array([175, 238, 238], dtype=np.float32) / np.float32(255)
"""Pale turquoise, RGB."""
_MUD = np.array([63, 42, 20], dtype=np.float32) / np.float32(255)
"""Brown, RGB."""
_RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], dtype=np.float32)
"""Light from the upper left."""


def spatter(image: Pixels, level: Level, rng: np.random.Generator) -> Pixels:
    """`image` seen through drops (`level[5]` 0) or splashes of mud (1)."""
    return _spattered(image, level, rng.standard_normal(image.shape[:2]))


def _spattered(image: Pixels, level: Level, draw: npt.NDArray[np.float64]) -> Pixels:
    """The deterministic part of `spatter`; `draw` is [H, W] of the standard normal law.

    In doubles until the first threshold: Canny's edges and the equalised histogram behind it turn a single pixel that
    falls on the other side into a difference of the whole drop.
    """
    mean, deviation, sigma, least, strength, kind = level
    liquid = _blurred(mean + deviation * draw, sigma)
    liquid[liquid < least] = 0
    unit = image.astype(np.float32) / np.float32(255)
    if kind == 0:
        drops = lit_drops(np.asarray(liquid * 255, dtype=np.uint8), strength)
        return truncated(unit + _tinted(drops, _WATER))
    splashes = _blurred((liquid > least).astype(np.float32), strength)
    splashes[splashes < 0.8] = 0
    return truncated(unit * cv2.merge([1 - splashes] * 3) + _tinted(splashes, _MUD))


def lit_drops(liquid: npt.NDArray[np.uint8], strength: float) -> Floats:
    """Brightness [H, W] of the drops, 0 to `strength`: the liquid lit by its distance from the drops' edges.

    Without a single lit drop, which small pictures come to, the originals divide 0 by 0 and the picture turns black;
    here it stays dry.
    """
    edges = cv2.Canny(liquid, 50, 150)
    distance = np.minimum(cv2.distanceTransform(255 - edges, cv2.DIST_L2, 5), np.float32(20))
    depth = cv2.equalizeHist(cv2.blur(distance, (3, 3)).astype(np.uint8))
    lit = cv2.blur(cv2.filter2D(depth, cv2.CV_8U, _RELIEF), (3, 3)).astype(np.float32)
    drops = lit * liquid
    brightest = drops.max()
    return drops if brightest == 0 else drops / brightest * np.float32(strength)


def _tinted(layer: Floats, colour: npt.NDArray[np.float32]) -> Floats:
    """`layer` [H, W] times each channel of `colour`: [H, W, 3]."""
    return np.asarray(cv2.merge([layer * share for share in colour]), dtype=np.float32)


def _blurred(layer: npt.NDArray[np.floating], sigma: float) -> npt.NDArray[np.floating]:
    """As skimage's `gaussian`: the kernel ends at 4 sigma, the layer's edge pixels go on."""
    side = 2 * int(4 * sigma + 0.5) + 1
    return np.asarray(cv2.GaussianBlur(layer, (side, side), sigma, borderType=cv2.BORDER_REPLICATE))
