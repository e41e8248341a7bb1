"""train-noisy-student: labelled and selected pseudo-labelled images -> student (algorithm 1, step 3).

The student starts from fresh weights and sees both streams in every batch, through one forward pass, with
RandAugment, dropout and stochastic depth on.
"""

import pyarrow.parquet as pq
from pydantic import JsonValue

from ns_core.config import StudentConfig
from ns_core.data.dataset import Images
from ns_core.data.index import coded, joined_text
from ns_core.data.rows import Rows
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
from ns_core.training.pseudo_labels import SELECTION, Selected, forget, targets_of
from ns_core.training.trainer import Trainer
from ns_core.training.warm_start import start_from

_NUMBERS = ["offset", "size", "copies"]


def run(config: StudentConfig, context: StageContext) -> dict[str, JsonValue]:
    """Inputs: `dataset`, `selection`; `labels` where a teacher labelled the selected images anew; `teacher` where the
    student starts from it. Files as `train-teacher`."""
    images = Images.open(context)
    seed_worker(config.seed, context.compute.threads, context.compute.device)
    network, card = fresh_network(config, tuple(images.index.class_names))
    if config.start == "teacher":
        start_from(network, card, context.inputs["teacher"])
    selected, unread = selected_rows(config, context, images.index.num_classes)
    with join(context.compute.device) as ranks:
        loader = joint_loader(images, config, ranks, labelled_rows(images, config.label_smoothing), selected)
        job = Job(config, card, network, loader, holdout_check(images, card, ranks), loss=config.loss)
        result = finish(job, *Trainer(job, context, ranks).fit(), context)
    forget(context)
    return {**result, "pseudo_rows": selected.positions, "ratio": config.ratio, "unread_labels": unread}


def selected_rows(config: StudentConfig, context: StageContext, classes: int) -> tuple[Rows, int]:
    """The selection as a stream, in which an image with k copies comes k times a pass; and how many of its images the
    input `labels` could not label."""
    with context.open("selection", SELECTION) as file:
        table = pq.read_table(file, columns=["key", "shard", *_NUMBERS], read_dictionary=["shard"])
    selected = Selected(*coded(table["shard"]), joined_text(table["key"]))
    table = table.select(_NUMBERS)  # of the text one copy is enough
    targets, unread = targets_of(selected, config, context, classes)
    rows = Rows(
        *selected[:2],
        offsets=table["offset"].to_numpy(),
        sizes=table["size"].to_numpy(),
        keys=selected.keys,
        targets=targets,
        copies=table["copies"].to_numpy(),
    )
    return rows, unread
