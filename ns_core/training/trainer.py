"""The one training loop; teacher, noisy student and finetune are three recipes for it.

Exact resume: the order of the data, every augmentation, the learning rate and the random draws of an update are
functions of its number, so a checkpoint is weights, averages, optimiser state and that number. Killed after any
update and started again, training ends in the same bits. On another number of processes it goes on with the same
images in the same batches; only what dropout and the like draw is drawn anew.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import NamedTuple

from pydantic import JsonValue
from torch import Tensor, nn

from ns_core.errors import StageFailed, UserError
from ns_core.models.malloc import settle
from ns_core.stage import StageContext, Stopped, log
from ns_core.training.checkpoints import Checkpoints
from ns_core.training.distributed import Ranks
from ns_core.training.feed import Fed, feed
from ns_core.training.job import Job
from ns_core.training.memory import advice, is_out_of_memory
from ns_core.training.meter import Meter
from ns_core.training.noise import assert_noise_on
from ns_core.training.optimizers import optimizer_tensors, restore_optimizer
from ns_core.training.profile import traced
from ns_core.training.schedule import learning_rate
from ns_core.training.step import TrainStep

_NAMED_KEYS = 8


class _Made(NamedTuple):
    """An update whose loss was not looked at yet: the device may still be at work on it."""

    step: int
    keys: list[str]
    loss: Tensor


class Trained(NamedTuple):
    """What training ends with."""

    network: nn.Module
    """The averaged one, in eval mode."""
    holdout_top1: float
    """0..1"""


class Trainer:
    """Runs a job from its last checkpoint to its last update. All processes make the same calls."""

    def __init__(self, job: Job, context: StageContext, ranks: Ranks) -> None:
        self.job, self.context, self.ranks = job, context, ranks
        self.step = 0
        """Updates done."""
        if ranks.device.type == "cpu":
            settle(recomputes=job.config.recompute_groups > 0)
        with self._memory_watched():
            self.train = TrainStep(job, ranks, context.compute.compile)
        self._made: _Made | None = None
        self._loss_sum, self._losses = 0.0, 0
        config = job.config
        ratio = getattr(config, "ratio", 0)
        self._meter = Meter(config.batch_size * (1 + ratio))
        self._top1 = 0.0
        """Of the last look at the holdout."""
        self._saved = 0
        """Updates in the last checkpoint."""
        self._checkpoints = Checkpoints(context.resume, context.fingerprint, context.compute.keep_checkpoints)

    def fit(self) -> Trained:
        """Trains to the end, where the holdout is always looked at.

        Raises `Stopped` once SIGTERM arrived and the work was saved, `StageFailed` for a loss that is not finite,
        `UserError` where memory runs out.
        """
        trace = self.context.output if self.context.compute.profile and self.ranks.leads else None
        with closing(self._checkpoints), self._memory_watched(), traced(trace) as traced_step:
            losses = self._restore()
            self._began = (time.perf_counter(), self.step)
            self.train.train_mode()
            if losses and self._ends_epoch():  # stopped while its holdout was read
                self._end_epoch()
            for fed in self._fed():
                self._update(fed)
                traced_step()
                if self._ends_epoch():
                    self._end_epoch()
                elif self._is_due():
                    self._save()
                if self.ranks.agree(self.context.stopping()) and self.step < self.job.config.steps:
                    self._stop()
        return Trained(self.train.average.network, self._top1)

    def _fed(self) -> Iterator[Fed]:
        """The batches that are left, on the device."""
        config = self.job.config
        with closing(self.job.loader.batches(self.step, config.steps, self.context.compute.loader_workers)) as batches:
            try:
                yield from self._meter.waiting(feed(batches, self.ranks.device))
            except Stopped:  # it waited for a server that is away
                if self.ranks.world == 1:
                    self._stop()
                raise  # the other processes are at an update of their own: the last checkpoint stands

    def _update(self, fed: Fed) -> None:
        batch = fed.batch
        loss = self.train.update(batch.step, fed.images, fed.targets, batch.labelled)
        self._look_at_loss()
        self._made = _Made(batch.step, batch.keys, loss)
        self.step = batch.step + 1
        if self.ranks.device.type == "cpu" or self._ends_epoch():
            self._look_at_loss()
        self._meter.done()
        if self._losses:
            text = f"loss {self._loss_sum / self._losses:.3f}, {self._meter.recent()}"
            self.context.progress(self.step, self.job.config.steps, text)

    def _look_at_loss(self) -> None:
        """Counts the loss of the last update made; on a GPU one update late, so that nothing waits for it.

        Weights that a loss which is not finite has spoilt are never saved: who saves looks before.
        """
        if self._made is None:
            return
        step, keys, value = self._made.step, self._made.keys, self._made.loss.item()
        self._made = None
        if not abs(value) < float("inf"):
            raise StageFailed(
                f"loss is {value} at update {step}; keys of the batch: {', '.join(keys[:_NAMED_KEYS])} ...; "
                "lower the learning rate or look at these images"
            )
        self._loss_sum += value
        self._losses += 1

    def _ends_epoch(self) -> bool:
        return self.step % self.job.config.epoch_steps == 0 or self.step == self.job.config.steps

    def _is_due(self) -> bool:
        every = self.job.config.checkpoint_steps
        return bool(every) and self.step % every == 0

    def _end_epoch(self) -> None:
        """Asserts that the noise was on to the end, writes a checkpoint, looks at the holdout, writes the curve.

        In this order: the holdout may take longer than the grace of a SIGTERM. Who is stopped there looks again.
        """
        assert_noise_on(self.train.network, self.job.config)
        self._save()
        self._top1 = self.job.holdout(self.train.average.network)
        self.train.train_mode()
        total, count = self.ranks.sum([self._loss_sum, self._losses])
        self._loss_sum, self._losses = 0.0, 0
        curve, speed, left = self.job.curve, self._meter.take(), self._seconds_left()
        points = {
            f"{curve}/loss": total / count,
            f"{curve}/lr": learning_rate(self.job.config, self.step - 1),
            f"{curve}/holdout_top1": self._top1,
            f"{curve}/seconds_left": left,
            **(speed.points(curve) if speed else {}),
        }
        for key, value in points.items():
            self.context.metric(key, value, self.step)
        log.info(
            "update %d/%d: loss %.4f, holdout top-1 %.2f %%%s, %s left",
            *(self.step, self.job.config.steps, total / count, 100 * self._top1, f", {speed}" if speed else ""),
            timedelta(seconds=round(left)),
        )

    def _seconds_left(self) -> float:
        """At the pace of this attempt, looks at the holdout and checkpoints included; 0 before its first update."""
        since, first = self._began
        pace = (time.perf_counter() - since) / max(1, self.step - first)
        return pace * (self.job.config.steps - self.step) if self.step > first else 0.0

    def _stop(self) -> None:
        self._save()
        self._checkpoints.close()
        self.ranks.sum([0.0])  # whoever ends earlier has torchrun stop the one that writes
        log.info("stopped after update %d of %d; saved", self.step, self.job.config.steps)
        raise Stopped

    def _save(self) -> None:
        """The leading process writes; what only the others know is gathered first."""
        if self._saved == self.step:
            return
        self._look_at_loss()
        self._saved = self.step
        losses = self.ranks.sum([self._loss_sum, self._losses])
        bad = self.job.loader.bad
        if self.ranks.world > 1:
            bad.merge(self.ranks.gather(bad.state()))
        if self.ranks.leads:
            document: dict[str, JsonValue] = {
                "step": self.step,
                "losses": list[JsonValue](losses),
                "bad_images": [list[JsonValue](one) for one in bad.state()],
                "history": [dict[str, JsonValue](point) for point in self.context.history],  # type: ignore[arg-type]
            }
            self._checkpoints.save(self.step, self._tensors(), document)

    def _tensors(self) -> dict[str, Tensor]:
        networks = {"network": self.train.network, "average": self.train.average.network}
        tensors = {f"{part}/{name}": t for part, net in networks.items() for name, t in net.state_dict().items()}
        return tensors | {
            f"optimizer/{name}": tensor for name, tensor in optimizer_tensors(self.train.optimizer).items()
        }

    def _restore(self) -> int:
        """Takes up the last checkpoint, if there is one; the updates since the last epoch's end that it counted."""
        found = self._checkpoints.load()
        steps = self.ranks.gather(found[1]["step"] if found else 0)
        if len(set(steps)) > 1:
            raise StageFailed(f"the processes found checkpoints of updates {steps}: another run is writing them")
        if found is None:
            return 0
        tensors, state = found
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self.train.network.load_state_dict(parts["network"])
        self.train.average.network.load_state_dict(parts["average"])
        restore_optimizer(self.train.optimizer, parts["optimizer"])
        self._saved = self.step = state["step"]
        loss_sum, losses = state["losses"]
        if self.ranks.leads:
            self._loss_sum, self._losses = loss_sum, int(losses)
        self.job.loader.bad.restore([(stream, key, reason) for stream, key, reason in state["bad_images"]])
        self.context.history.extend(state["history"])
        log.info("going on from update %d of %d", self.step, self.job.config.steps)
        return int(losses)

    @contextmanager
    def _memory_watched(self) -> Iterator[None]:
        """Running out of memory is told with the settings that mend it."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            where = "the GPU" if self.ranks.device.type == "cuda" else "this machine"
            raise UserError(
                f"{where} ran out of memory at update {self.step}: set {advice(self.job.config, self.ranks.world)}"
            ) from error
