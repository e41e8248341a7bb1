"""train-noisy-student: labelled and selected pseudo-labelled images -> student (algorithm 1, step 3).

The student starts from fresh weights and sees both streams in every batch, through one forward pass, with
RandAugment, dropout and stochastic depth on.
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from pydantic import JsonValue

from ns_core.config import StudentConfig
from ns_core.data.loader import JointLoader
from ns_core.data.rows import Rows, one_hot
from ns_core.models.predict import choose_device
from ns_core.stage import StageContext
from ns_core.training.job import Images, Job, finish, fresh_network, seed_worker, train_view
from ns_core.training.losses import pseudo_targets
from ns_core.training.trainer import Trainer


def run(config: StudentConfig, context: StageContext) -> dict[str, JsonValue]:
    """Inputs: `dataset`, `selection`. Files as `train-teacher`."""
    images = Images.open(context.inputs["dataset"])
    device = choose_device(context.compute.device)
    seed_worker(config.seed, context.compute.threads)
    network, card = fresh_network(config, tuple(images.index.class_names))
    streams = [
        (images.labelled(config.label_smoothing), config.batch_size),
        (selected_rows(context.inputs["selection"], config), config.batch_size * config.ratio),
    ]
    view = train_view(config.augmentation, config.image_size)
    loader = JointLoader(images.source, view, streams, config.seed)
    job = Job(config, card, network, loader, images.holdout_check(card, device), loss=config.loss)
    result = finish(job, Trainer(job, context, device).fit(), context)
    return {**result, "pseudo_rows": len(streams[1][0]), "ratio": config.ratio}


def selected_rows(folder: Path, config: StudentConfig) -> Rows:
    """The selection as a stream, an image with k copies standing k times.

    Label smoothing goes on hard pseudo-labels only (official code).
    """
    table = pq.read_table(folder / "selection.parquet")
    repeat = np.repeat(np.arange(table.num_rows), table["copies"].to_numpy())
    probabilities = np.stack(table["probabilities"].to_numpy(zero_copy_only=False)).astype(np.float32)
    targets = pseudo_targets(torch.from_numpy(probabilities), config.labels, config.temperature).numpy()
    if config.labels == "hard":
        targets = one_hot(targets.argmax(axis=1).astype(np.int32), targets.shape[1], config.label_smoothing)
    shards, keys = table["shard"].to_pylist(), table["key"].to_pylist()
    return Rows(
        [shards[row] for row in repeat],
        table["offset"].to_numpy()[repeat],
        table["size"].to_numpy()[repeat],
        [keys[row] for row in repeat],
        targets[repeat],
    )
