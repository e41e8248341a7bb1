"""Noise on a teacher that labels, for the ablation that shows why there should be none (paper, section 4.1: "teacher
with augmentation, stochastic depth and dropout").

In: which noise, the teacher's network, keys of images. Out: pictures as training would see them, and a network that
drops branches and features of each image by draws of that image's own.

All chance of an image comes from its key and the seed, so that its label depends neither on what is beside it in a
batch nor on threads, workers and restarts. The network stays in eval mode: BatchNorm over a batch would make the label
depend on the batch.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ns_core.config import InferConfig
from ns_core.data.randaugment import Pixels
from ns_core.data.transforms import TrainView
from ns_core.errors import UserError
from ns_core.models.checkpoint import ModelCard
from ns_core.models.factory import drop_paths, require_branches


class LabelNoise:
    """On one network, whose next batch is that of the last `draw`."""

    def __init__(self, config: InferConfig, network: nn.Module, card: ModelCard) -> None:
        """`network`: made with the stochastic depth of `config`; hooks are put on it.

        Raises `UserError` where it has nothing that the noise could drop.
        """
        require_branches(network, card.model, config.stochastic_depth)
        branches = drop_paths(network)
        head = getattr(network, "get_classifier", lambda: None)()
        self._features = 0
        if config.dropout > 0:
            if not isinstance(head, nn.Linear):
                raise UserError(f"model '{card.model}' has no classifier to drop the input of: set infer.dropout=0")
            self._features = head.in_features
            head.register_forward_pre_hook(self._on_features)
        self._config, self._view = config, TrainView.configured(config.augmentation, card.test_size)
        self._kept = np.array([1 - branch.drop_prob for branch in branches], np.float32)
        self._factors: list[Tensor] = []
        """Of the drawn batch: float32[B] for each branch, then float32[B,D] for the features."""
        for place, branch in enumerate(branches):
            branch.register_forward_hook(partial(self._on_branch, place))

    def __str__(self) -> str:
        noise = self._config
        plain = "" if noise.augmentation == type(noise)().augmentation else ", augmentation"
        return f"dropout {noise.dropout:g}, stochastic depth {noise.stochastic_depth:g}{plain}"

    def view(self, image: Pixels, key: str) -> Pixels:
        """uint8[H,W,3] -> uint8[size,size,3] at the teacher's test resolution."""
        return self._view(image, self._chance("picture", key))

    def draw(self, keys: Sequence[str]) -> None:
        """What the images of the next batch lose: a kept one is divided by the probability of being kept, as in
        training."""
        branches, rate = len(self._kept), self._config.dropout
        drawn = np.stack([self._chance("network", key).random(branches + self._features) for key in keys])
        depth, features = (drawn[:, :branches] < self._kept) / self._kept, (drawn[:, branches:] >= rate) / (1 - rate)
        self._factors = [torch.from_numpy(factors.astype(np.float32)) for factors in (*depth.T, features)]

    def _chance(self, what: str, key: str) -> np.random.Generator:
        digest = hashlib.blake2b(f"{self._config.seed}/{what}/{key}".encode(), digest_size=16).digest()
        return np.random.default_rng(np.frombuffer(digest, np.uint64))

    def _on_branch(self, place: int, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * _beside(self._factors[place], output)

    def _on_features(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        (features,) = inputs
        return (features * _beside(self._factors[-1], features),)


def _beside(factors: Tensor, values: Tensor) -> Tensor:
    """Factors by image, and feature where they are, in the shape of the batch that they are for."""
    assert len(factors) == len(values), f"noise for {len(factors)} images, and a batch of {len(values)}"
    return factors.to(values.device, values.dtype).reshape(*factors.shape, *[1] * (values.dim() - factors.dim()))
