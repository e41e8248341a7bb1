"""One update: a joint batch in, other weights out. The same for teacher, student and finetune.

In: uint8 images and their targets on the device, labelled rows first. Out: the loss. What the update draws at
random (dropout, stochastic depth, mixup) comes from seeds that are functions of the update's number, so that no
random state has to be kept.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ns_core.models.checkpoint import Normalize
from ns_core.models.recompute import recompute
from ns_core.training.distributed import Ranks
from ns_core.training.ema import ExponentialAverage
from ns_core.training.job import Job
from ns_core.training.losses import joint_loss
from ns_core.training.mixing import mix
from ns_core.training.noise import assert_noise_on
from ns_core.training.optimizers import create_optimizer
from ns_core.training.schedule import learning_rate
from ns_core.training.synced_batchnorm import sync_batchnorm

STEP_SEED = 0x9E3779B1
"""Spreads (seed, step) over torch's 64-bit seeds: neighbouring steps must not share a stream."""
RANK_SEED = 0x85EBCA77 << 24
"""Keeps the draws of the processes apart; process 0 draws as a process alone does."""
_SEEDS = 0x7FFFFFFFFFFFFFFF


class TrainStep:
    """The network in training, its average and its optimiser, on one process's device."""

    def __init__(self, job: Job, ranks: Ranks, compiled: bool = False) -> None:
        self.job, self.ranks, config = job, ranks, job.config
        network = job.network.to(ranks.device)
        self.network = sync_batchnorm(network, ranks.device) if ranks.world > 1 else network
        self.frozen = job.frozen(self.network)
        for part in self.frozen:
            part.requires_grad_(False)
        self.average = ExponentialAverage(self.network, config.ema_decay)
        recompute(self.network, config.recompute_groups)
        self.optimizer = create_optimizer(self.network, config)
        self.normalize = Normalize(job.card).to(ranks.device)
        self._wrapped = ranks.wrap(self.network)
        self._forward: nn.Module = torch.compile(self._wrapped) if compiled else self._wrapped  # type: ignore[assignment]

    def train_mode(self) -> None:
        """Noise on, asserted; frozen parts keep their BatchNorm statistics."""
        self.network.train()
        for part in self.frozen:
            part.eval()
        assert_noise_on(self.network, self.job.config)

    def update(self, step: int, images: Tensor, targets: Tensor, labelled: int) -> Tensor:
        """Update number `step` (0, 1, ...); the mean loss of this process's images, a float32 scalar on the device.

        images: uint8[B,H,W,3]; targets: float32[B,C]; the first `labelled` rows are the labelled ones.
        """
        config, rank = self.job.config, self.ranks.rank
        torch.manual_seed((config.seed * STEP_SEED + step + rank * RANK_SEED) & _SEEDS)
        rng = np.random.default_rng([config.seed, step, rank]) if config.mixup or config.cutmix else None
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for last, (some, wanted, count) in self._micro_batches(images, targets, labelled):
            pictures = self.normalize(some)
            if rng is not None:
                pictures, wanted = mix(pictures, wanted, count, config, rng)
            with self._gradients_stay(not last):
                with self._autocast():
                    logits = self._forward(pictures)
                loss = joint_loss(logits, wanted, count, self.job.loss) / config.accumulation
                loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        self.optimizer.step()
        self.average.update(step)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _micro_batches(
        self, images: Tensor, targets: Tensor, labelled: int
    ) -> Iterator[tuple[bool, tuple[Tensor, Tensor, int]]]:
        """Each with its part of both streams, and whether it is the last."""
        count = self.job.config.accumulation
        if count == 1:
            yield True, (images, targets, labelled)
            return
        pseudo = len(images) - labelled
        for number in range(count):
            first = slice(number * labelled // count, (number + 1) * labelled // count)
            second = slice(labelled + number * pseudo // count, labelled + (number + 1) * pseudo // count)
            some, wanted = (torch.cat([rows[first], rows[second]]) for rows in (images, targets))
            yield number == count - 1, (some, wanted, labelled // count)

    def _gradients_stay(self, here: bool) -> AbstractContextManager[None]:
        """Gradients of all but the last micro-batch are summed here before they are averaged over processes."""
        if here and isinstance(self._wrapped, DistributedDataParallel):
            return self._wrapped.no_sync()
        return nullcontext()

    def _autocast(self) -> AbstractContextManager[None]:
        if self.job.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.ranks.device.type, dtype=torch.bfloat16)
