"""Short runs of the code that a run's workers use, timed.

In: a dataset that is prepared, and settings of stages. Out: `Rate`s: seconds whatever the amount, seconds a unit.

Training is the trainer's own loop over a few epochs of few updates, labelling the labeller's over the pool, evaluation
the stage itself on fewer pictures of each kind.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ns_core.config import ComputeConfig, EvaluateConfig, FinetuneConfig, InferConfig, StudentConfig, TeacherConfig
from ns_core.data.dataset import Images
from ns_core.data.rows import rows_of
from ns_core.evaluation import evaluate_robustness
from ns_core.inference.labelling import Labeller
from ns_core.models.checkpoint import load_checkpoint
from ns_core.models.fast import fast_predictor
from ns_core.models.predict import at_once, choose_device, set_threads
from ns_core.planning.profile import Rate
from ns_core.planning.work import predictions
from ns_core.resume import ResumeFolder
from ns_core.stage import Metric, StageContext
from ns_core.storage import open_storage
from ns_core.training.distributed import join
from ns_core.training.job import Job, finish, holdout_check, joint_loader, labelled_rows, seed_worker
from ns_core.training.memory import job_without_data
from ns_core.training.trainer import Trainer

UPDATE_FLOPS = 6e10
"""Of an update of a sample at most: about a second on two cores. Larger batches are cut."""
TOO_MUCH = 10 * UPDATE_FLOPS
"""Of an update with one labelled image: networks above it are not trained for a sample."""
EPOCHS, EPOCH_UPDATES = 3, 8
"""Of a sample; the first epoch is not counted."""
LABELLED = 1_000
"""Images that are labelled for a sample."""
PREDICTION_FLOPS = 3e11
"""Of an evaluation that is sampled whole in its kinds, at a tenth of its pictures; larger ones lose kinds too."""
FEWEST = 10
"""Pictures of a kind, which is what the settings allow."""
TrainingConfig = TeacherConfig | StudentConfig | FinetuneConfig


@dataclass(frozen=True)
class Bench:
    """Where samples are run."""

    dataset: Path
    """A prepared dataset."""
    places: Mapping[str, str]
    compute: ComputeConfig
    scratch: Path

    def context(self, **inputs: Path) -> StageContext:
        """Of a stage that commits nothing."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        output, saving = folder / "output", folder / "saving"
        for each in (output, saving):
            each.mkdir()
        return StageContext(
            inputs={"dataset": self.dataset, **inputs},
            results={},
            output=output,
            resume=ResumeFolder(open_storage(str(folder / "store")), "resume", saving),
            compute=self.compute,
            fingerprint="0" * 64,
            places=self.places,
        )


def shortened(config: TrainingConfig, forward: float) -> TrainingConfig | None:
    """The same for a few updates; a smaller batch where an update would take long, None where one image does.

    `forward`: operations of one image.
    """
    streams = 1 + (config.ratio if isinstance(config, StudentConfig) else 0)
    smallest = 3 * forward * streams
    if smallest > TOO_MUCH:
        return None
    changes: dict[str, int] = {}
    if smallest * config.batch_size > UPDATE_FLOPS:
        changes = {"batch_size": max(2, int(UPDATE_FLOPS / smallest)), "accumulation": 1}
        changes["batch_size"] = min(changes["batch_size"], config.batch_size)
    updates = EPOCH_UPDATES if smallest * config.batch_size <= UPDATE_FLOPS / 4 else 2
    short = {"steps": EPOCHS * updates, "epoch_steps": updates, "checkpoint_steps": 0, "warmup_steps": 0, "lr": 1e-4}
    if isinstance(config, FinetuneConfig):
        short["schedule_steps"] = 0
    return config.model_copy(update={**short, **changes})


def training(bench: Bench, config: TrainingConfig, model: str) -> tuple[Rate, Path]:
    """A shortened training from fresh weights, and the folder of its checkpoint."""
    context, began = bench.context(), time.perf_counter()
    images = Images.open(context)
    seed_worker(0, bench.compute.threads, bench.compute.device)
    empty = job_without_data(config, model, images.index.num_classes)
    card = empty.card.model_copy(update={"class_names": tuple(images.index.class_names)})
    streams = [labelled_rows(images, config.label_smoothing)]
    if isinstance(config, StudentConfig):
        pool = images.index.split("pool")
        even = np.full((len(pool), images.index.num_classes), 1 / images.index.num_classes, np.float32)
        streams.append(rows_of(pool, even))
    with join(bench.compute.device) as ranks:
        loader = joint_loader(images, config, ranks, *streams)
        job: Job = replace(empty, card=card, loader=loader, holdout=holdout_check(images, card, ranks))
        finish(job, *Trainer(job, context, ranks).fit(), context)
    seconds = time.perf_counter() - began
    rate = training_rate(config, model, context.history, seconds)
    return rate.model_copy(update={"look_images": len(images.index.split("holdout"))}), context.output


