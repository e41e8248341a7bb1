"""From per-image predictions to the report: every figure of an evaluation, computed without the network.

In: the `Tables` of a checkpoint, those of the baseline it is compared with, and `Facts` that no table holds.
Out: a `RobustnessReport`, the gate's decision, and the few figures of the artifact's record. Images that could not be
read count in no figure, and each scene that lacks some, or is not there though asked for, is a `Gap`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from pydantic import JsonValue

from ns_core.errors import StageFailed, UserError
from ns_core.evaluation.figures import corruption_error, flip_rate
from ns_core.evaluation.figures.accuracy import accuracy, against
from ns_core.evaluation.figures.baselines import OFFICIAL_CHOICES, OFFICIAL_IMAGES, OFFICIAL_KNOWN
from ns_core.evaluation.figures.corruption_error import Asked
from ns_core.evaluation.figures.facts import Facts
from ns_core.evaluation.figures.gate import GateDecision, GateLimits, decide
from ns_core.evaluation.figures.out_of_distribution import detection
from ns_core.evaluation.figures.paired import common_rows, share_estimate
from ns_core.evaluation.figures.relative import BASELINE
from ns_core.evaluation.figures.variants import ATTACKS, Readable, called
from ns_core.evaluation.results import (
    Accuracy,
    Attack,
    Corruptions,
    Estimate,
    Gap,
    OutOfDistribution,
    Paired,
    Perturbations,
    RobustnessReport,
    Subset,
)
from ns_core.evaluation.tables import Predictions, Scene, Tables

SUBSETS = ("imagenet_a", "imagenet_r", "imagenet_v2", "imagenet_sketch")


def score(tables: Tables, facts: Facts) -> RobustnessReport:
    """Every figure of the tables.

    Raises:
        UserError: when the baseline has other classes, so that labels are no common ground.
    """
    other = facts.baseline_report
    if other and list(other.class_names) != list(facts.class_names):
        raise UserError(
            f"the baseline {facts.baseline_fingerprint[:12]} has other classes ({len(other.class_names)}) than this "
            f"checkpoint ({len(facts.class_names)}); compare checkpoints of one dataset"
        )
    return _Scoring(tables, facts).report()


def gate_of(tables: Tables, baseline: Tables | None, limits: GateLimits) -> GateDecision | None:
    """The gate's decision on the holdout images that both could read; None without a baseline, or a holdout in either.

    Raises:
        StageFailed: when the holdouts have less than `paired.MIN_COMMON` of their images in common.
    """
    holdout = Scene("clean", "holdout")
    if baseline is None:
        return None
    student, teacher = (Readable(each).predictions(holdout) for each in (tables, baseline))
    if student is None or teacher is None:
        return None
    rows = common_rows(student.key, teacher.key)
    if rows is None:
        raise StageFailed("the baseline was evaluated on another holdout")
    return decide(_taken(teacher, rows[1]), _taken(student, rows[0]), limits)


def headline(report: RobustnessReport, gate: GateDecision | None) -> dict[str, JsonValue]:
    """The few figures that the record, the table at the end and MLflow carry; None: not measured.

    `..._vs_teacher` are ratios to the baseline's figures: 1 is as many errors, or flips. `imagenet_c_mce` and
    `imagenet_p_mfr` are ratios to AlexNet's, or None.
    """
    made, moved, c, p = report.corruptions, report.perturbations, report.imagenet_c, report.imagenet_p
    attacks = {
        kind: {eps: one.value for eps, one in report.attacks[kind].top1.items()} if kind in report.attacks else {}
        for kind in ("fgsm", "pgd")
    }
    natural = report.subsets.get("imagenet_a")
    return {
        "holdout_top1": report.holdout.top1.value if report.holdout else None,
        "test_top1": report.test.top1.value if report.test else None,
        "holdout_interval": _interval(report.holdout),
        "test_interval": _interval(report.test),
        "ece": report.test.ece if report.test else None,
        "holdout_ece": report.holdout.ece if report.holdout else None,
        "mean_corruption_error": _value(made.mean_error) if made else None,
        "mean_corruption_error_vs_teacher": _value(made.mce, 100) if made else None,
        "mean_flip_probability": _value(moved.mean_flip_probability) if moved else None,
        "mean_flip_probability_vs_teacher": _value(moved.mfr, 100) if moved else None,
        "fgsm_top1": cast(dict[str, JsonValue], attacks["fgsm"]),
        "fgsm_strongest_top1": _strongest(attacks["fgsm"]),
        "pgd_top1": cast(dict[str, JsonValue], attacks["pgd"]),
        "pgd_strongest_top1": _strongest(attacks["pgd"]),
        "imagenet_a_top1": natural.accuracy.top1.value if natural else None,
        "imagenet_c_mce": _value(c.mce) if c and c.normaliser == "AlexNet" else None,
        "imagenet_p_mfr": _value(p.mfr) if p and p.normaliser == "AlexNet" else None,
        "gaps": len(report.gaps),
        "gate": {**dataclasses.asdict(gate), "interval": list(gate.interval)} if gate else None,
    }


class _Scoring:
    """The making of one report; gaps are collected on the way."""

    def __init__(self, tables: Tables, facts: Facts) -> None:
        self._facts = facts
        self._source = Readable(tables)
        self._baseline = Readable(facts.baseline) if facts.baseline is not None else None
        self._gaps: list[Gap] = []
        self._suites = {scene.suite for scene in self._source.scenes} | set(facts.config.official.given())

    def report(self) -> RobustnessReport:
        facts = self._facts
        attacks = {kind: made for kind in ATTACKS if (made := self._attack(kind))}
        subsets = {suite: found for suite in SUBSETS if (found := self._subset(suite))}
        report = RobustnessReport(
            model=facts.model,
            size=facts.size,
            class_names=list(facts.class_names),
            holdout=self._split("holdout"),
            test=self._split("test"),
            images=self._split("images"),
            corruptions=self._corruptions("corruptions"),
            perturbations=self._perturbations("perturbations"),
            attacks=attacks,
            subsets=subsets,
            imagenet_o=self._unknown(),
            imagenet_c=self._corruptions("imagenet_c"),
            cifar10_c=self._corruptions("cifar10_c"),
            imagenet_p=self._perturbations("imagenet_p"),
            cifar10_p=self._perturbations("cifar10_p"),
            baseline=facts.baseline_fingerprint,
            frost=facts.config.frost,
            budget=self._budget(),
        )
        return report.model_copy(update={"gaps": [*facts.gaps, *self._source.gaps, *self._gaps]})

    def _split(self, name: str) -> Accuracy | None:
        scene = Scene("clean", name)
        return self._accuracy(scene) if name in self._facts.lengths or scene in self._source else None

    def _accuracy(self, scene: Scene) -> Accuracy | None:
        found = self._source.predictions(scene)
        if found is None:
            self._missing(scene.suite, called(scene))
            return None
        made = accuracy(found, len(self._facts.class_names), self._facts.among(scene.suite))
        return made.model_copy(update={"against_baseline": self._against(scene, found)})

    def _against(self, scene: Scene, ours: Predictions) -> Paired | None:
        if self._baseline is None:
            return None
        before = self._baseline.predictions(scene)
        found = against(ours, before) if before else None
        if found is None:
            what = " ".join(dict.fromkeys((scene.suite, called(scene))))
            self._gaps.append(Gap(suite=BASELINE, what=what, reason="it was not evaluated on the same images"))
        return found

    def _attack(self, kind: str) -> Attack | None:
        """Every eps that was asked for. A mistake before the attack is one in the tables of every eps."""
        grid: Sequence[float] = getattr(self._facts.config, f"{kind}_eps")
        top1: dict[str, Estimate] = {}
        paired: dict[str, Paired] = {}
        other = self._baseline is not None and self._facts.other_attack(kind)
        for scene in [Scene(kind, kind, f"{eps:g}") for eps in grid if self._facts.subject]:
            ours = self._source.predictions(scene)
            if ours is None:
                self._missing(kind, called(scene))
                continue
            top1[scene.level] = share_estimate(ours.right)
            if not other and (found := self._against(scene, ours)):
                paired[scene.level] = found
        if not top1:
            return None
        if other:
            self._gaps.append(Gap(suite=BASELINE, what=kind, reason="it was attacked with other settings"))
        images = max(one.images for one in top1.values())
        settings = dict(self._facts.attack_settings.get(kind, {}))
        return Attack(top1=top1, settings=settings, images=images, against_baseline=paired)

    def _subset(self, suite: str) -> Subset | None:
        if suite not in self._suites:
            return None
        found = self._accuracy(Scene(suite, suite))
        if found is None:
            return None
        wanted = Scene(suite, "clean") in self._source or self._facts.config.official.images
        clean = self._accuracy(Scene(suite, "clean")) if wanted else None
        gap = clean.top1.value - found.top1.value if clean else None
        whole = self._whole(suite, found.top1.images)
        return Subset(accuracy=found, classes=self._facts.among(suite), clean=clean, gap=gap, comparable=whole)

    def _unknown(self) -> OutOfDistribution | None:
        if "imagenet_o" not in self._suites:
            return None
        scenes = Scene("imagenet_o", "out"), Scene("imagenet_o", "clean")
        unknown, known = (self._source.predictions(scene) for scene in scenes)
        for scene, found in zip(scenes, (unknown, known), strict=True):
            if found is None:
                self._missing("imagenet_o", called(scene))
        if not unknown or not known:
            return None
        whole = self._whole("imagenet_o", len(unknown)) and len(known) == OFFICIAL_KNOWN
        return detection(unknown.confidence, known.confidence).model_copy(update={"comparable": whole})

    def _whole(self, suite: str, images: int) -> bool:
        """Whether these are all images of the official set, and its own choice of classes; called when all is read."""
        known = (*self._facts.gaps, *self._source.gaps, *self._gaps)
        told = suite in self._budget() or any(gap.suite == suite for gap in known)
        return not told and images == OFFICIAL_IMAGES[suite] and self._facts.among(suite) == OFFICIAL_CHOICES[suite]

    def _corruptions(self, suite: str) -> Corruptions | None:
        clean = [Scene("clean", "images")] if suite == "imagenet_c" else []
        asked = corruption_error.official(suite, clean, self._facts.published(suite))
        if suite == "corruptions":
            config, subject = self._facts.config, self._facts.subject
            levels = [str(level) for level in config.severities]
            scenes = [Scene(suite, name, level) for name in config.corruptions for level in levels if subject]
            asked = Asked(suite, scenes, [Scene("clean", subject)] if subject else [])
        if not asked.scenes or suite not in {*self._suites, "corruptions"}:
            return None
        other = suite == "corruptions" and self._baseline is not None and self._facts.other_frost
        if other:
            self._gaps.append(Gap(suite=BASELINE, what=suite, reason="its frost was made in another way"))
        made, gaps = corruption_error.corruptions(asked, self._source, None if other else self._baseline)
        self._tell(suite, gaps, made.missing)
        return made

    def _perturbations(self, suite: str) -> Perturbations | None:
        asked = flip_rate.official(suite, self._facts.published(suite))
        if suite == "perturbations":
            names = self._facts.config.perturbations if self._facts.subject else ()
            asked = Asked(suite, [Scene(suite, name, "1") for name in names])
        if not asked.scenes or suite not in {*self._suites, "perturbations"}:
            return None
        made, gaps = flip_rate.perturbations(asked, self._source, self._baseline)
        self._tell(suite, gaps, made.missing)
        return made

    def _tell(self, suite: str, gaps: Sequence[Gap], missing: Sequence[str]) -> None:
        self._gaps += gaps
        for what in missing:
            self._missing(suite, what)

    def _missing(self, suite: str, what: str) -> None:
        """Marks a gap, unless it is known by a better reason."""
        known = (*self._facts.gaps, *self._source.gaps, *self._gaps)
        if not any(gap.suite == suite and gap.what in (what, what.split()[0]) for gap in known):
            self._gaps.append(Gap(suite=suite, what=what, reason="there are no predictions"))

    def _budget(self) -> dict[str, int]:
        """Suites whose limit is below what there is; of an official set whose length is not known, any limit."""
        facts, config = self._facts, self._facts.config
        there = facts.lengths.get(facts.subject or "", 0)
        limits = {"corruptions": config.max_images, "perturbations": config.max_sequences}
        limits |= dict.fromkeys(ATTACKS, config.max_attacked)
        made = {suite: limit for suite, limit in limits.items() if suite in self._suites and limit < there}
        for suite in config.official.given():
            limit = config.max_official
            if 0 < limit < facts.lengths.get(suite, limit + 1):
                made[suite] = limit
        return made


def _taken(predictions: Predictions, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Predictions:
    """These rows, in this order."""
    return Predictions(**{each.name: getattr(predictions, each.name)[rows] for each in dataclasses.fields(Predictions)})


def _interval(part: Accuracy | None) -> list[JsonValue] | None:
    return [part.top1.low, part.top1.high] if part else None


def _value(estimate: Estimate | None, unit: float = 1) -> float | None:
    return estimate.value / unit if estimate else None


def _strongest(top1: Mapping[str, float]) -> float | None:
    return top1[max(top1, key=float)] if top1 else None
