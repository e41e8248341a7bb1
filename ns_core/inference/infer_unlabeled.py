"""infer-unlabeled: the noise-free teacher labels the pool (paper, algorithm 1, step 2), or a selection anew.

Eval mode, EMA weights, clean central crop at the test resolution; asserted. Only the ablation that asks for it puts
noise on the pool's labels (`label_noise`), and on nothing that the gate goes by. Before the pass the teacher goes
through a gate (`teacher_gate`), on the holdout and by the same path. Out: `holdout.parquet`, and one Parquet file for
each shard, rows in the shard's order, joined later by key and never by position (`data.pseudo_labels`).

Each file is saved as soon as it is whole, so a worker that comes after a killed one labels the missing shards only.
Several workers may share the shards: each takes a part of the list and commits nothing, and one that comes after them
finds all files there. An image that cannot be read has a row with the reason; too many fail the stage.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from pydantic import JsonValue

from ns_core.config import InferConfig
from ns_core.data.dataset import Images
from ns_core.errors import NotFound, StageFailed
from ns_core.inference.holdout import HOLDOUT_FILE, examine
from ns_core.inference.label_noise import LabelNoise
from ns_core.inference.label_pass import CheckedTeacher, LabelPass
from ns_core.inference.labelling import Labeller
from ns_core.inference.saved_labels import Counts, SavedLabels
from ns_core.inference.teacher_gate import Holdout, check_classes
from ns_core.inference.watched import WatchedLabeller
from ns_core.inference.worklist import Worklist
from ns_core.models.checkpoint import load_checkpoint
from ns_core.models.fast import fast_predictor
from ns_core.models.predict import Predictor, assert_noise_free, at_once, choose_device, set_threads
from ns_core.stage import StageContext, log

NAMED_KEYS = 100
"""Unreadable images that the record names; all are in the column `reason`."""


def run(config: InferConfig, context: StageContext) -> dict[str, JsonValue]:
    """Inputs: `dataset`, `teacher`, and `selection` where only its images are labelled.

    Raises `UserError` for a teacher that does not pass the gate, for other classes than the dataset's and for a dataset
    without a pool; `StageFailed` for more unreadable images than `max_bad_fraction`; `Stopped` after SIGTERM.
    With `context.part` it labels its shards and returns nothing.
    """
    try:
        return _labelled(config, context)
    except NotFound as error:
        raise StageFailed(
            f"{error.args[0]} was cleared by a process that has finished these labels: run the same command again"
        ) from error


def _labelled(config: InferConfig, context: StageContext) -> dict[str, JsonValue]:
    work, images = Worklist.of(context.inputs, context.compute), Images.open(context, pixels=0)
    labeller, passing = _labellers(config, context, images)
    labels = SavedLabels(context)
    recorded = context.results.get("teacher", {}).get("holdout_top1")
    holdout, file = examine(labeller, labels, images.index, config, recorded)
    teacher = CheckedTeacher(passing, images.index.class_names, holdout.temperature)
    labelling = LabelPass(config, context, work, teacher, labels)
    if context.part:
        labelling.over(work.shards[context.part[0] :: context.part[1]])
        return {}
    saved = labelling.over(work.shards)
    context.adopted[HOLDOUT_FILE] = file.file
    context.adopted.update({name: one.file for name, one in saved.items()})
    found = totals(one.counts for one in saved.values())
    assert found["images"] == len(work), f"{found['images']} labels for {len(work)} images"
    return {**_of_holdout(holdout), **found}


def _labellers(config: InferConfig, context: StageContext, images: Images) -> tuple[WatchedLabeller, WatchedLabeller]:
    """The one that goes through the gate, and the one that labels: the same, but where noise is asked for."""
    network, card = load_checkpoint(context.inputs["teacher"])
    check_classes(card.class_names, images.index.class_names)
    compute = context.compute
    set_threads(compute.threads)
    device = choose_device(compute.device)
    predictor = fast_predictor(network, card, device, config.precision, compute.compile, config.embeddings)
    assert_noise_free(predictor)
    view, batch = (card.test_size, card.crop_pct), at_once(config.batch_size, card.test_size)

    def watched(predictor: Predictor, noise: LabelNoise | None = None) -> WatchedLabeller:
        labeller = Labeller(images.source, predictor, view, batch, compute.loader_workers, noise)
        return WatchedLabeller(labeller, batch, lambda: context.stopping())

    clean = watched(predictor)
    if not config.noised:
        return clean, clean
    network, _ = load_checkpoint(context.inputs["teacher"], stochastic_depth=config.stochastic_depth)
    noise = LabelNoise(config, network, card)
    log.warning("the teacher labels with noise, as an ablation asks for: %s", noise)
    return clean, watched(Predictor(network, card, device), noise)


def _of_holdout(found: Holdout) -> dict[str, JsonValue]:
    before, after = found.nll
    return {
        "holdout_images": found.images,
        "holdout_top1": found.top1,
        "holdout_nll": before,
        "holdout_nll_calibrated": after,
        "temperature": found.temperature,
    }


def totals(files: Iterable[Counts]) -> dict[str, Any]:
    """What the files add up to, as the record keeps it."""
    files = list(files)
    images, unreadable = sum(one.images for one in files), sum(one.unreadable for one in files)
    masses = [one.kept_mass for one in files if one.kept_mass is not None]
    predicted = np.sum([one.predicted for one in files], axis=0)
    assert images == unreadable + predicted.sum(), (images, unreadable, predicted.sum())
    return {
        "images": images,
        "shards": len(files),
        "unreadable": unreadable,
        "unreadable_keys": [key for one in files for key, _ in one.named][:NAMED_KEYS],
        "predicted_per_class": predicted.tolist(),
        "confidence": np.sum([one.confidence for one in files], axis=0).tolist(),
        "mean_kept_mass": sum(masses) / max(1, images - unreadable) if masses else None,
    }
