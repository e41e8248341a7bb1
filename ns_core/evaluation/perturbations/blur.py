"""The three blurs: motion_blur, zoom_blur, gaussian_blur.

In: a `Framed` picture, the course; nothing is drawn. Out: uint8 frames [h, w, 3].

Source: hendrycks/robustness, ImageNet-P/create_p. Its motion blur is ImageMagick's, which rounds to bytes; the other
two cut the fraction off.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from ns_core.evaluation.corruptions.blur import HAIR
from ns_core.evaluation.corruptions.motion import motion_blurred
from ns_core.evaluation.corruptions.pixels import Pixels, cut
from ns_core.evaluation.perturbations.courses import Course, Motion
from ns_core.evaluation.perturbations.framing import Framed
from ns_core.evaluation.perturbations.geometry import about_centre, warped


def motion_blur(view: Framed, course: Course, rng: np.random.Generator) -> Iterator[Pixels]:
    """The window blurred towards one direction after the other."""
    motion: Motion = course.still
    image = view.shown.astype(np.float32)
    for angle in course.steps:
        yield cut(motion_blurred(image, motion.radius, motion.sigma, angle) + 0.5)


def zoom_blur(view: Framed, course: Course, rng: np.random.Generator) -> Iterator[Pixels]:
    """The mean of ever more magnifications; the first frame is the clean picture."""
    total = np.zeros((view.height, view.width, 3), np.uint16)
    for count, zoomed in enumerate(warped(view, course.steps, lambda factor: about_centre(view, scale=factor)), 1):
        total += zoomed
        yield (total // np.uint16(count)).astype(np.uint8)


def gaussian_blur(view: Framed, course: Course, rng: np.random.Generator) -> Iterator[Pixels]:
    """The window ever more blurred; its edge pixels go on for ever (scipy's `nearest`)."""
    reach: float = course.still
    image = view.shown.astype(np.float32)
    for sigma in course.steps:
        side = 2 * int(reach * sigma + 0.5) + 1
        yield cut(cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REPLICATE) + HAIR)
