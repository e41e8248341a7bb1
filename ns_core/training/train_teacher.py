"""train-teacher: labelled images -> teacher (paper, algorithm 1, step 1). The teacher is trained with noise."""

from pydantic import JsonValue

from ns_core.config import TeacherConfig
from ns_core.data.dataset import Images
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
from ns_core.training.trainer import Trainer


def run(config: TeacherConfig, context: StageContext) -> dict[str, JsonValue]:
    """Inputs: `dataset`. Files: `model.safetensors`, `model.json`, `metrics.jsonl`."""
    images = Images.open(context)
    seed_worker(config.seed, context.compute.threads, context.compute.device)
    network, card = fresh_network(config, tuple(images.index.class_names))
    with join(context.compute.device) as ranks:
        loader = joint_loader(images, config, ranks, labelled_rows(images, config.label_smoothing))
        job = Job(config, card, network, loader, holdout_check(images, card, ranks))
        return finish(job, *Trainer(job, context, ranks).fit(), context)
