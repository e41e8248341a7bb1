"""ImageNet-C corruptions of single images, at the official parameters of four image sizes.

In: one uint8 image [H, W, 3] in RGB of any shape from 8 pixels a side, a corruption's name, a severity 1..5, a random
generator and a size tier. Out: the corrupted uint8 image [H, W, 3]; the input is left as it was. The result depends on
these alone, so it is the same in any thread, process and order; nothing here uses numpy's global generator.

Source: Hendrycks & Dietterich, ICLR 2019 (arXiv 1903.12261) and the generating scripts of
github.com/hendrycks/robustness (see `tables`), whose quirks are kept and named at each function. Where a script takes
224 for the side of the picture, the picture's own height and width stand here.

Not the distributed files: those of ImageNet-C went through JPEG at quality 85, which alters a noisy image by as much as
the noise did. Errors measured here compare with each other, not with published mCE figures.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from ns_core import config
from ns_core.errors import nearest
from ns_core.evaluation.corruptions import blur, digital, elastic, noise, spatter, weather
from ns_core.evaluation.corruptions.pixels import Pixels
from ns_core.evaluation.corruptions.tables import LEVELS
from ns_core.fingerprint import digest

__all__ = ["CORRUPTIONS", "EXTRA", "LEAST_SIDE", "SEVERITIES", "Pixels", "corrupt", "sample_seed", "tier"]

CORRUPTIONS: tuple[str, ...] = get_args(config.CORRUPTIONS)
"""Every corruption known here, in the order of the benchmark's tables: 15, then the 4 of `EXTRA`."""
EXTRA: tuple[str, ...] = config.EXTRA_CORRUPTIONS
"""For choices during development; never in mCE."""
SEVERITIES = (1, 2, 3, 4, 5)
LEAST_SIDE = 8
"""Pixels."""

_Corruption = Callable[[Pixels, Any, np.random.Generator], Pixels]
_APPLY: Mapping[str, _Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": partial(weather.frost, photographs=False),
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": elastic.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": spatter.spatter,
    "saturate": digital.saturate,
}


def tier(short_side: int) -> int:
    """The parameter tier for images whose shorter side is `short_side` pixels: 32, 64, 224 or 299.

    The limits 48, 144 and 260 lie halfway, rounded, between neighbouring tiers.
    """
    for limit, size in ((48, 32), (144, 64), (260, 224)):
        if short_side <= limit:
            return size
    return 299


def sample_seed(seed: int, name: str, severity: int, key: str) -> int:
    """A 64-bit seed for one image under one corruption: a hash of what is corrupted, and nothing else.

    Seeding each image apart makes the result independent of batch size, worker and order.
    """
    return int(digest([seed, name, severity, key])[:16], 16)


def corrupt(
    image: Pixels,
    name: str,
    severity: int,
    rng: np.random.Generator,
    tier: int,
    frost: Literal["drawn", "photographs"] = "drawn",
) -> Pixels:
    """`image` under corruption `name`, in a new array.

    Args:
        image: uint8 [H, W, 3], RGB, at least `LEAST_SIDE` pixels a side.
        name: one of `CORRUPTIONS`.
        severity: 1 (mild) to 5.
        rng: source of the noise; seed it with `sample_seed`. Deterministic corruptions draw nothing.
        tier: parameter tier, as `tier()` gives it for the image's shorter side.
        frost: the ice of `frost`: drawn by a program, or the official photographs.

    Raises `ValueError` for an unknown name, with the nearest known one, and for an image that is too small.
    """
    if name not in _APPLY:
        raise ValueError(f"unknown corruption '{name}'{nearest(name, _APPLY)}; known: {', '.join(_APPLY)}")
    assert image.dtype == np.uint8, f"corrupt() takes uint8 pixels, got {image.dtype}"
    assert image.ndim == 3, f"corrupt() takes one image [H, W, 3], got shape {image.shape}"
    assert image.shape[2] == 3, f"corrupt() takes RGB, got {image.shape[2]} channels"
    assert severity in SEVERITIES, f"severity {severity} is not one of 1 to 5"
    if min(image.shape[:2]) < LEAST_SIDE:
        height, width = image.shape[:2]
        raise ValueError(f"an image of {width} x {height} pixels is too small to corrupt: {LEAST_SIDE} a side or more")
    level = LEVELS[name][tier][severity - 1]
    if name == "frost" and frost == "photographs":
        return weather.frost(image, level, rng, photographs=True)
    return _APPLY[name](image, level, rng)
