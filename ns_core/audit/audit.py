"""The audit of a teacher's pseudo-labels as one document: what a selection of them would be worth, before any student.

In: `Material`, which is arrays and the figures of the selection. Out: `Audit`, kept as `audits/{id}/audit.json`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ns_core.artifacts import Frozen
from ns_core.audit import figures, shift
from ns_core.audit.figures import HOLDOUT, AtCut, Floats, HeldOut, Share
from ns_core.audit.reading import Pool
from ns_core.audit.shift import Shift
from ns_core.audit.thresholds import ClassThreshold, by_class
from ns_core.evaluation.reports.selection_classes import ClassFigures


@dataclass(frozen=True)
class Material:
    """Everything that an audit goes by."""

    run_id: str
    selection: str
    """Fingerprint."""
    recipe: str
    seed: int
    class_names: Sequence[str]
    settings: Mapping[str, Any]
    """Science settings of filter-and-balance."""
    selected: Sequence[ClassFigures]
    """By class index."""
    holdout: HeldOut
    holdout_probabilities: Floats
    """[N,C]"""
    temperature: float
    """Of the standing teacher."""
    folds: Sequence[HeldOut]
    """By fold."""
    folds_on_holdout: Sequence[float]
    """Top-1 of each fold's teacher on the holdout."""
    pool: Pool


class ClassAudit(Frozen):
    """One class, as the teacher predicts it."""

    label: int
    name: str
    pool: int
    """Images of the pool that the teacher takes for it."""
    kept: int
    cut: float | None
    """Lowest confidence that is kept; None where no confidence of the class is."""
    precision: Share
    """Of what is kept, the share that is of this class."""
    found: float | None
    """Of the pool's images of this class, the estimated share that is kept with its label."""
    threshold: ClassThreshold
    curve: list[figures.Point]
    """What other thresholds would make of what is taken for this class, at `figures.CLASS_THRESHOLDS`; of its share of
    the pool the coverage."""


class Audit(Frozen):
    """What the teacher's labels of the pool are worth."""

    run_id: str
    selection: str
    """Fingerprint of what is audited, an artifact of filter-and-balance."""
    recipe: str
    seed: int
    target: float
    """Precision that thresholds by class are sought for."""
    threshold: float
    """`select.threshold`."""
    target_precision: float = 0.0
    """`select.target_precision`."""
    calibrated: bool
    """Whether it and all confidences here are those after temperature scaling."""
    temperature: float
    pool: int
    kept: int
    rows: int
    """Kept images, repeats counted."""
    precision: Share
    """Of the kept images, by all that was held out."""
    seen: float | None
    """The same of the rows, which a student sees."""
    unseen: int
    """Kept images of classes that nothing held out tells of."""
    by_source: dict[str, Share]
    """The same by the `holdout` and by the `folds` alone."""
    held_out: dict[str, int]
    """Images of each of the two."""
    holdout_top1: float
    folds_on_holdout: list[float]
    """Top-1 of the folds' teachers on the same images."""
    classes: list[ClassAudit]
    curve: list[figures.Point]
    calibration: figures.Calibration
    shift: Shift
    report: str = ""
    """URI of the page."""


def audited(material: Material, target: float) -> Audit:
    """The document. `target`: 0..1, both excluded."""
    calibrated = material.settings.get("confidence") == "calibrated"
    held = figures.joined([material.holdout, *material.folds])
    prior, found, weights = _shift(material, held)
    score, pool_score = held.score(calibrated), material.pool.score(calibrated)
    kept = np.array([one.kept for one in material.selected], np.int64)
    cuts = np.array([_cut(one, material.settings) for one in material.selected])
    ceiling = float(material.settings.get("max_confidence", 1.0))
    below = np.ones(len(held), bool) if ceiling == 1 else score < ceiling
    at = figures.at_cut(held.where(below), score[below], cuts, kept, weights)
    sources = {"holdout": held.fold == HOLDOUT, "folds": held.fold != HOLDOUT}
    alone = {}
    for name, mask in sources.items():
        if mask.any():
            own, mine = _weights(prior, held.where(mask), len(kept)), mask & below
            alone[name] = figures.at_cut(held.where(mine), score[mine], cuts, kept, own).overall
    thresholds = by_class(held, score, (material.pool.top1, pool_score), target, weights)
    return Audit(
        run_id=material.run_id,
        selection=material.selection,
        recipe=material.recipe,
        seed=material.seed,
        target=target,
        threshold=material.settings["threshold"],
        target_precision=material.settings.get("target_precision", 0.0),
        calibrated=calibrated,
        temperature=material.temperature,
        pool=material.pool.images,
        kept=int(kept.sum()),
        rows=sum(one.rows for one in material.selected),
        precision=at.overall,
        seen=_of_rows(material.selected, at),
        unseen=at.unseen,
        by_source=alone,
        held_out={name: int(mask.sum()) for name, mask in sources.items()},
        holdout_top1=float(material.holdout.right.mean()),
        folds_on_holdout=list(material.folds_on_holdout),
        classes=_classes(material, cuts, at, prior, (thresholds, _curves(material, held, weights))),
        curve=figures.curve(held, score, pool_score, material.pool.images, weights),
        calibration=figures.calibrated(material.holdout),
        shift=found,
    )


