"""The end of an evaluation: from the tables to the report, the gate's decision, the curves and the examples.

In: the tables of all scenes, and the baseline's. Out: `report.json`, `examples.parquet`, and the figures of the record.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from pydantic import JsonValue

from ns_core.config import EvaluateConfig
from ns_core.errors import StageFailed, UserError
from ns_core.evaluation.attacks.gradients import Kind, attack_settings
from ns_core.evaluation.figures.facts import Facts
from ns_core.evaluation.figures.gate import GateDecision, GateLimits
from ns_core.evaluation.figures.score import SUBSETS, gate_of, headline, score
from ns_core.evaluation.plan import HOLDOUT, Plan
from ns_core.evaluation.report_file import ReportFile, read_report, write_report
from ns_core.evaluation.reports.examples import EXAMPLES, collect, write_examples
from ns_core.evaluation.results import RobustnessReport
from ns_core.evaluation.sets.class_folders import FolderSamples
from ns_core.evaluation.tables import Tables
from ns_core.models.checkpoint import ModelCard
from ns_core.stage import StageContext, log

_ATTACKS: tuple[Kind, ...] = ("fgsm", "pgd", "autoattack")
_NORMALISERS = {"imagenet_c": "AlexNet", "imagenet_p": "AlexNet", "cifar10_c": "baseline", "cifar10_p": "baseline"}
"""Of the curves, so that all points of one curve are relative to the same."""


@dataclass(frozen=True)
class Baseline:
    """The report that this one is compared with: the teacher's."""

    tables: Tables
    file: ReportFile

    @classmethod
    def of(cls, context: StageContext, class_names: Sequence[str], holdout: Sequence[str] | None) -> Self | None:
        """The input `baseline`, or None without one. `holdout`: keys of the images that the gate will compare.

        Raises `StageFailed` when it was evaluated on others, `UserError` when it is of other classes: before anything
        is looked at.
        """
        if "baseline" not in context.inputs:
            return None
        folder = context.inputs["baseline"]
        found = cls(Tables.of(folder), read_report(folder))
        if list(found.file.report.class_names) != list(class_names):
            raise UserError(
                f"the baseline has other classes ({len(found.file.report.class_names)}) than this checkpoint "
                f"({len(class_names)}): compare checkpoints of one dataset"
            )
        if holdout is None or HOLDOUT not in found.tables:
            return found
        if found.tables.predictions(HOLDOUT).key.tolist() != list(holdout):
            raise StageFailed("the baseline was evaluated on another holdout")
        return found


@dataclass(frozen=True)
class Conclusion:
    """What is written down of one evaluation."""

    config: EvaluateConfig
    context: StageContext
    plan: Plan
    card: ModelCard
    baseline: Baseline | None

    def of(self, tables: Tables) -> dict[str, JsonValue]:
        """Writes the report and the examples; the figures of the record."""
        before = self.baseline.tables if self.baseline else None
        report = score(tables, self._facts())
        gate = gate_of(tables, before, self._limits())
        document = None if gate is None else _document(gate)
        write_report(self.context.output, report, document, self.context.fingerprint)
        self._show(report, tables)
        for key, value, step in points(report):
            self.context.metric(key, value, step)
        return headline(report, gate)

    def _facts(self) -> Facts:
        config, size = self.config, self.card.test_size
        attacks = [kind for kind in _ATTACKS if getattr(config, f"{kind}_eps")]
        return Facts(
            model=self.card.model,
            size=size,
            class_names=self.card.class_names,
            config=config,
            lengths=self.plan.lengths,
            choices=choices(self.plan),
            sizes=sizes(self.plan),
            attack_settings={kind: attack_settings(kind, config.pgd_steps, size) for kind in attacks},
            gaps=self.plan.gaps,
            baseline=self.baseline.tables if self.baseline else None,
            baseline_fingerprint=self.baseline.file.fingerprint if self.baseline else "",
            baseline_report=self.baseline.file.report if self.baseline else None,
        )

    def _limits(self) -> GateLimits:
        config = self.config
        return GateLimits(config.min_gain, config.max_worst_class_drop, config.max_ece_rise, config.stop_p_value)

    def _show(self, report: RobustnessReport, tables: Tables) -> None:
        """`examples.parquet`. Hours of measuring do not fail for want of pictures: what goes wrong is a warning."""
        before = self.baseline.tables if self.baseline else None
        try:
            write_examples(collect(report, tables, before, self.plan.samples), self.context.output / EXAMPLES)
        except Exception as error:  # whatever it is, the figures are there
            (self.context.output / EXAMPLES).unlink(missing_ok=True)
            log.warning("no examples for the galleries of the report: %s: %s", type(error).__name__, error)


def choices(plan: Plan) -> dict[str, int]:
    """Natural suite -> classes among which the network has to choose, where these are not all."""
    return {
        scene.suite: len(samples.classes)
        for scene, samples in plan.samples.items()
        if scene.suite in (*SUBSETS, "imagenet_o") and samples.classes is not None
    }


def sizes(plan: Plan) -> dict[str, set[tuple[int, int]]]:
    """`imagenet_c`, `imagenet_p` -> (height, width) of their pictures, as the sets were opened."""
    found: dict[str, set[tuple[int, int]]] = {}
    for scene, samples in plan.samples.items():
        if isinstance(samples, FolderSamples) and samples.size is not None:
            found.setdefault(scene.suite, set()).add(samples.size)
    for scene, clips in plan.clips.items():
        if shape := getattr(clips, "shape", None):  # of `ClipSamples`, whose module wants OpenCV
            found.setdefault(scene.suite, set()).add((shape[1], shape[2]))
    return found


def points(report: RobustnessReport) -> Iterator[tuple[str, float, int]]:
    """Name, value and step of what becomes curves: one point each, of attacks one for each eps, which is the step."""
    if report.corruptions is not None:
        if report.corruptions.mean_error is not None:
            yield "mean_corruption_error", report.corruptions.mean_error.value, 0
        yield from ((f"corruption/{name}", error, 0) for name, error in report.corruptions.means.items())
    if report.perturbations is not None:
        if report.perturbations.mean_flip_probability is not None:
            yield "mean_flip_probability", report.perturbations.mean_flip_probability.value, 0
        yield from (
            (f"flip_probability/{name}", flips, 0) for name, flips in report.perturbations.flip_probability.items()
        )
    for suite, measured in (("imagenet_c", report.imagenet_c), ("cifar10_c", report.cifar10_c)):
        if measured is not None and measured.mce is not None and measured.normaliser == _NORMALISERS[suite]:
            yield f"{suite}/mce", measured.mce.value, 0
    for suite, flipped in (("imagenet_p", report.imagenet_p), ("cifar10_p", report.cifar10_p)):
        if flipped is not None and flipped.mfr is not None and flipped.normaliser == _NORMALISERS[suite]:
            yield f"{suite}/mfr", flipped.mfr.value, 0
    yield from ((f"{suite}/top1", subset.accuracy.top1.value, 0) for suite, subset in report.subsets.items())
    if report.imagenet_o is not None:
        yield "imagenet_o/aupr", report.imagenet_o.aupr.value, 0
    for kind, attack in report.attacks.items():
        yield from ((f"{kind}_top1", top1.value, round(float(eps))) for eps, top1 in attack.top1.items())


def _document(gate: GateDecision) -> dict[str, JsonValue]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(gate).items()}
