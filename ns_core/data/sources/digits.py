"""Source `digits`: scikit-learn's 1,797 handwritten digits as 32x32 RGB PNGs. Nothing is downloaded.

In: `labels_per_class`, `holdout_images`, `test_images`. Out: a `Source`, split evenly over the classes.
"""

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ns_core.config import DataConfig
from ns_core.data.images import encode_png
from ns_core.data.index import SPLITS, Split
from ns_core.data.source import Part, RawSample, Source
from ns_core.data.sources.kind import Kind
from ns_core.data.sources.splits import by_quota
from ns_core.errors import UserError

DIGIT_SIDE = 32
"""Pixels; the digits are 8x8."""


def digits(config: DataConfig) -> Source:
    """The digits, in parts.

    The test and holdout splits do not depend on `labels_per_class`, and fewer labels are a subset of more
    (unless a class is nearly used up), so that arms with different numbers of labels can be compared.
    Raises `UserError` when more images are asked for than there are, or none is left for the pool.
    """
    images, labels = _load()
    rows = _split(config, labels)

    def samples(split: Split, some: list[int]) -> Iterator[RawSample]:
        for row in some:
            key = f"digit-{row:04d}"
            label = None if split == "pool" else int(labels[row])
            yield RawSample(split, key, label, "png", key, partial(_render, images[row]))

    def parts(split: Split) -> list[Part]:
        starts = range(0, len(rows[split]), config.shard_images)
        runs = [rows[split][start : start + config.shard_images] for start in starts]
        return [Part(split, number, len(run), partial(samples, split, run)) for number, run in enumerate(runs)]

    return Source(tuple(str(digit) for digit in range(10)), {split: parts(split) for split in SPLITS})


def digest(_: DataConfig) -> str:
    """Name and sha256 of the arrays."""
    images, labels = _load()
    return "digits-" + hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()


def _load() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """uint8[1797,8,8] with values 0..16, uint8[1797] classes; from the package."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)


def _render(image: NDArray[np.uint8]) -> bytes:
    """PNG, 32x32 RGB, of an 8x8 digit. Pillow's bicubic is fixed-point: the same pixels on every machine."""
    grey = np.round(image * (255.0 / 16.0)).astype(np.uint8)
    large = Image.fromarray(grey).resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC)
    return encode_png(np.repeat(np.asarray(large)[:, :, None], 3, axis=2))


def _split(config: DataConfig, labels: NDArray[np.uint8]) -> dict[Split, list[int]]:
    """Ascending rows of each split."""
    if not config.labels_per_class:
        raise UserError(
            "data.labels_per_class 0 keeps the labels of all digits, leaving none for the pool; set 1 or more"
        )
    by_class = [np.flatnonzero(labels == digit).tolist() for digit in range(10)]
    fewest = min(map(len, by_class))
    wanted = config.labels_per_class * len(by_class) + config.holdout_images + config.test_images
    if config.labels_per_class > fewest or wanted >= len(labels):
        raise UserError(
            f"data.labels_per_class {config.labels_per_class} of {len(by_class)} classes + data.holdout_images "
            f"{config.holdout_images} + data.test_images {config.test_images} = {wanted} images: the digits "
            f"are {len(labels)}, at least {fewest} of a class, and one has to be left for the pool; "
            "lower one of the three"
        )
    return by_quota(
        by_class, {"test": config.test_images, "holdout": config.holdout_images}, config.labels_per_class, config.seed
    )


DIGITS = Kind(digits, digest, digits)