def _cut(one: ClassFigures, settings: Mapping[str, Any]) -> float:
    """What decides for a class that is full is its last image, for any other the threshold, which may be its own."""
    if one.cut is not None and one.dropped["class_full"]:
        return float(one.cut)
    if settings.get("target_precision"):
        return np.inf if one.threshold is None else one.threshold
    return float(settings["threshold"])


def _weights(prior: NDArray[np.float64], held: HeldOut, classes: int) -> NDArray[np.float64]:
    return shift.class_weights(shift.prior_of(held.label, classes), prior)


def _shift(material: Material, held: HeldOut) -> tuple[NDArray[np.float64], Shift, NDArray[np.float64]]:
    """(prior of the pool, what is told of it, weight of each true class)."""
    classes, pool = len(material.class_names), material.pool
    at_home = shift.tempered(material.holdout_probabilities, material.temperature).mean(axis=0)
    there = shift.em(shift.tempered(pool.probabilities, material.temperature), at_home)
    own = shift.prior_of(material.holdout.label, classes)
    # What the probabilities take for granted is their own mean, which need not be the labels'.
    prior = np.maximum(own, 1e-6) * there / np.maximum(at_home, 1e-12)
    estimated = prior / prior.sum()
    predicted = np.bincount(pool.top1, minlength=classes)
    p_value, real = shift.same_predictions(np.bincount(material.holdout.top1, minlength=classes), predicted)
    prior = own + real * (estimated - own)
    weights = _weights(prior, held, classes)
    by_confusion = shift.bbse(material.holdout, predicted, classes)
    on_holdout = _weights(prior, material.holdout, classes)[material.holdout.label]
    apart = shift.unlike(material.holdout.calibrated, on_holdout, pool.calibrated)
    distance = float(np.abs(prior - own).sum() / 2)
    missing = [
        name for name, share in zip(material.class_names, shift.prior_of(held.label, classes), strict=True) if not share
    ]
    told = Shift(
        held=own.tolist(),
        pool=prior.tolist(),
        em=estimated.tolist(),
        bbse=None if by_confusion is None else by_confusion.tolist(),
        distance=distance,
        p_value=p_value,
        unlike=apart,
        mean_confidence=(
            float(np.average(material.holdout.calibrated, weights=on_holdout)),
            float(pool.calibrated.mean()),
        ),
        notes=shift.told(distance, p_value, apart, missing),
    )
    return prior, told, weights


def _of_rows(selected: Sequence[ClassFigures], at: AtCut) -> float | None:
    """Precision of the rows: each class counts as often as it is repeated."""
    known = [
        (one.rows, share.value) for one, share in zip(selected, at.classes, strict=True) if share.value is not None
    ]
    rows = sum(count for count, _ in known)
    return sum(count * value for count, value in known) / rows if rows else None


def _curves(material: Material, held: HeldOut, weights: Floats) -> list[list[figures.Point]]:
    calibrated, made = material.settings.get("confidence") == "calibrated", []
    score, pool_score = held.score(calibrated), material.pool.score(calibrated)
    for one in material.selected:
        mine, there = held.top1 == one.label, pool_score[material.pool.top1 == one.label]
        curve = figures.curve(held.where(mine), score[mine], there, one.pool, weights, figures.CLASS_THRESHOLDS)
        made.append(curve)
    return made


def _classes(
    material: Material,
    cuts: Floats,
    at: AtCut,
    prior: Floats,
    more: tuple[Sequence[ClassThreshold], Sequence[list[figures.Point]]],
) -> list[ClassAudit]:
    """`more`: threshold and curve of each class."""
    made = []
    rows = zip(material.selected, cuts, at.classes, prior, *more, strict=True)
    for one, cut, share, mine, threshold, curve in rows:
        images = float(mine) * material.pool.images
        found = None if share.value is None or images < 0.5 else min(1.0, one.kept * share.value / images)
        scale = material.pool.images / max(1, len(material.pool.top1))
        made.append(
            ClassAudit(
                label=one.label,
                name=one.name,
                pool=one.pool,
                kept=one.kept,
                cut=float(cut) if np.isfinite(cut) else None,
                precision=share,
                found=found,
                threshold=threshold.model_copy(update={"images": round(threshold.images * scale)}),
                curve=curve,
            )
        )
    return made
