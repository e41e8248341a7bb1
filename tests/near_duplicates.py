"""Pictures to hide among others, and ways to store a picture another way.

The crops come from three photographs that scikit-learn and matplotlib ship. Neighbours overlap by half, and count
as different pictures.
"""

from collections.abc import Callable
from functools import cache
from io import BytesIO

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from ns_core.config import DataConfig
from ns_core.data.duplicates import Signature, signature
from ns_core.data.images import decode
from ns_core.data.signatures import LUMA_BYTES
from ns_core.data.sources import open_source

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels], Pixels]

CONTRAST = 20
"""Deviation of the thumbnail's luma: crops with less are left out where look-alikes would count as errors."""


@cache
def digits() -> tuple[list[Pixels], list[Pixels]]:
    """700 judged, of the test and holdout splits, and 1,047 of the pool, as prepare-dataset meets them."""
    source = open_source(DataConfig(source="digits"))
    images = {
        split: [decode(sample.read()) for part in parts for sample in part.samples()]
        for split, parts in source.parts.items()
    }
    return images["test"] + images["holdout"], images["pool"]


@cache
def crops(side: int) -> list[Pixels]:
    grace = np.asarray(Image.open(f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg").convert("RGB"))
    return [
        np.ascontiguousarray(photograph[top : top + side, left : left + side])
        for photograph in (*load_sample_images().images, grace)
        for top in range(0, photograph.shape[0] - side + 1, side // 2)
        for left in range(0, photograph.shape[1] - side + 1, side // 2)
    ]


def contrast(one: Signature) -> float:
    return float(np.frombuffer(one.thumbnail, np.uint8)[:LUMA_BYTES].std())


def judged_and_pool(kind: str, rng: np.random.Generator) -> tuple[list[Pixels], list[Pixels]]:
    if kind == "digits":
        return digits()
    kept = [crop for crop in crops(int(kind)) if contrast(signature(crop)) >= CONTRAST]
    order = rng.permutation(len(kept))
    cut = len(kept) // 2
    return [kept[row] for row in order[:cut]], [kept[row] for row in order[cut:]]


def stored(image: Pixels, form: str, **options: int) -> Pixels:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return decode(buffer.getvalue())


def encoded(rng: np.random.Generator) -> Change:
    quality = int(rng.integers(50, 96))
    return lambda image: stored(image, "JPEG", quality=quality)


def resized(rng: np.random.Generator) -> Change:
    factor = float(rng.choice([0.9, 1.1]))
    how = Image.Resampling(rng.choice([Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS]))

    def change(image: Pixels) -> Pixels:
        height, width, _ = image.shape
        return np.asarray(Image.fromarray(image).resize((round(width * factor), round(height * factor)), how))

    return change


def mirrored(_: np.random.Generator) -> Change:
    return lambda image: image[:, ::-1]


def brighter(rng: np.random.Generator) -> Change:
    levels = int(rng.choice([-10, 10]))
    return lambda image: np.clip(image.astype(int) + levels, 0, 255).astype(np.uint8)


def other_format(rng: np.random.Generator) -> Change:
    form = str(rng.choice(["WEBP", "GIF", "BMP"]))
    return lambda image: stored(image, form)
