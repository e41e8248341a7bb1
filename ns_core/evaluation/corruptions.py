"""ImageNet-C corruptions of single images, at the official parameters of four image sizes.

In: one uint8 image [H, W, 3] in RGB, a corruption's name, a severity 1..5, a random generator and a size
tier. Out: the corrupted uint8 image [H, W, 3]; the input is left as it was.

Source: Hendrycks & Dietterich, ICLR 2019 (arXiv 1903.12261) and the generating scripts of
github.com/hendrycks/robustness: `make_cifar_c.py` (tier 32), `make_tinyimagenet_c.py` (64),
`make_imagenet_c.py` (224) and `make_imagenet_c_inception.py` (299). The 224-pixel parameters on a 32-pixel
image would be far too harsh (gaussian noise .08-.38 instead of .04-.10), hence the tiers.

Not the distributed files: those of ImageNet-C went through JPEG at quality 85, which alters a noisy image
by as much as the noise did. Errors measured here compare with each other, not with published mCE figures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ns_core.errors import nearest
from ns_core.fingerprint import digest

Pixels = npt.NDArray[np.uint8]

SEVERITIES = (1, 2, 3, 4, 5)


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


def corrupt(image: Pixels, name: str, severity: int, rng: np.random.Generator, tier: int) -> Pixels:
    """`image` under corruption `name`, in a new array.

    Args:
        image: uint8 [H, W, 3], RGB.
        name: one of `CORRUPTIONS`.
        severity: 1 (mild) to 5.
        rng: source of the noise; seed it with `sample_seed`. Deterministic corruptions draw nothing.
        tier: parameter tier, as `tier()` gives it for the image's shorter side.

    Raises `ValueError` for an unknown name, with the nearest known one.
    """
    if name not in _TABLE:
        raise ValueError(f"unknown corruption '{name}'{nearest(name, _TABLE)}; known: {', '.join(_TABLE)}")
    assert image.dtype == np.uint8, f"corrupt() takes uint8 pixels, got {image.dtype}"
    assert image.ndim == 3, f"corrupt() takes one image [H, W, 3], got shape {image.shape}"
    assert image.shape[2] == 3, f"corrupt() takes RGB, got {image.shape[2]} channels"
    assert severity in SEVERITIES, f"severity {severity} is not one of 1 to 5"
    row = _TABLE[name]
    return row.apply(image, row.levels[tier][severity - 1], rng)


def _truncated(unit: npt.NDArray[Any]) -> Pixels:
    """Floats of 0 to 1 as bytes, the official way: clipped, times 255, the fraction cut off, not rounded."""
    return np.asarray(np.clip(unit, 0, 1) * 255, dtype=np.uint8)


def _gaussian_noise(image: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return _truncated(image / np.float32(255) + np.float32(sigma) * noise)


def _shot_noise(image: Pixels, photons: float, rng: np.random.Generator) -> Pixels:
    return _truncated(rng.poisson(image / 255 * photons) / photons)


def _impulse_noise(image: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    """Salt and pepper in equal parts, drawn for each channel on its own (skimage's `s&p`)."""
    draw = rng.random(image.shape, dtype=np.float32)
    noisy = image.copy()
    noisy[draw < amount] = 0
    noisy[draw < amount / 2] = 255
    return noisy


def _defocus_blur(image: Pixels, lens: tuple[float, float], rng: np.random.Generator) -> Pixels:
    return _truncated(cv2.filter2D(image / 255, -1, _disk(*lens)))


@cache
def _disk(radius: float, alias_blur: float) -> npt.NDArray[np.float32]:
    """A disk of `radius` pixels with its edge softened by `alias_blur`; float32, summing to about 1.

    The official kernel is at least 17 pixels wide; its zero margin is cut off here, which changes no result
    and makes severity 3 at 32 pixels a filter of 3 by 3.
    """
    reach, window = (8, 3) if radius <= 8 else (int(radius), 5)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.float32)
    softened = cv2.GaussianBlur(disk / disk.sum(), (window, window), alias_blur)
    margin = int(np.flatnonzero(softened.any(axis=1))[0])
    kernel = softened[margin : softened.shape[0] - margin, margin : softened.shape[1] - margin]
    return np.ascontiguousarray(kernel)


