"""The official parameters of every perturbation, frame by frame.

Source: hendrycks/robustness, ImageNet-P/create_p: `make_cifar_p.py` (32) and `make_imagenet_p.py` (224).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Course(NamedTuple):
    """How one sequence runs."""

    steps: tuple[float, ...]
    """[T] what differs from frame to frame."""
    still: Any = None
    """What does not."""


class Motion(NamedTuple):
    """A motion blur, as Wand takes it; the steps are its angles."""

    radius: int
    sigma: float


class Fall(NamedTuple):
    """Falling snow; the steps are the angles of its motion blur."""

    magnified: int
    motion: Motion


class Water(NamedTuple):
    """Water on the lens: normal noise, blurred, of which what exceeds `threshold` is a drop."""

    mean: float
    deviation: float
    sigma: float
    threshold: float
    flow: tuple[float, ...]
    """Convolved with each column from one frame to the next: the drops run down."""


Courses = Mapping[int, tuple[Course, ...]]
"""32 or 224 -> one course; of the noises one for each difficulty."""


def _even(first: float, step: float, count: int = 31) -> tuple[float, ...]:
    return tuple(first + step * number for number in range(count))


def _noise(*levels: float) -> tuple[Course, ...]:
    """One clean frame, level 0, and 30 noisy ones."""
    return tuple(Course((0.0,) + (level,) * 30) for level in levels)


COURSES: Mapping[str, Courses] = {
    # Standard deviation, where white is 1.
    "gaussian_noise": {32: _noise(0.02, 0.04, 0.06), 224: _noise(0.03, 0.05, 0.08)},
    # Photons that make white.
    "shot_noise": {32: _noise(700, 400, 200), 224: _noise(300, 120, 60)},
    # Degrees.
    "motion_blur": {
        32: (Course(_even(-180, 9, 21), Motion(6, 1.8)),),
        224: (Course(_even(-120, 4), Motion(10, 3)),),
    },
    # Magnification that joins the mean of those before.
    "zoom_blur": {32: (Course(_even(1, 0.004)),), 224: (Course(_even(1, 0.004)),)},
    # Degrees.
    "snow": {
        32: (Course(_even(-150, 4), Fall(2, Motion(10, 2))),),
        224: (Course(_even(-150, 4), Fall(3, Motion(14, 4))),),
    },
    # Added to the HSV value, where white is 1.
    "brightness": {
        32: (Course(tuple(number * 1.5 / 100 for number in range(-15, 16))),),
        224: (Course(tuple(number * 2 / 100 for number in range(-15, 16))),),
    },
    # Pixels to the right.
    "translate": {32: (Course(_even(-7, 1, 16)),), 224: (Course(_even(-20, 1, 41)),)},
    # Degrees, clockwise.
    "rotate": {32: (Course(_even(-15, 1)),), 224: (Course(_even(-15, 1)),)},
    # Degrees about both axes of the picture's plane.
    "tilt": {32: (Course(_even(-11.25, 0.75)),), 224: (Course(_even(-15, 1)),)},
    # Magnification.
    "scale": {
        32: (Course(tuple((2 * number + 70) / 100 for number in range(31))),),
        224: (Course(tuple((2.5 * number + 40) / 100 for number in range(31))),),
    },
    # Standard deviation, where white is 1, times the value.
    "speckle_noise": {32: _noise(0.05, 0.07, 0.10), 224: _noise(0.05, 0.10, 0.15)},
    # Sigma in pixels; the kernel's reach in sigmas.
    "gaussian_blur": {32: (Course(_even(0.3, 0.015), 7.0),), 224: (Course(_even(0.25, 0.035), 6.0),)},
    # How often the water has flown.
    "spatter": {
        32: (Course(_even(0, 1), Water(0.6, 0.265, 1.75, 0.7, (0.2, 0.8))),),
        224: (Course(_even(0, 1), Water(0.65, 0.27, 3.7, 0.69, (0.05, 0.1, 0.15, 0.7))),),
    },
    # Degrees.
    "shear": {32: (Course(_even(-15, 1)),), 224: (Course(_even(-15, 1)),)},
}
