"""Snow and brightness.

In: a `Framed` picture, the course, a generator. Out: uint8 frames [h, w, 3].

Source: hendrycks/robustness, ImageNet-P/create_p.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from scipy import ndimage

from ns_core.evaluation.corruptions import digital
from ns_core.evaluation.corruptions.motion import motion_blurred
from ns_core.evaluation.corruptions.pixels import Floats, Pixels, cut, truncated
from ns_core.evaluation.perturbations.courses import Course, Fall
from ns_core.evaluation.perturbations.framing import Framed

_PALE = 0.85
"""Share of the picture as it is; the rest is its whitened self."""


def brightness(view: Framed, course: Course, rng: np.random.Generator) -> Iterator[Pixels]:
    """From darker to brighter, at equal hue and saturation."""
    image = view.shown
    return (digital.brightness(image, rise, rng) for rise in course.steps)


def snow(view: Framed, course: Course, rng: np.random.Generator) -> Iterator[Pixels]:
    """One drawing of flakes, blown from one direction after the other, over the picture turned pale.

    Each frame shows the flakes twice, the second time upside down.
    """
    fall: Fall = course.still
    flakes = _flakes(view.height, view.width, fall.magnified, rng)
    image = view.shown.astype(np.float32)
    white = 1.5 * cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., np.newaxis] + 127.5
    pale = _PALE * image + (1 - _PALE) * np.maximum(image, white)
    for angle in course.steps:
        blown = np.floor(motion_blurred(flakes, fall.motion.radius, fall.motion.sigma, angle) + 0.5)
        both = blown + blown[::-1, ::-1]
        yield cut(pale + cv2.merge([both, both, both]))


def _flakes(height: int, width: int, magnified: int, rng: np.random.Generator) -> Floats:
    """float32 [height, width], 0 to 255 in whole levels: normal noise above one half, magnified from its middle."""
    noise = rng.normal(0.05, 0.3, (height, width))
    high, wide = -(-height // magnified), -(-width // magnified)
    top, left = (height - high) // 2, (width - wide) // 2
    layer = ndimage.zoom(noise[top : top + high, left : left + wide], magnified, order=1)
    top, left = (layer.shape[0] - height) // 2, (layer.shape[1] - width) // 2
    layer = layer[top : top + height, left : left + width]
    return truncated(np.where(layer < 0.5, 0, layer)).astype(np.float32)