def training_rate(config: TrainingConfig, model: str, points: Sequence[Metric], seconds: float) -> Rate:
    """From the curve that a training left, at least two epochs of it, and from how long it took in all."""
    update = config.batch_size * (1 + config.ratio if isinstance(config, StudentConfig) else 1)
    speeds = [point for point in points if point["key"].endswith("/images_per_second")]
    steps = np.diff([0, *(point["step"] for point in speeds)])
    spent = [count * update / point["value"] for count, point in zip(steps, speeds, strict=True)]
    moments = [point["timestamp_ms"] / 1e3 for point in speeds]
    looks = [later - before - own for before, later, own in zip(moments, moments[1:], spent[1:], strict=False)]
    per_image = sum(spent[1:]) / float(sum(steps[1:]) * update)
    look = max(0.0, float(np.median(looks)))
    fixed = seconds - per_image * float(sum(steps)) * update - look * len(speeds)
    return Rate(
        stage=type(config).STAGE,
        model=model,
        image_size=config.image_size,
        unit="images",
        fixed=max(0.0, fixed),
        per_unit=per_image,
        per_look=look,
        sampled=int(sum(steps[1:])) * update,
    )


def labelling(bench: Bench, config: InferConfig, checkpoint: Path, fixed: float) -> Rate:
    """A network over a part of the pool, the first batch left out. `fixed`: seconds of all else in that stage."""
    context, compute = bench.context(), bench.compute
    network, card = load_checkpoint(checkpoint)
    set_threads(compute.threads)
    images = Images.open(context, pixels=0)
    predictor = fast_predictor(network, card, choose_device(compute.device), config.precision, compute.compile)
    batch = at_once(config.batch_size, card.test_size)
    labeller = Labeller(images.source, predictor, (card.test_size, card.crop_pct), batch, compute.loader_workers)
    split = images.index.split("pool")
    rows = rows_of(split, np.zeros((len(split), 0), np.float32))
    labeller.label(rows, slice(0, min(batch, len(rows))))
    before = labeller.pace
    labeller.label(rows, slice(0, min(LABELLED, len(rows))))
    pace = labeller.pace.since(before)
    return Rate(
        stage=config.STAGE,
        model=card.model,
        image_size=card.test_size,
        unit="images",
        fixed=fixed,
        per_unit=pace.seconds / pace.images,
        sampled=pace.images,
    )


def evaluation(bench: Bench, config: EvaluateConfig, checkpoint: Path, forward: float, splits: tuple[int, int]) -> Rate:
    """The stage on about a tenth and three tenths of its pictures. `splits`: images of holdout and test split."""
    small, large = fewer(config, forward, splits[1])
    (less, first), (more, second) = (_evaluated(bench, one, checkpoint, splits) for one in (small, large))
    per_unit = max(1e-9, (second - first) / max(1, more - less))
    _, card = load_checkpoint(checkpoint)
    return Rate(
        stage=config.STAGE,
        model=card.model,
        image_size=card.test_size,
        unit="predictions",
        fixed=max(0.0, first - per_unit * less),
        per_unit=per_unit,
        sampled=less + more,
    )


def cold_training(bench: Bench, config: TrainingConfig, model: str) -> tuple[float, Path]:
    """Seconds that the first training of a process takes more than the second, and a checkpoint."""
    took = []
    for _ in range(2):
        began = time.perf_counter()
        _, folder = training(bench, config, model)
        took.append(time.perf_counter() - began)
    return max(0.0, took[0] - took[1]), folder


def cold_evaluation(bench: Bench, config: EvaluateConfig, checkpoint: Path, forward: float, test: int) -> float:
    """Seconds that the first evaluation of a process takes more than the second."""
    small, _ = fewer(config, forward, test)
    first, second = (_evaluated(bench, small, checkpoint, (0, test))[1] for _ in range(2))
    return max(0.0, first - second)


def fewer(config: EvaluateConfig, forward: float, test: int) -> tuple[EvaluateConfig, EvaluateConfig]:
    """The same evaluation on fewer pictures, and on three times as many. `forward`: as of `shortened`."""
    official = type(config.official)()
    most = [min(test, limit) for limit in (config.max_images, config.max_sequences, config.max_attacked)]
    share = max(0.1, FEWEST / max(1, min(most)))
    amount = predictions(config, 0, test) * share
    if amount * forward > PREDICTION_FLOPS:  # one severity, pictures and one attack alone
        few = {"severities": config.severities[:1], "perturbations": (), "fgsm_eps": config.fgsm_eps[-1:]}
        config, share = (
            config.model_copy(update={**few, "pgd_eps": (), "autoattack_eps": ()}),
            FEWEST / max(1, min(most)),
        )
    fields = ("max_images", "max_sequences", "max_attacked")

    def at(part: float) -> EvaluateConfig:
        limits = {name: max(FEWEST, round(part * limit)) for name, limit in zip(fields, most, strict=True)}
        return config.model_copy(update={**limits, "official": official})

    return at(share), at(3 * share)


def _evaluated(bench: Bench, config: EvaluateConfig, checkpoint: Path, splits: tuple[int, int]) -> tuple[int, float]:
    """Predictions of single images, and seconds."""
    context, began = bench.context(checkpoint=checkpoint), time.perf_counter()
    evaluate_robustness.run(config, context)
    return predictions(config, *splits), time.perf_counter() - began
