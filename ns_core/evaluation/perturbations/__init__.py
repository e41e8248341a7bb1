"""Perturbation sequences of ImageNet-P and CIFAR-10-P, made on the fly from one picture.

In: one uint8 picture [H, W, 3] in RGB as it was ingested, a perturbation's name, a random generator and the size tier
that `corruptions.tier` gives it. Out: uint8 frames [T, h, w, 3]; the picture is left as it was. The result depends on
these alone, so it is the same in any thread, process and order.

Source: Hendrycks & Dietterich, ICLR 2019 (arXiv 1903.12261), section 4.2, and hendrycks/robustness,
ImageNet-P/create_p: `make_cifar_p.py` for the tiers 32 and 64, `make_imagenet_p.py` for 224 and 299. There are but
these two official sets, so:

- up to 144 pixels (tiers 32, 64) the frames have the picture's own size and the 32-pixel parameters, pixels being
  pixels: a shift of 8 is a quarter of a 32-pixel picture and a sixteenth of one of 128. What moves in from outside is
  black, which is part of that benchmark.
- above (224, 299) the picture is resized to a shorter side of 256, perturbed, and its central 224 x 224 shown, so that
  what moves in is mostly picture. Frames are 224 x 224 whatever the tier.

Not the distributed files: the clips of ImageNet-P went through H.264, which reshapes most of a noise and alters smooth
frames by 1 to 2 levels. Figures measured here compare with each other, not with published mFR.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import get_args

import numpy as np
import numpy.typing as npt

from ns_core.config import EXTRA_PERTURBATIONS
from ns_core.config import PERTURBATIONS as NAME
from ns_core.evaluation.corruptions import LEAST_SIDE
from ns_core.evaluation.corruptions.pixels import Pixels
from ns_core.evaluation.perturbations import blur, geometry, light, noise, spatter
from ns_core.evaluation.perturbations.courses import COURSES, Course
from ns_core.evaluation.perturbations.framing import Framed, framed

__all__ = ["DIFFICULTIES", "EXTRA", "PERTURBATIONS", "against_first", "frames", "sequence"]

PERTURBATIONS: tuple[str, ...] = get_args(NAME)
"""Every perturbation known here, in the order of the benchmark's tables: 10, then the 4 of `EXTRA`."""
EXTRA: tuple[str, ...] = EXTRA_PERTURBATIONS
"""For choices during development; in no mean."""
DIFFICULTIES = (1, 2, 3)

_Perturbation = Callable[[Framed, Course, np.random.Generator], Iterator[Pixels]]
_APPLY: Mapping[str, _Perturbation] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": light.snow,
    "brightness": light.brightness,
    "translate": geometry.translate,
    "rotate": geometry.rotate,
    "tilt": geometry.tilt,
    "scale": geometry.scale,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": spatter.spatter,
    "shear": geometry.shear,
}


def against_first(name: str) -> bool:
    """Whether frames are compared with the first, the clean picture, and not with the one before: of the noises.

    As ImageNet-P/test.py has it, for the clips of the official sets too.
    """
    assert name in PERTURBATIONS, f"unknown perturbation '{name}'"
    return "noise" in name


def frames(name: str, tier: int) -> int:
    """How many frames `sequence` makes: 31, but 16 or 41 of translate and 21 or 31 of motion_blur."""
    return len(_course(name, tier, 1).steps)


def sequence(
    image: Pixels, name: str, rng: np.random.Generator, tier: int, difficulty: int = 1
) -> npt.NDArray[np.uint8]:
    """`image` under perturbation `name`, frame by frame.

    Args:
        image: uint8 [H, W, 3], RGB, at least `corruptions.LEAST_SIDE` pixels a side.
        name: one of `PERTURBATIONS`.
        rng: source of noise, flakes and drops; the others draw nothing.
        tier: 32, 64, 224 or 299, as `corruptions.tier` gives it for the picture's shorter side.
        difficulty: 1 to 3, of the noises: how strong. The others are the same sequence at each, and difficulty is how
            many frames apart they are compared (`stability`).

    Returns uint8 [frames(name, tier), h, w, 3]: h and w are 224 at the tiers 224 and 299, else H and W. 2 to 40 ms of
    one core at 224, 0.1 to 1.4 ms at 32.

    Raises `ValueError` for a picture that is too small.
    """
    assert image.dtype == np.uint8, f"sequence() takes uint8 pixels, got {image.dtype}"
    assert image.ndim == 3, f"sequence() takes one picture [H, W, 3], got shape {image.shape}"
    assert image.shape[2] == 3, f"sequence() takes RGB, got {image.shape[2]} channels"
    if min(image.shape[:2]) < LEAST_SIDE:
        height, width = image.shape[:2]
        raise ValueError(f"a picture of {width} x {height} pixels is too small to perturb: {LEAST_SIDE} a side or more")
    course = _course(name, tier, difficulty)
    view = framed(image, margin=tier > 64)
    made = np.empty((len(course.steps), view.height, view.width, 3), np.uint8)
    for place, frame in zip(made, _APPLY[name](view, course, rng), strict=True):
        place[:] = frame
    return made


def _course(name: str, tier: int, difficulty: int) -> Course:
    assert name in PERTURBATIONS, f"unknown perturbation '{name}'"
    assert tier in (32, 64, 224, 299), f"tier {tier} is not one of corruptions.tier"
    assert difficulty in DIFFICULTIES, f"difficulty {difficulty} is not one of 1 to 3"
    levels = COURSES[name][32 if tier <= 64 else 224]
    return levels[difficulty - 1] if against_first(name) else levels[0]
