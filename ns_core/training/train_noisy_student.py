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
from ns_core.data.dataset import Images
from ns_core.data.index import coded, joined_text
from ns_core.data.rows import OneHot, Rows, Targets
from ns_core.stage import StageContext
from ns_core.training.distributed import join
from ns_core.training.job import (
    Job,
    finish,
    fresh_network,
    holdout_check,
    joint_loader,
    labelled_rows,
    seed_worker,
)
from ns_core.training.losses import pseudo_targets
from ns_core.training.trainer import Trainer
from ns_core.training.warm_start import start_from

_COLUMNS = ["key", "shard", "offset", "size", "probabilities", "copies"]


def run(config: StudentConfig, context: StageContext) -> dict[str, JsonValue]:
    """Inputs: `dataset`, `selection`, and `teacher` where the student starts from it. Files as `train-teacher`."""
    images = Images.open(context)
    seed_worker(config.seed, context.compute.threads, context.compute.device)
    network, card = fresh_network(config, tuple(images.index.class_names))
    if config.start == "teacher":
        start_from(network, card, context.inputs["teacher"])
    selected = selected_rows(context.inputs["selection"], config)
    with join(context.compute.device) as ranks:
        loader = joint_loader(images, config, ranks, labelled_rows(images, config.label_smoothing), selected)
        job = Job(config, card, network, loader, holdout_check(images, card, ranks), loss=config.loss)
        result = finish(job, *Trainer(job, context, ranks).fit(), context)
    return {**result, "pseudo_rows": selected.positions, "ratio": config.ratio}


def selected_rows(folder: Path, config: StudentConfig) -> Rows:
    """The selection as a stream, in which an image with k copies comes k times a pass.

    Label smoothing goes on hard pseudo-labels only (official code).
    """
    table = pq.read_table(folder / "selection.parquet", columns=_COLUMNS, read_dictionary=["shard"])
    stored = table["probabilities"].combine_chunks()
    probabilities = stored.flatten().to_numpy().reshape(len(stored), -1).astype(np.float32)
    targets: Targets
    if config.labels == "hard":
        targets = OneHot(probabilities.argmax(axis=1).astype(np.int32), probabilities.shape[1], config.label_smoothing)
    else:
        targets = pseudo_targets(torch.from_numpy(probabilities), config.labels, config.temperature).numpy()
    return Rows(
        *coded(table["shard"]),
        offsets=table["offset"].to_numpy(),
        sizes=table["size"].to_numpy(),
        keys=joined_text(table["key"]),
        targets=targets,
        copies=table["copies"].to_numpy(),
    )
