"""evaluate-robustness: what a checkpoint is worth, clean, corrupted and attacked; and the gate.

Files: `report.json` (every figure), `predictions.npz` (probabilities on holdout and test, so that paired
tests can be made later without the network). With an input `baseline` (the teacher's report) the errors are
also given relative to it, and the gate decides on the holdout. The test split is for the report only.

Corruptions are made on the fly from the images as they were ingested, with the official parameters for
their size, and then go through the checkpoint's own clean view: all checkpoints see the same corrupted
pictures. These figures compare runs with each other, not with published mCE, which belongs to fixed files.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from ns_core.config import EvaluateConfig
from ns_core.data.dataset import Images
from ns_core.data.image_source import Image, ImageSource, eval_batches
from ns_core.data.index import DatasetIndex, Split
from ns_core.data.rows import OneHot, Rows, rows_of
from ns_core.data.transforms import eval_view
from ns_core.errors import StageFailed
from ns_core.evaluation import metrics
from ns_core.evaluation.attacks import fgsm
from ns_core.evaluation.corruptions import corrupt, sample_seed, tier
from ns_core.evaluation.gate import GateLimits, decide
from ns_core.models.checkpoint import ModelCard, load_checkpoint
from ns_core.models.predict import Predictor, at_once, choose_device, set_threads
from ns_core.stage import StageContext, Stopped

REPORT, PREDICTIONS = "report.json", "predictions.npz"

Probabilities = NDArray[np.float32]


@dataclass
class Subject:
    """The checkpoint under evaluation, its pictures, and how far the work is."""

    config: EvaluateConfig
    context: StageContext
    index: DatasetIndex
    source: ImageSource
    predictor: Predictor
    card: ModelCard
    done: int = 0
    total: int = 0

    @property
    def batch(self) -> int:
        """Images that are looked at together."""
        return at_once(self.config.batch_size, self.card.test_size)

    def advance(self, images: int, what: str) -> None:
        """Counts work, shows it, and leaves when asked to."""
        if self.context.stopping():
            raise Stopped
        self.done += images
        self.context.progress(self.done, self.total, what)


def run(config: EvaluateConfig, context: StageContext) -> dict[str, JsonValue]:
    """Inputs: `dataset`, `checkpoint`, and `baseline` unless this is the first teacher."""
    set_threads(context.compute.threads)
    images = Images.open(context)
    index = images.index
    network, card = load_checkpoint(context.inputs["checkpoint"])
    predictor = Predictor(network, card, choose_device(context.compute.device))
    subject = Subject(config, context, index, images.source, predictor, card)
    chosen = subset(index.split("test").labels, config.max_images, config.seed)
    passes = len(config.corruptions) * len(config.severities) + len(config.fgsm_eps)
    subject.total = len(index.split("holdout")) + len(index.split("test")) + passes * len(chosen)

    holdout, test = clean(subject, "holdout"), clean(subject, "test")
    report: dict[str, Any] = {
        "holdout": summary(holdout, index.split("holdout").labels),
        "test": summary(test, index.split("test").labels),
        "corruptions": corruption_errors(subject, chosen),
        "fgsm_top1": attack_accuracy(subject, chosen),
        "settings": {"images": len(chosen), "size": card.test_size, "comparable_with_published_mce": False},
    }
    report["mean_corruption_error"] = mean_error(report["corruptions"])
    np.savez(
        context.output / PREDICTIONS,
        holdout=holdout,
        test=test,
        holdout_keys=index.split("holdout").keys.astype(str),
    )
    if "baseline" in context.inputs:
        report |= against_baseline(subject, report, holdout)
    (context.output / REPORT).write_text(json.dumps(report, indent=1, sort_keys=True), encoding="utf-8")
    return headline(report)


def split_rows(subject: Subject, split: Split) -> Rows:
    """The rows of a labelled split."""
    part = subject.index.split(split)
    return rows_of(part, OneHot(part.labels, subject.index.num_classes))


def clean(subject: Subject, split: Split) -> Probabilities:
    """Probabilities on a split, float32[N,C], through the same path as teacher inference."""
    view = (subject.card.test_size, subject.card.crop_pct)
    parts = []
    for batch in eval_batches(subject.source, split_rows(subject, split), view, subject.batch):
        parts.append(subject.predictor.probabilities(batch))
        subject.advance(len(batch), f"clean {split}")
    return np.concatenate(parts)


def summary(probabilities: Probabilities, labels: NDArray[np.int32]) -> dict[str, Any]:
    """Accuracy with its 95 % Wilson interval, and calibration."""
    right = int(metrics.correct(probabilities, labels).sum())
    return {
        "images": len(labels),
        "top1": right / len(labels),
        "interval": list(metrics.wilson_interval(right, len(labels))),
        "ece": metrics.ece(probabilities, labels),
        "nll": metrics.nll(probabilities, labels),
        "brier": metrics.brier(probabilities, labels),
        "per_class": [None if np.isnan(v) else v for v in metrics.per_class_accuracy(probabilities, labels).tolist()],
    }


def subset(labels: NDArray[np.int32], limit: int, seed: int) -> NDArray[np.int64]:
    """Row numbers of a stratified draw of `limit` images (all when there are no more), ascending.

    Classes give images in turn, each in its own seeded order, so that shares differ by one at most.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        turn[members] = np.arange(len(members))
    order = shuffled[np.argsort(turn[shuffled], kind="stable")]
    return np.sort(order[:limit]).astype(np.int64)


