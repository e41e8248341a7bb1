"""The gate before the pass: whether the teacher is the one that was recorded, and whether it knows anything.

In: what it says of the holdout, through the very path that labels the pool, and how often it predicts each class on the
first shards. Out: nothing, or a `UserError` of one line: a second try would end the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from ns_core.config import InferConfig
from ns_core.errors import UserError
from ns_core.stage import log

CHANCE_LEVEL = 0.01
"""One-sided, of an exact binomial test of the holdout's right answers against guessing."""
_SAME_IMAGES = 2
"""Holdout images that may come out otherwise than recorded: borderline ones, by another machine's rounding."""
_ENOUGH_IMAGES, _ENOUGH_OF_A_CLASS = 2_000, 10
_SHARDS = 16
"""A pool that is sorted by class shows a few of them in each shard: only so many shards can look collapsed."""
_FEW = 20
"""Of so few images no distribution is judged."""


@dataclass(frozen=True)
class Holdout:
    """What the teacher makes of the holdout."""

    images: int
    right: int
    classes: int
    temperature: float
    """Fitted on it (`models.temperature`)."""
    nll: tuple[float, float]
    """Mean negative log-likelihood in nats, before and after temperature scaling."""

    @property
    def top1(self) -> float:
        return self.right / self.images


def check_classes(teacher: Sequence[str], dataset: Sequence[str]) -> None:
    """The teacher's classes are the dataset's, in its order; else `UserError`."""
    if tuple(teacher) == tuple(dataset):
        return
    other = next(
        (place for place, (one, two) in enumerate(zip(teacher, dataset, strict=False)) if one != two),
        min(len(teacher), len(dataset)),
    )
    names = [f"'{classes[other]}'" if other < len(classes) else "none" for classes in (teacher, dataset)]
    raise UserError(
        f"the teacher was trained on another class list than the dataset's: class {other} is {names[0]} to the teacher "
        f"({len(teacher)} classes) and {names[1]} in the dataset ({len(dataset)}): label with a teacher of this dataset"
    )


def check_holdout(found: Holdout, recorded: float | None, tolerance: float) -> None:
    """The teacher's accuracy is what its checkpoint's record says, and better than guessing; else `UserError`.

    `recorded`: 0..1, None when the record has none. Guessing is right for one of `classes`: that a class is frequent is
    no merit of the teacher, and one that knows only this class is caught by `Collapse`.
    """
    allowed = max(tolerance, _SAME_IMAGES / found.images)
    if recorded is None:
        log.warning("the teacher's record has no holdout accuracy: it is not checked that these are its weights")
    elif abs(found.top1 - recorded) > allowed + 1e-9:
        raise UserError(
            f"the teacher's holdout top-1 is {found.top1:.4f} on {found.images} images, where its record says "
            f"{recorded:.4f} (allowed difference {allowed:.4f}): weights, holdout or preprocessing of another run, "
            "or a precision that costs too much; train it anew, label in float32 or raise infer.holdout_tolerance"
        )
    if found.classes > 1:
        guessing = float(bdtrc(found.right - 1, found.images, 1 / found.classes))
        if guessing > CHANCE_LEVEL:
            raise UserError(
                f"the teacher is at chance level on the holdout ({100 * found.top1:.1f} % of {found.images} images, "
                f"{found.classes} classes): its labels would be noise; train it longer, or with more holdout images if "
                "it is better than that"
            )


class Collapse:
    """Watches the predictions of the first shards until they have shown that the teacher tells classes apart."""

    def __init__(self, config: InferConfig, class_names: Sequence[str]) -> None:
        self._config, self._class_names = config, class_names
        classes = len(class_names)
        self._enough = max(_ENOUGH_IMAGES, _ENOUGH_OF_A_CLASS * classes)
        self._predicted = np.zeros(classes, np.int64)
        self._shards = 0
        self._settled = classes == 1

    def look(self, predicted: NDArray[np.int32], shards: int = 1) -> None:
        """Takes in how often each class was predicted in one more shard, or in so many.

        Raises `UserError` once there are enough shards to say that the teacher has collapsed.
        """
        self._predicted += predicted
        self._shards += shards
        if not self._settled and self._predicted.sum() >= self._enough:
            self._judge(final=self._shards >= _SHARDS)

    def end(self) -> None:
        """There are no more shards. Raises `UserError` when what there was looks collapsed."""
        if not self._settled and self._predicted.sum() >= _FEW:
            self._judge(final=True)

    def _judge(self, final: bool) -> None:
        problem = collapse(self._predicted, self._class_names, self._config)
        self._settled = problem is None
        if problem is not None and final:
            raise UserError(problem)


def collapse(predicted: NDArray[np.int64], class_names: Sequence[str], config: InferConfig) -> str | None:
    """What is wrong with predictions, int64[C] by class, in one line that names the setting; None when nothing is.

    Of fewer images than classes no more classes are asked for than there are images.
    """
    images, seen = int(predicted.sum()), int(np.count_nonzero(predicted))
    possible = min(len(predicted), images)
    of = f"of the first {images} images the teacher predicts"
    if seen < config.min_coverage * possible:
        return (
            f"{of} {seen} of {len(predicted)} classes, below infer.min_coverage={config.min_coverage:g}: it has "
            "collapsed; train it longer or with a lower lr, or lower the setting if the pool has no more "
            "classes or is sorted by them"
        )
    shares = predicted[predicted > 0] / images
    entropy = float(-(shares * np.log(shares)).sum()) / math.log(possible)
    if entropy < config.min_entropy:
        return (
            f"{of} '{class_names[int(predicted.argmax())]}' for {100 * shares.max():.1f} %, an entropy of "
            f"{entropy:.3f} of the largest possible, below infer.min_entropy={config.min_entropy:g}: it has collapsed; "
            "train it longer or with a lower lr, or lower the setting if the pool is like that"
        )
    return None