def _brightness(image: Pixels, rise: float, rng: np.random.Generator) -> Pixels:
    """The HSV value raised by `rise` at equal hue and saturation: RGB scaled by new value over old value.

    Black has no hue and turns grey. Going through HSV itself gives the same within 1/255.
    """
    unit = image / 255
    # A reduction along the channels, which lie innermost, takes 18 times as long.
    value = np.maximum.reduce([unit[..., channel] for channel in range(3)])[..., np.newaxis]
    share = np.divide(unit, value, out=np.ones_like(unit), where=value > 0)
    return _truncated(share * np.minimum(value + rise, 1))


def _contrast(image: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    means = image.mean(axis=(0, 1)) / 255
    return _truncated((image / 255 - means) * factor + means)


def _pixelate(image: Pixels, scale: float, rng: np.random.Generator) -> Pixels:
    """Down and up again with Pillow's box filter, whose weights are not those of cv2's INTER_AREA."""
    height, width = image.shape[:2]
    small = (max(1, int(width * scale)), max(1, int(height * scale)))
    box = Image.Resampling.BOX
    return np.array(Image.fromarray(image).resize(small, box).resize((width, height), box))


def _jpeg_compression(image: Pixels, quality: int, rng: np.random.Generator) -> Pixels:
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream))


@dataclass(frozen=True)
class _Corruption:
    """One row of the table: what is done, and how strongly at each tier for severities 1 to 5."""

    apply: Callable[[Pixels, Any, np.random.Generator], Pixels]
    levels: Mapping[int, tuple[Any, Any, Any, Any, Any]]


_TABLE: Mapping[str, _Corruption] = {
    # Standard deviation, on a scale where white is 1.
    "gaussian_noise": _Corruption(
        _gaussian_noise,
        {
            32: (0.04, 0.06, 0.08, 0.09, 0.10),
            64: (0.04, 0.08, 0.12, 0.15, 0.18),
            224: (0.08, 0.12, 0.18, 0.26, 0.38),
            299: (0.09, 0.13, 0.19, 0.27, 0.40),
        },
    ),
    # Photons that make white.
    "shot_noise": _Corruption(
        _shot_noise,
        {
            32: (500, 250, 100, 75, 50),
            64: (250, 100, 50, 30, 15),
            224: (60, 25, 12, 5, 3),
            299: (50, 20, 10, 5, 3),
        },
    ),
    # Share of values replaced.
    "impulse_noise": _Corruption(
        _impulse_noise,
        {
            32: (0.01, 0.02, 0.03, 0.05, 0.07),
            64: (0.01, 0.02, 0.05, 0.08, 0.14),
            224: (0.03, 0.06, 0.09, 0.17, 0.27),
            299: (0.04, 0.07, 0.10, 0.18, 0.28),
        },
    ),
    # Radius of the disk and sigma of its softened edge, in pixels.
    "defocus_blur": _Corruption(
        _defocus_blur,
        {
            32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
            64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
            224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
            299: ((4, 0.1), (5, 0.5), (7, 0.5), (10, 0.5), (12, 0.5)),
        },
    ),
    # Added to the HSV value, on a scale of 0 to 1.
    "brightness": _Corruption(
        _brightness,
        {
            32: (0.05, 0.1, 0.15, 0.2, 0.3),
            64: (0.1, 0.2, 0.3, 0.4, 0.5),
            224: (0.1, 0.2, 0.3, 0.4, 0.5),
            299: (0.1, 0.2, 0.3, 0.4, 0.5),
        },
    ),
    # Factor on the distance from each channel's mean.
    "contrast": _Corruption(
        _contrast,
        {
            32: (0.75, 0.5, 0.4, 0.3, 0.15),
            64: (0.4, 0.3, 0.2, 0.1, 0.05),
            224: (0.4, 0.3, 0.2, 0.1, 0.05),
            299: (0.4, 0.3, 0.2, 0.1, 0.05),
        },
    ),
    # Side of the small image over that of the whole.
    "pixelate": _Corruption(
        _pixelate,
        {
            32: (0.95, 0.9, 0.85, 0.75, 0.65),
            64: (0.9, 0.8, 0.7, 0.6, 0.5),
            224: (0.6, 0.5, 0.4, 0.3, 0.25),
            299: (0.5, 0.4, 0.3, 0.25, 0.2),
        },
    ),
    # JPEG quality.
    "jpeg_compression": _Corruption(
        _jpeg_compression,
        {
            32: (80, 65, 58, 50, 40),
            64: (65, 58, 50, 40, 25),
            224: (25, 18, 15, 10, 7),
            299: (23, 16, 13, 8, 5),
        },
    ),
}

CORRUPTIONS: tuple[str, ...] = tuple(_TABLE)
"""Every corruption known here, in the order of the benchmark's tables."""
