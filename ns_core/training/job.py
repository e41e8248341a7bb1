"""What is trained on what, put together from a configuration and the input folders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import JsonValue
from torch import nn

from ns_core.config import StudentConfig, TeacherConfig, TrainConfig
from ns_core.data.dataset import Images
from ns_core.data.image_source import eval_batches
from ns_core.data.loader import JointLoader, Sampling
from ns_core.data.rows import OneHot, Rows, Shuffle, rows_of
from ns_core.data.transforms import TrainView
from ns_core.errors import StageFailed
from ns_core.models.checkpoint import ModelCard, save_checkpoint
from ns_core.models.factory import create_network, require_branches
from ns_core.models.predict import Predictor, at_once, choose_device, set_threads
from ns_core.stage import StageContext, rank
from ns_core.training.distributed import Ranks
from ns_core.training.losses import LossForm

EVAL_BATCH = 256
NAMED_KEYS = 100
"""Unreadable images that the record names; all are in the log."""


@dataclass(frozen=True)
class Job:
    """A network, its data and its loss."""

    config: TrainConfig
    card: ModelCard
    network: nn.Module
    loader: JointLoader
    holdout: Callable[[nn.Module], float]
    """Top-1 of a network on the holdout, through the predict path. All processes call it together."""
    loss: LossForm = "concat"
    frozen: Callable[[nn.Module], Sequence[nn.Module]] = lambda network: ()
    """The parts of the network that keep weights and BatchNorm statistics."""
    curve: str = "train"
    """Prefix of the metrics."""


def labelled_rows(images: Images, smoothing: float) -> Rows:
    """The labelled split with smoothed one-hot targets."""
    split = images.index.split("labeled")
    return rows_of(split, OneHot(split.labels, images.index.num_classes, smoothing))


def joint_loader(images: Images, config: TrainConfig, ranks: Ranks, *streams: Rows) -> JointLoader:
    """This process's batches of the labelled stream, and of the pseudo stream where there is one, noised as
    configured."""
    ratio = config.ratio if isinstance(config, StudentConfig) else 0
    counts = (config.batch_size, config.batch_size * ratio)
    shuffle = Shuffle(config.seed, config.window_shards)
    sampling = Sampling(shuffle, config.max_bad_fraction, config.accumulation)
    view = TrainView.configured(config.augmentation, config.image_size)
    return JointLoader(images.source, view, list(zip(streams, counts, strict=False)), sampling, ranks.rank, ranks.world)


def holdout_check(images: Images, card: ModelCard, ranks: Ranks) -> Callable[[nn.Module], float]:
    """A function that gives a network's top-1 on the holdout, 0..1. Each process looks at a part of it."""
    split = images.index.split("holdout")
    rows, part = rows_of(split, OneHot(split.labels, images.index.num_classes)), ranks.slice_of(len(split))

    def top1(network: nn.Module) -> float:
        predictor = Predictor(network, card, ranks.device)
        batches = eval_batches(
            images.source, rows, (card.test_size, card.crop_pct), at_once(EVAL_BATCH, card.test_size), part
        )
        answers = [predictor.probabilities(batch).argmax(axis=1) for batch in batches]
        right = (np.concatenate(answers) == split.labels[part]).sum() if answers else 0
        return ranks.sum([float(right)])[0] / len(split)

    return top1


def seed_worker(seed: int, threads: int, device: str = "cpu") -> None:
    """Seeds the initial weights and sets the compute threads. CPUs take torch's deterministic algorithms, which cost
    them nothing; on GPUs they would be slower and, with cuBLAS, still not all of them deterministic."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(choose_device(device).type == "cpu", warn_only=True)
    set_threads(threads)


def fresh_network(config: TeacherConfig | StudentConfig, class_names: tuple[str, ...]) -> tuple[nn.Module, ModelCard]:
    """A network that starts from new weights with the configuration's noise, and its card."""
    noise = (config.dropout, config.stochastic_depth, config.bn_momentum, config.bn_eps)
    network = create_network(config.model, len(class_names), *noise)
    require_branches(network, config.model, config.stochastic_depth)
    card = ModelCard(
        model=config.model,
        class_names=class_names,
        train_size=config.image_size,
        test_size=config.image_size,
        crop_pct=config.crop_pct,
        bn_eps=config.bn_eps,
    )
    return network, card


def finish(job: Job, network: nn.Module, holdout_top1: float, context: StageContext) -> dict[str, JsonValue]:
    """Writes the checkpoint, by the leading process, and returns the record's result.

    Raises `StageFailed` for weights that are not finite.
    """
    if broken := [name for name, tensor in network.state_dict().items() if not tensor.isfinite().all()]:
        raise StageFailed(f"training ended with weights that are not finite, first in {broken[0]}: lower the lr")
    if rank() == 0:
        save_checkpoint(context.output, network, job.card)
    return {
        "model": job.card.model,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "train_size": job.card.train_size,
        "test_size": job.card.test_size,
        "steps": job.config.steps,
        "holdout_top1": holdout_top1,
        "bad_images": len(job.loader.bad),
        "bad_keys": list[JsonValue](job.loader.bad.keys[:NAMED_KEYS]),
    }
