"""train-teacher: labelled images -> teacher (paper, algorithm 1, step 1). The teacher is trained with noise."""

from pydantic import JsonValue

from ns_core.config import TeacherConfig
from ns_core.data.loader import JointLoader
from ns_core.models.predict import choose_device
from ns_core.stage import StageContext
from ns_core.training.job import Images, Job, finish, fresh_network, seed_worker, train_view
from ns_core.training.trainer import Trainer


def run(config: TeacherConfig, context: StageContext) -> dict[str, JsonValue]:
    """Inputs: `dataset`. Files: `model.safetensors`, `model.json`, `metrics.jsonl`."""
    images = Images.open(context.inputs["dataset"])
    device = choose_device(context.compute.device)
    seed_worker(config.seed, context.compute.threads)
    network, card = fresh_network(config, tuple(images.index.class_names))
    rows = images.labelled(config.label_smoothing)
    view = train_view(config.augmentation, config.image_size)
    loader = JointLoader(images.source, view, [(rows, config.batch_size)], config.seed)
    job = Job(config, card, network, loader, images.holdout_check(card, device))
    return finish(job, Trainer(job, context, device).fit(), context)
