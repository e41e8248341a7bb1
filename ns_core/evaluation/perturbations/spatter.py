"""Spatter: drops of water on the lens that run down from frame to frame.

In: a `Framed` picture, the course, a generator. Out: uint8 frames [h, w, 3].

Source: hendrycks/robustness, ImageNet-P/create_p.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from ns_core.evaluation.corruptions.pixels import Floats, Pixels, cut
from ns_core.evaluation.perturbations.courses import Course, Water
from ns_core.evaluation.perturbations.framing import Framed

_WATER = (175.0, 238.0, 238.0)
"""Pale turquoise, RGB."""
_STRENGTH = 0.6
_RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
_RIM = 20
"""Pixels from a drop's outline, beyond which all are as far."""


def spatter(view: Framed, course: Course, rng: np.random.Generator) -> Iterator[Pixels]:
    """One drawing of drops, which lighten the picture and run down.

    Where there is no drop (of 1,000 pictures of 32 pixels in the first frame of 17, in the last of 132, where they had
    run out of the picture) the original divides by zero and shows black; here the picture is dry.
    """
    water: Water = course.still
    noise = rng.normal(water.mean, water.deviation, (view.height, view.width))
    side = 2 * int(4 * water.sigma + 0.5) + 1
    layer = np.asarray(cv2.GaussianBlur(noise, (side, side), water.sigma, borderType=cv2.BORDER_REPLICATE), np.float64)
    layer[layer < water.threshold] = 0
    image = view.shown.astype(np.float32)
    for _ in course.steps:
        lit = _lit(layer)
        yield cut(image + cv2.merge([lit * channel for channel in _WATER]))
        layer = _flown(layer, water.flow)


def _lit(layer: npt.NDArray[np.float64]) -> Floats:
    """How much of the water's colour is added where, float32 [h, w] of 0 to `_STRENGTH`: the drops in relief."""
    drops = np.asarray(layer * 255, dtype=np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(drops, 50, 150), cv2.DIST_L2, 5)
    near = cv2.blur(np.minimum(distance, _RIM), (3, 3)).astype(np.uint8)
    relief = cv2.filter2D(cv2.equalizeHist(near), cv2.CV_8U, _RELIEF)
    thickness = np.asarray(cv2.blur(relief, (3, 3)), np.float32) * drops
    most = float(thickness.max())
    return thickness * np.float32(_STRENGTH / most) if most > 0 else thickness


def _flown(layer: npt.NDArray[np.float64], flow: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Each column convolved with `flow`, as long as before (numpy's `same`); nothing flows in from above."""
    kernel = np.array(flow[::-1])[:, np.newaxis]
    anchor = (0, len(flow) - 1 - (len(flow) - 1) // 2)
    return np.asarray(cv2.filter2D(layer, cv2.CV_64F, kernel, anchor=anchor, borderType=cv2.BORDER_CONSTANT))
