"""The picture moved behind the window: translate, rotate, tilt, scale, shear.

In: a `Framed` picture, the course; nothing is drawn. Out: uint8 frames [h, w, 3]; what the picture does not cover is
black.

Source: hendrycks/robustness, ImageNet-P/create_p, which calls torchvision's `affine` on a Pillow image. Its matrices
are those of torchvision 0.2, the release of that year: the centre lies half a pixel right of and below the middle, and
a shear by s shortens the picture's height by cos(s); both were changed later.
"""

import math
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ns_core.evaluation.corruptions.pixels import Pixels
from ns_core.evaluation.perturbations.courses import Course
from ns_core.evaluation.perturbations.framing import Framed

Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): the pixel at (x, y) shows the point (a x + b y + c, d x + e y + f)."""


def translate(view: Framed, course: Course, rng: np.random.Generator) -> Iterator[Pixels]:
    """Moved to the right, from pixel to pixel."""
    for step in course.steps:
        shift = int(step)
        moved = np.zeros_like(view.whole)
        if shift > 0:
            moved[:, shift:] = view.whole[:, :-shift]
        else:
            moved[:, : moved.shape[1] + shift] = view.whole[:, -shift:]
        yield view.cropped(moved)


def rotate(view: Framed, course: Course, rng: np.random.Generator) -> Iterator[Pixels]:
    """Turned clockwise."""
    return warped(view, course.steps, lambda degrees: about_centre(view, angle=degrees))


def scale(view: Framed, course: Course, rng: np.random.Generator) -> Iterator[Pixels]:
    """Magnified."""
    return warped(view, course.steps, lambda factor: about_centre(view, scale=factor))


def shear(view: Framed, course: Course, rng: np.random.Generator) -> Iterator[Pixels]:
    """Sheared along the rows."""
    return warped(view, course.steps, lambda degrees: about_centre(view, shear=degrees))


def tilt(view: Framed, course: Course, rng: np.random.Generator) -> Iterator[Pixels]:
    """Turned out of its plane about both its axes, as seen from as far away as its diagonal is long."""
    height, width = view.whole.shape[:2]
    for degrees in course.steps:
        matrix = _tilted(width, height, math.radians(degrees))
        # The window alone takes 0.17 ms in place of 0.29, and differs by a level here and there.
        moved = np.asarray(cv2.warpPerspective(view.whole, matrix, (width, height)), dtype=np.uint8)
        yield view.cropped(moved)


def about_centre(view: Framed, angle: float = 0, scale: float = 1, shear: float = 0) -> Affine:
    """Where the pixels of a picture turned and sheared by degrees and magnified by `scale` come from."""
    height, width = view.whole.shape[:2]
    x, y = width * 0.5 + 0.5, height * 0.5 + 0.5
    turn, slant = math.radians(angle), math.radians(shear)
    shrink = 1 / (scale * math.cos(slant))
    a, b = math.cos(turn + slant) * shrink, math.sin(turn + slant) * shrink
    d, e = -math.sin(turn) * shrink, math.cos(turn) * shrink
    return a, b, x - a * x - b * y, d, e, y - d * x - e * y


def warped(view: Framed, steps: tuple[float, ...], matrix_of: Callable[[float], Affine]) -> Iterator[Pixels]:
    """The window after each step's matrix, bilinear.

    Pillow and not cv2: 0.7 ms for 224 pixels against 0.3 ms, but the official edges (black begins at the outermost
    pixels' outer edge, without a fade) and the same in every version.
    """
    picture = Image.fromarray(view.whole)
    for step in steps:
        a, b, c, d, e, f = matrix_of(step)
        source = (a, b, c + a * view.left + b * view.top, d, e, f + d * view.left + e * view.top)
        size = (view.width, view.height)
        yield np.asarray(picture.transform(size, Image.Transform.AFFINE, source, Image.Resampling.BILINEAR))


def _tilted(width: int, height: int, turn: float) -> npt.NDArray[np.float64]:
    """The homography [3, 3] of a tilt by `turn` radians about the horizontal and the vertical axis."""
    cos, sin, distance = math.cos(turn), math.sin(turn), math.hypot(width, height)
    to_space = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1], [0, 0, 1]])
    about_row = np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1]])
    about_column = np.array([[cos, 0, -sin, 0], [0, 1, 0, 0], [sin, 0, cos, 0], [0, 0, 0, 1]])
    away = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, distance], [0, 0, 0, 1]])
    to_plane = np.array([[distance, 0, width / 2, 0], [0, distance, height / 2, 0], [0, 0, 1, 0]])
    return np.asarray(to_plane @ away @ about_row @ about_column @ to_space)
