"""Our trainer on a prepared dataset, beside its own step on batches that lie in memory.

What a teacher's training is made of is put together here as `train_teacher.run` does it: network, joint loader,
`Trainer`. The end-to-end pace is wall clock: each update ends with a call of the context's `progress`, which here
notes the time. The holdout is looked at once, after the last update, and no checkpoint is written before.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.timm_train import SPARE_UPDATES, Pace, Window
from ns_core.config import Augmentation, ComputeConfig, TeacherConfig
from ns_core.data.dataset import Images
from ns_core.models.malloc import settle
from ns_core.resume import ResumeFolder
from ns_core.stage import StageContext
from ns_core.storage import open_storage
from ns_core.training.distributed import Ranks, join
from ns_core.training.job import Job, fresh_network, holdout_check, joint_loader, labelled_rows, seed_worker
from ns_core.training.step import TrainStep
from ns_core.training.trainer import Trainer

BATCHES_IN_MEMORY = 4


@dataclass
class _Timed(StageContext):
    """A context that says nothing and notes when each update was done."""

    moments: list[float] = field(default_factory=list)

    def progress(self, done: int, total: int, text: str = "") -> None:
        self.moments.append(time.perf_counter())

    def metric(self, key: str, value: float, step: int) -> None:
        self.values[key] = value

    values: dict[str, float] = field(default_factory=dict)


class OurTraining:
    """Training of one model on the labelled images of a dataset folder."""

    def __init__(self, dataset: Path, scratch: Path, config: TeacherConfig, loader_workers: int) -> None:
        """`scratch`: an empty folder for what a run leaves behind."""
        self.dataset, self.scratch, self.config = dataset, scratch, config
        self.compute = ComputeConfig(device="cpu", loader_workers=loader_workers)
        self._runs = 0

    def end_to_end(self, window: Window) -> Pace:
        """From JPEGs in shards to updated weights: the updates of the window, and the share of all updates' time
        that the trainer's own meter says it waited for data."""
        with self._job(window.stop + SPARE_UPDATES) as (job, context, ranks):
            Trainer(job, context, ranks).fit()
        moments = context.moments
        assert len(moments) == window.stop + SPARE_UPDATES, moments
        return Pace(moments[window.stop - 1] - moments[window.first - 1], context.values["train/data_wait"])

    def in_memory(self, window: Window) -> Pace:
        """The same updates by the same step, of batches made beforehand."""
        with self._job(window.stop) as (job, _, ranks):
            batches = [job.loader.batch(number) for number in range(BATCHES_IN_MEMORY)]
            fed = [(torch.from_numpy(one.images), torch.from_numpy(one.targets), one.labelled) for one in batches]
            settle(recomputes=False)
            step = TrainStep(job, ranks)
            step.train_mode()
            started = time.perf_counter()
            for number in range(window.stop):
                if number == window.first:
                    started = time.perf_counter()
                step.update(number, *fed[number % len(fed)]).item()
        return Pace(time.perf_counter() - started, 0.0)

    @contextmanager
    def _job(self, steps: int) -> Iterator[tuple[Job, _Timed, Ranks]]:
        self._runs += 1
        folder = self.scratch / f"run-{self._runs}"
        (folder / "scratch").mkdir(parents=True)
        context = _Timed(
            inputs={"dataset": self.dataset},
            results={},
            output=folder / "output",
            resume=ResumeFolder(open_storage(str(folder / "store")), "resume", folder / "scratch"),
            compute=self.compute,
            fingerprint="0" * 64,
        )
        config = self.config.model_copy(update={"steps": steps, "epoch_steps": steps})
        images = Images.open(context)
        seed_worker(config.seed, self.compute.threads)
        network, card = fresh_network(config, tuple(images.index.class_names))
        try:
            with join("cpu") as ranks:
                loader = joint_loader(images, config, ranks, labelled_rows(images, config.label_smoothing))
                yield Job(config, card, network, loader, holdout_check(images, card, ranks)), context, ranks
        finally:
            torch.use_deterministic_algorithms(False)


def teacher(model: str, size: int, batch: int) -> TeacherConfig:
    """What timm's script does by default, as far as both have it: SGD with Nesterov momentum, smoothing 0.1, no
    dropout, BatchNorm as timm has it. The average of the weights is ours alone and cannot be left out."""
    return TeacherConfig(
        model=model,
        image_size=size,
        batch_size=batch,
        optimizer="sgd",
        lr=0.1 * batch / 256,
        weight_decay=2e-5,
        decay_biases=False,
        schedule="cosine",
        dropout=0.0,
        stochastic_depth=0.0,
        bn_momentum=0.1,
        bn_eps=1e-5,
        augmentation=Augmentation(randaugment_ops=2, randaugment_magnitude=9.0, randaugment_interpolation="nearest"),
    )
