"""Exponential moving average of a network's weights and BatchNorm statistics.

Statistics are averaged too: averaged weights beside unaveraged statistics do not fit each other. Counters
are copied. Decay n is min(decay, (1+n)/(10+n)), TensorFlow's `num_updates` rule, so that a short run is
not dominated by its initial weights.
"""

import copy

import torch
from torch import Tensor, nn


class ExponentialAverage:
    """A second network that follows the first."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        mine, source = self.network.state_dict(), network.state_dict()
        floating = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        self._mine: list[Tensor] = [mine[name] for name in floating]
        self._source: list[Tensor] = [source[name] for name in floating]
        self._counters = [(mine[name], source[name]) for name in mine if name not in set(floating)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After update `step` (0, 1, ...) of the followed network."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._mine, self._source, 1 - decay)
        for mine, source in self._counters:
            mine.copy_(source)
