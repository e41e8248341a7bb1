"""What an evaluation looks at: lists of labelled pictures, and of sequences of frames, in a fixed order.

A split of a dataset, a folder of ImageNet-A, fog at severity 3 of either, a CIFAR-10-C array: each is a `Samples`; the
clips of ImageNet-P, or 31 frames made of a picture on the fly, are `Clips`. Both are read by number, in any order and
by several threads at once, and give the same pixels each time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ns_core.evaluation.results import Gap
from ns_core.evaluation.tables import Scene

Pixels = NDArray[np.uint8]

View = Literal["clean", "whole"]
"""How a picture comes to the network's size: `clean` as all evaluation does it (resized by the checkpoint's crop_pct,
central crop), `whole` resized to it without a crop, and left alone if it has that size: of official files that are
cropped already."""


class Samples(Protocol):
    """N labelled pictures."""

    @property
    def keys(self) -> Sequence[str]:
        """[N] names of the source images: equal in all lists that are made of the same images."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """[N] class numbers of the checkpoint; -1: none of them."""

    @property
    def classes(self) -> NDArray[np.int64] | None:
        """Class numbers, ascending, among which the network has to choose; None: all."""

    @property
    def view(self) -> View: ...

    def image(self, number: int) -> Pixels:
        """uint8[H,W,3], not to be written into. Raises `CorruptImage` (`data.images`) with the reason."""


class Clips(Protocol):
    """N labelled sequences."""

    @property
    def keys(self) -> Sequence[str]: ...

    @property
    def labels(self) -> NDArray[np.int32]: ...

    @property
    def view(self) -> View: ...

    @property
    def against_first(self) -> bool:
        """Whether each frame is compared with the first (noises), not with an earlier one."""

    @property
    def step(self) -> int:
        """How many frames earlier; 1 where `against_first`."""

    def frames(self, number: int) -> Pixels:
        """uint8[T,H,W,3]. Raises `CorruptImage` with the reason."""


@dataclass(frozen=True)
class Opened:
    """What is there of an official set."""

    samples: Mapping[Scene, Samples] = field(default_factory=dict)
    clips: Mapping[Scene, Clips] = field(default_factory=dict)
    gaps: Sequence[Gap] = ()
    """What should be there and is not."""
