"""Spatter: drops of water on the lens that run down from frame to frame.

In: a `Framed` picture, the course, a generator. Out: uint8 frames [h, w, 3].

Source: hendrycks/robustness, ImageNet-P/create_p.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from ns_core.evaluation.corruptions.pixels import Pixels, cut
from ns_core.evaluation.corruptions.spatter import lit_drops
from ns_core.evaluation.perturbations.courses import Course, Water
from ns_core.evaluation.perturbations.framing import Framed

_WATER = (175.0, 238.0, 238.0)
"""Pale turquoise, RGB."""
_STRENGTH = 0.6


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
        lit = lit_drops(np.asarray(layer * 255, dtype=np.uint8), _STRENGTH)
        yield cut(image + cv2.merge([lit * channel for channel in _WATER]))
        layer = _flown(layer, water.flow)


def _flown(layer: npt.NDArray[np.float64], flow: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Each column convolved with `flow`, as long as before (numpy's `same`); nothing flows in from above."""
    kernel = np.array(flow[::-1])[:, np.newaxis]
    anchor = (0, len(flow) - 1 - (len(flow) - 1) // 2)
    return np.asarray(cv2.filter2D(layer, cv2.CV_64F, kernel, anchor=anchor, borderType=cv2.BORDER_CONSTANT))
