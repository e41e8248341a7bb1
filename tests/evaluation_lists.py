"""Lists of pictures and clips in memory, and a tiny network that looks at them, for tests of an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ns_core.data.images import CorruptImage
from ns_core.evaluation.samples import Pixels, View
from ns_core.models.checkpoint import ModelCard, Normalize
from ns_core.models.factory import create_network
from tests.factories import TINY_MODEL

CLASSES = 10


@dataclass(frozen=True, eq=False)
class Pictures:
    """`Samples` of these pictures; those at `broken` cannot be read."""

    pictures: Sequence[Pixels]
    labels: NDArray[np.int32]
    classes: NDArray[np.int64] | None = None
    view: View = "clean"
    broken: frozenset[int] = frozenset()

    @property
    def keys(self) -> Sequence[str]:
        return [f"picture-{number:03d}" for number in range(len(self.pictures))]

    def image(self, number: int) -> Pixels:
        if number in self.broken:
            raise CorruptImage("is broken")
        return self.pictures[number]


@dataclass(frozen=True, eq=False)
class Films:
    """`Clips` of these sequences."""

    films: Sequence[Pixels]
    labels: NDArray[np.int32]
    view: View = "whole"
    against_first: bool = False
    step: int = 1
    broken: frozenset[int] = field(default=frozenset())

    @property
    def keys(self) -> Sequence[str]:
        return [f"film-{number:03d}" for number in range(len(self.films))]

    def frames(self, number: int) -> Pixels:
        if number in self.broken:
            raise CorruptImage("ends early")
        return self.films[number]


def noise(count: int, *shape: int, seed: int = 0) -> list[Pixels]:
    """Pictures or sequences of this shape, smooth enough to be told apart by a tiny network."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 256, (count, *(1 for _ in shape[:-1]), 3)).astype(np.float64)
    grain = rng.normal(0, 40, (count, *shape))
    return list(np.clip(low + grain, 0, 255).astype(np.uint8))


def labels_of(count: int) -> NDArray[np.int32]:
    return (np.arange(count) % CLASSES).astype(np.int32)


def tiny_network(pictures: Sequence[Pixels], size: int = 32, seed: int = 0) -> tuple[nn.Module, ModelCard]:
    """Fresh weights with BatchNorm statistics of these pictures, all of one size, so that the answers differ."""
    names = tuple(str(number) for number in range(CLASSES))
    card = ModelCard(model=TINY_MODEL, class_names=names, train_size=size, test_size=size, crop_pct=1)
    torch.manual_seed(seed)
    network = create_network(TINY_MODEL, CLASSES, bn_momentum=1.0).train()
    with torch.no_grad():
        network(Normalize(card)(torch.from_numpy(np.stack(pictures))))
    return network.eval(), card
