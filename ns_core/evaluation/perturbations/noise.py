"""The three noises: a clean frame, then the same picture under noise drawn anew for each frame.

In: a `Framed` picture, the course, a generator. Out: uint8 frames [h, w, 3]. Laws and levels are those of
hendrycks/robustness, ImageNet-P/create_p; a frame is what `corruptions.noise` makes of the window.
"""

from collections.abc import Callable, Iterator

import numpy as np

from ns_core.evaluation.corruptions import noise
from ns_core.evaluation.corruptions.pixels import Pixels
from ns_core.evaluation.perturbations.courses import Course
from ns_core.evaluation.perturbations.framing import Framed


def gaussian_noise(view: Framed, course: Course, rng: np.random.Generator) -> Iterator[Pixels]:
    """Normal noise."""
    return _frames(view, course, lambda image, sigma: noise.gaussian_noise(image, sigma, rng))


def shot_noise(view: Framed, course: Course, rng: np.random.Generator) -> Iterator[Pixels]:
    """Poisson noise."""
    return _frames(view, course, lambda image, photons: noise.shot_noise(image, int(photons), rng))


def speckle_noise(view: Framed, course: Course, rng: np.random.Generator) -> Iterator[Pixels]:
    """Normal noise in proportion to the value."""
    return _frames(view, course, lambda image, sigma: noise.speckle_noise(image, sigma, rng))


def _frames(view: Framed, course: Course, noisy: Callable[[Pixels, float], Pixels]) -> Iterator[Pixels]:
    image = view.shown
    return (noisy(image, level) if level else image for level in course.steps)
