"""`elastic_transform`: a random affine map, then every pixel displaced by a smooth random field.

In: one uint8 image [H, W, 3] in RGB, the level of `tables`, a random generator. Out: a new uint8 image [H, W, 3].

Source: `elastic_transform` of the official scripts (github.com/hendrycks/robustness, ImageNet-C/create_c).
"""

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

from ns_core.evaluation.corruptions.pixels import Floats, Pixels, truncated

Level = tuple[float, float, float]
"""Strength of the displacement, sigma of its smoothing, farthest jump of the affine map's corners; pixels."""


def elastic_transform(image: Pixels, level: Level, rng: np.random.Generator) -> Pixels:
    """`image` under an affine map that jumps by up to `level[2]` pixels, then displaced by a smooth field.

    As the originals do it, in two interpolations: what the affine map blurs, the displacement blurs again.
    """
    jumps = rng.uniform(-level[2], level[2], (3, 2)).astype(np.float32)
    # The levels without displacement draw nothing for it.
    fields = 2 * rng.random((2, *image.shape[:2]), dtype=np.float32) - 1 if level[0] > 0 else None
    return _stretched(image, level, jumps, fields)


def _stretched(image: Pixels, level: Level, jumps: npt.NDArray[np.float32], fields: Floats | None) -> Pixels:
    """The deterministic part of `elastic_transform`.

    Args:
        image: uint8 [H, W, 3].
        level: as in `elastic_transform`.
        jumps: float32 [3, 2], pixels to the right and down by which the three corners move.
        fields: float32 [2, H, W] of -1 to 1: what is smoothed to displacements to the right and down; None: no
            displacement, which is the levels of strength 0.
    """
    height, width = image.shape[:2]
    mapped = cv2.warpAffine(
        image.astype(np.float32) / np.float32(255),
        _affine(height, width, jumps),
        (width, height),
        borderMode=cv2.BORDER_REFLECT_101,
    )
    if fields is None:
        return truncated(mapped)
    right = np.arange(width, dtype=np.float32) + _smooth(fields[0], level[0], level[1])
    below = np.arange(height, dtype=np.float32)[:, np.newaxis] + _smooth(fields[1], level[0], level[1])
    return truncated(cv2.remap(mapped, right, below, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def _smooth(field: Floats, strength: float, sigma: float) -> Floats:
    """`strength` times `field` [H, W] after a Gaussian of `sigma` pixels.

    cv2.gemm keeps to one thread under cv2.setNumThreads(1); numpy's product would start its own in every loader thread.
    """
    down, across = (_smoothing(side, sigma) for side in field.shape)
    # The third matrix, which counts 0 times, cannot be left out.
    return np.asarray(cv2.gemm(cv2.gemm(down, field, strength, field, 0), across, 1, field, 0), dtype=np.float32)


def _affine(height: int, width: int, jumps: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The map [2, 3] that moves three corners of a square around the centre by `jumps`.

    As in the originals the centre is (height, width) // 2 where cv2 wants (x, y): on pictures that are not square
    the square lies off the centre, and what is random about the map stays the same.
    """
    centre = np.array([height, width], dtype=np.float32) // 2
    reach = min(height, width) // 3
    corners = np.array([centre + reach, [centre[0] + reach, centre[1] - reach], centre - reach], dtype=np.float32)
    return np.asarray(cv2.getAffineTransform(corners, corners + jumps), dtype=np.float64)


@lru_cache(maxsize=16)
def _smoothing(side: int, sigma: float) -> Floats:
    """The symmetric matrix [side, side] of scipy's Gaussian filter, cut off at 3 sigma, edges mirrored.

    At level 1 of 224 pixels the filter has 1,025 taps and meets the picture's edge five times; as a matrix it takes
    as long as any other: a field of 224 pixels in 0.4 ms, where the taps one by one take 25.
    """
    matrix = gaussian_filter1d(np.eye(side), sigma, axis=0, mode="reflect", truncate=3.0)
    return np.asarray(matrix, dtype=np.float32)
