"""How many images a recipe points at.

In: the data settings, what a measurement saw, what a person says of the pool. Out: `Counts` and where each is from.
"""

from dataclasses import replace
from typing import NamedTuple

from ns_core.config import DataConfig, Recipe
from ns_core.config.paper import IMAGENET_IMAGES
from ns_core.errors import UserError
from ns_core.planning.profile import Seen
from ns_core.planning.work import Counts

PAPER_POOL = 300_000_000
"""Xie et al. 2020, section 3.1."""
IMAGENET_VALIDATION = 50_000
IMAGE_BYTES = 110_000.0
"""Mean of an ImageNet JPEG."""
_KNOWN = {
    "cifar10": (50_000, 10_000, 0),
    "cifar100": (50_000, 10_000, 0),
    "svhn": (73_257, 26_032, 531_131),
    "stl10": (5_000, 8_000, 100_000),
}
"""Training and test images, and those without labels, as torchvision hands them out."""
_DIGITS = 1_797
_THUMBNAIL_BYTES = 2_600.0
"""A PNG of 32 pixels a side."""


class Counted(NamedTuple):
    """Counts with their source."""

    counts: Counts
    measured: bool
    source: str


def counted(recipe: Recipe, classes: int, seen: Seen | None, pool: int | None) -> Counted:
    """`pool`: what a person says. Raises `UserError` for a pool of no images."""
    if pool is not None and pool < 1:
        raise UserError(f"--pool-images {pool}: there is at least 1")
    found = _assumed(recipe, classes) if seen is None else _seen(seen)
    if pool is None:
        return found
    told = f"pool as you say; others: {found.source}"
    return Counted(replace(found.counts, pool=pool), False, told)


def _seen(seen: Seen) -> Counted:
    counts = Counts(seen.classes, seen.labeled, seen.holdout, seen.test, seen.pool, seen.image_bytes)
    return Counted(counts, True, "the images that the recipe points at")


def _assumed(recipe: Recipe, classes: int) -> Counted:
    data = recipe.data
    if data.source == "digits":
        labeled = data.labels_per_class * classes
        rest = _DIGITS - labeled - data.holdout_images - data.test_images
        counts = Counts(classes, labeled, data.holdout_images, data.test_images, rest, _THUMBNAIL_BYTES)
        return Counted(counts, False, "scikit-learn's digits, by the settings")
    if data.source == "torchvision":
        train, test, extra = _KNOWN[data.dataset]
        labeled = data.labels_per_class * classes or train - data.holdout_images
        pool = extra + train - data.holdout_images - labeled
        counts = Counts(classes, labeled, data.holdout_images, test, pool, _THUMBNAIL_BYTES)
        return Counted(counts, False, f"{data.dataset} as torchvision hands it out, by the settings")
    if data.source == "imagenet":
        holdout = round(IMAGENET_IMAGES * data.holdout_fraction)
        counts = Counts(classes, IMAGENET_IMAGES - holdout, holdout, IMAGENET_VALIDATION, PAPER_POOL, IMAGE_BYTES)
        return Counted(counts, False, "ImageNet, and the paper's pool of 300 million; --pool-images tells of yours")
    return Counted(
        _of_a_folder(recipe, classes, data), False, "made up: your images were not looked at; set data.labeled"
    )


def _of_a_folder(recipe: Recipe, classes: int, data: DataConfig) -> Counts:
    """Twenty epochs of the teacher's training, and a pool of twice what is selected at most."""
    labeled = max(classes, recipe.teacher.batch_size * recipe.teacher.steps // 20)
    holdout, test = (round(labeled * share) for share in (data.holdout_fraction, data.test_fraction))
    return Counts(classes, labeled, holdout, test, 2 * recipe.select.per_class * classes, IMAGE_BYTES)