def corruption_errors(subject: Subject, chosen: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Top-1 error by corruption and severity."""
    rows, labels = split_rows(subject, "test"), subject.index.split("test").labels[chosen]
    errors: dict[str, dict[str, float]] = {}
    for name in subject.config.corruptions:
        errors[name] = {}
        for severity in subject.config.severities:
            right = 0
            for members in _chunks(chosen, subject.batch):
                images = [_corrupted(subject, rows, int(row), name, severity) for row in members]
                answers = subject.predictor.probabilities(np.stack(images)).argmax(axis=1)
                right += int((answers == subject.index.split("test").labels[members]).sum())
                subject.advance(len(members), f"{name} {severity}")
            errors[name][str(severity)] = 1 - right / len(labels)
    return errors


def _corrupted(subject: Subject, rows: Rows, row: int, name: str, severity: int) -> Image:
    """The image as it was ingested, corrupted, then the clean view. Its noise hangs on its key alone."""
    image = subject.source.image(rows, row)
    seed = sample_seed(subject.config.seed, name, severity, rows.key(row))
    damaged = corrupt(image, name, severity, np.random.default_rng(seed), tier(min(image.shape[:2])))
    return eval_view(damaged, subject.card.test_size, subject.card.crop_pct)


def attack_accuracy(subject: Subject, chosen: NDArray[np.int64]) -> dict[str, float]:
    """Top-1 under FGSM by eps in 0..255 units of the network's input pixels (paper, figure 3).

    An image counts as right when the network is right on it both clean and attacked: an attack that undoes
    a mistake by chance is no robustness (`evaluation.attacks`).
    """
    rows, labels = split_rows(subject, "test"), subject.index.split("test").labels
    right = dict.fromkeys(subject.config.fgsm_eps, 0)
    for eps in right:
        for members in _chunks(chosen, subject.batch):
            view = (subject.card.test_size, subject.card.crop_pct)
            images = np.stack([eval_view(subject.source.image(rows, int(row)), *view) for row in members])
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).to(subject.predictor.device)
            truth = torch.from_numpy(labels[members]).long().to(subject.predictor.device)
            attacked = fgsm(subject.predictor, pixels, truth, eps / 255)
            with torch.inference_mode():
                answers = [subject.predictor(seen).argmax(dim=1) == truth for seen in (pixels, attacked)]
            right[eps] += int((answers[0] & answers[1]).sum())
            subject.advance(len(members), f"FGSM {eps:g}")
    return {f"{eps:g}": count / len(chosen) for eps, count in right.items()}


def mean_error(errors: dict[str, dict[str, float]]) -> float | None:
    """Mean over corruptions of the mean over severities; None without corruptions."""
    if not errors:
        return None
    return float(np.mean([np.mean(list(levels.values())) for levels in errors.values()]))


def against_baseline(subject: Subject, report: dict[str, Any], holdout: Probabilities) -> dict[str, Any]:
    """The gate's decision, and corruption errors relative to the teacher's (1 = as many errors)."""
    folder = subject.context.inputs["baseline"]
    before = np.load(folder / PREDICTIONS)
    split, config = subject.index.split("holdout"), subject.config
    if before["holdout_keys"].tolist() != split.keys.tolist():
        raise StageFailed("the baseline was evaluated on another holdout")
    limits = GateLimits(config.min_gain, config.max_worst_class_drop, config.max_ece_rise, config.stop_p_value)
    decision = decide(before["holdout"], holdout, split.labels, limits)
    teacher = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    relative = {
        name: _ratio(sum(levels.values()), sum(teacher["corruptions"][name].values()))
        for name, levels in report["corruptions"].items()
        if name in teacher["corruptions"]
    }
    known = [value for value in relative.values() if value is not None]
    return {
        "gate": {**dataclasses.asdict(decision), "interval": list(decision.interval)},
        "corruption_error_vs_teacher": relative,
        "mean_corruption_error_vs_teacher": float(np.mean(known)) if known else None,
    }


def headline(report: dict[str, Any]) -> dict[str, JsonValue]:
    """The few figures that the record, the table at the end and MLflow carry."""
    strongest = max(report["fgsm_top1"], key=float, default=None)
    return {
        "holdout_top1": report["holdout"]["top1"],
        "test_top1": report["test"]["top1"],
        "holdout_interval": report["holdout"]["interval"],
        "test_interval": report["test"]["interval"],
        "ece": report["test"]["ece"],
        "holdout_ece": report["holdout"]["ece"],
        "mean_corruption_error": report["mean_corruption_error"],
        "mean_corruption_error_vs_teacher": report.get("mean_corruption_error_vs_teacher"),
        "fgsm_top1": report["fgsm_top1"],
        "fgsm_strongest_top1": report["fgsm_top1"][strongest] if strongest else None,
        "gate": report.get("gate"),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _chunks(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]
