"""The drawing of operations.

In:  one uint8 picture of shape (height, width, 3), RGB, and a `numpy.random.Generator` of its own.
Out: a uint8 picture of the same shape.
"""

from typing import Literal, Self, TypeAlias

import cv2
import numpy as np

from ns_core.config import Augmentation
from ns_core.data.randaugment.operation import Pixels, Surroundings
from ns_core.data.randaugment.sets import PAPER, TIMM, TORCHVISION, OperationSet, official

Interpolation: TypeAlias = Literal["nearest", "bilinear"]

_FLAGS: dict[Interpolation, int] = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR}


class RandAugment:
    """Applies `num_ops` operations drawn from `operations`, uniformly and with replacement."""

    def __init__(
        self,
        num_ops: int,
        magnitude: float,
        interpolation: Interpolation,
        operations: OperationSet = PAPER,
    ) -> None:
        """`magnitude` on the scale of `operations`, one for all of them; `interpolation` that of
        rotations and shears (official code: nearest)."""
        assert num_ops >= 0, num_ops
        assert 0 <= magnitude < float("inf"), magnitude
        assert magnitude <= operations.largest, (magnitude, operations.largest)
        assert 0 <= operations.fill <= 255, operations.fill
        self.num_ops = num_ops
        self.magnitude = magnitude
        self.operations = operations
        self._flag = _FLAGS[interpolation]
        self._changes = [
            (entry.operation, entry.argument, sign * magnitude if entry.signed else magnitude)
            for entry in operations.entries.values()
            for sign in (1, -1)
        ]
        self._outcomes = len(self._changes) * operations.one_in

    @classmethod
    def configured(cls, noise: Augmentation) -> Self | None:
        """The one that the settings describe, None where they draw no operation."""
        if not noise.randaugment_ops:
            return None
        sets = {
            "paper": PAPER,
            "official": official(noise.randaugment_translate, noise.randaugment_cutout),
            "timm": TIMM,
            "torchvision": TORCHVISION,
        }
        operations = sets[noise.randaugment_set]
        return cls(noise.randaugment_ops, noise.randaugment_magnitude, noise.randaugment_interpolation, operations)

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """A uint8 picture of shape (height, width, 3), RGB -> another of the same shape.

        All chance comes from `rng`: one draw a call, and one for each cut-out. `image` is not written
        to; it is itself the result when nothing drawn changes it.
        """
        assert image.dtype == np.uint8, image.dtype
        assert image.shape[2:] == (3,), image.shape
        size = image.shape[:2]
        around = Surroundings(self.operations.fill, self._flag, rng)
        # Operation, sign and whether at all from one draw: a call to the Generator costs 3 us, as much
        # as an operation at 32 px.
        for draw in rng.integers(self._outcomes, size=self.num_ops).tolist():
            if draw < len(self._changes):
                operation, argument, magnitude = self._changes[draw]
                image = operation(image, argument(magnitude, size), around)
        return image
