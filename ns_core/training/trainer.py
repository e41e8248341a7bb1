"""The one training loop; teacher, noisy student and finetune are three recipes for it.

Exact resume on one device: the order of the data, every augmentation, the learning rate and the random
draws of dropout are functions of the step, so a checkpoint is weights, averages, optimiser and a number.
Killed after any update and started again, training ends in the same bits.
"""

import time
from pathlib import Path
from typing import Any

import torch
from timm.optim._optim_factory import create_optimizer_v2
from torch import nn

from ns_core.config import TrainConfig
from ns_core.data.loader import Batch
from ns_core.errors import StageFailed
from ns_core.models.checkpoint import Normalize
from ns_core.stage import StageContext, Stopped, log
from ns_core.training.ema import ExponentialAverage
from ns_core.training.job import Job
from ns_core.training.losses import joint_loss
from ns_core.training.noise import assert_noise_on
from ns_core.training.schedule import learning_rate

CHECKPOINT = "checkpoint.pt"
STEP_SEED = 0x9E3779B1
"""Spreads (seed, step) over torch's 64-bit seeds: neighbouring steps must not share a stream."""


class Trainer:
    """Runs a job from its last checkpoint to its last update."""

    def __init__(self, job: Job, context: StageContext, device: torch.device) -> None:
        self.job, self.context, self.device = job, context, device
        self.network = job.network.to(device)
        for part in job.frozen:
            part.requires_grad_(False)
        self.normalize = Normalize(job.card).to(device)
        self.average = ExponentialAverage(self.network, job.config.ema_decay)
        self.optimizer = _optimizer(self.network, job.config)
        self.step = 0
        """Updates done."""
        self._losses: list[float] = []

    def fit(self) -> nn.Module:
        """Trains to the end and returns the averaged network, in eval mode."""
        self._restore()
        config = self.job.config
        self._train_mode()
        self._clock = (time.monotonic(), self.step)
        try:
            if self._losses and self._ends_epoch():  # stopped while its holdout was read
                self._end_epoch()
            for batch in self.job.loader.batches(self.step, config.steps, self.context.compute.loader_workers):
                self._update(batch)
                if self._ends_epoch():
                    self._end_epoch()
                if self.context.stopping() and self.step < config.steps:
                    raise Stopped
        except Stopped:  # of the loader, too, when it waits for a server that is away
            self._save()
            log.info("stopped after update %d of %d; saved", self.step, config.steps)
            raise
        return self.average.network

    def _ends_epoch(self) -> bool:
        return self.step % self.job.config.epoch_steps == 0 or self.step == self.job.config.steps

    def _train_mode(self) -> None:
        self.network.train()
        for part in self.job.frozen:
            part.eval()
        assert_noise_on(self.network, self.job.config)

    def _update(self, batch: Batch) -> None:
        config = self.job.config
        torch.manual_seed((config.seed * STEP_SEED + batch.step) & 0x7FFFFFFFFFFFFFFF)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, batch.step)
        images = self.normalize(torch.from_numpy(batch.images).to(self.device))
        targets = torch.from_numpy(batch.targets).to(self.device)
        loss = joint_loss(self.network(images), targets, batch.labelled, self.job.loss)
        value = loss.item()
        if not value < float("inf"):
            raise StageFailed(
                f"loss is {value} at update {batch.step}; keys of the batch: {', '.join(batch.keys[:8])} ...; "
                "lower the learning rate or look at these images"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.average.update(batch.step)
        self.step = batch.step + 1
        self._losses.append(value)
        self.context.progress(self.step, config.steps, f"loss {value:.3f}")

    def _end_epoch(self) -> None:
        """Asserts that the noise was on to the end, looks at the holdout, writes the curve and a checkpoint."""
        assert_noise_on(self.network, self.job.config)
        top1 = self.job.holdout(self.average.network)
        self._train_mode()
        curve, rate = self.job.curve, learning_rate(self.job.config, self.step - 1)
        mean_loss = sum(self._losses) / len(self._losses)
        self._losses.clear()
        self.context.metric(f"{curve}/loss", mean_loss, self.step)
        self.context.metric(f"{curve}/lr", rate, self.step)
        self.context.metric(f"{curve}/holdout_top1", top1, self.step)
        since, first = self._clock
        speed = (self.step - first) / max(1e-9, time.monotonic() - since)
        log.info(
            "update %d/%d: loss %.4f, holdout top-1 %.2f %%, %.1f updates/s",
            *(self.step, self.job.config.steps, mean_loss, 100 * top1, speed),
        )
        if self.step < self.job.config.steps:
            self._save()

    def _save(self) -> None:
        state = {
            "fingerprint": self.context.fingerprint,
            "step": self.step,
            "losses": list(self._losses),
            "bad_images": self.job.loader.bad.state(),
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": [dict(point) for point in self.context.history],
        }
        self.context.resume.save(CHECKPOINT, lambda path: torch.save(state, path))

    def _restore(self) -> None:
        path = self.context.resume.load(CHECKPOINT)
        if path is None:
            return
        state = _read_checkpoint(path)
        if state is None or state.get("fingerprint") != self.context.fingerprint:
            log.warning("the saved checkpoint cannot be used: training starts at update 0")
            return
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self._losses = state["step"], state["losses"]
        self.job.loader.bad.restore(state["bad_images"])
        self.context.history.extend(state["history"])
        log.info("going on from update %d of %d", self.step, self.job.config.steps)


def _read_checkpoint(path: Path) -> dict[str, Any] | None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # torch lets out whatever its readers trip over: 6,000 files damaged at random raised RuntimeError,
    # UnpicklingError, ValueError, EOFError, KeyError, IndexError, TypeError and AttributeError.
    except Exception:
        return None
    return state if isinstance(state, dict) else None


def _optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """timm's, with its rule that biases and BatchNorm weights do not decay (the official code decays biases)."""
    options: dict[str, Any] = {} if config.optimizer == "sgd" else {"eps": config.opt_eps}
    return create_optimizer_v2(
        network,
        opt=config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        **options,
    )
