"""The report of an evaluation as HTML and as Markdown: every suite, what it may be compared with, and what is missing.

In: a `RobustnessReport` with the gate's decision, pictures (`robustness_pictures`) and examples. Out: text. Loads
neither matplotlib nor torch.
"""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ns_core.evaluation.reports import robustness_details as details
from ns_core.evaluation.reports import robustness_tables as tables
from ns_core.evaluation.reports.examples import Example
from ns_core.evaluation.reports.page import (
    Table,
    html_figure,
    html_image,
    html_list,
    html_table,
    markdown_table,
    page,
    plain,
)
from ns_core.evaluation.reports.report import percent
from ns_core.evaluation.reports.robustness_tables import name_of
from ns_core.evaluation.reports.strips import confident
from ns_core.evaluation.results import RobustnessReport
from ns_core.fingerprint import SHORT

BASELINE = "baseline"
"""Suite of gaps where only a comparison is missing."""
WORST_CLASSES = 20
"""Classes in the picture and in the list of those with the lowest accuracy."""

_NOTES = (
    "Every interval covers 95 % and is over source images: the many variants of one image are drawn together.",
    "Differences are this checkpoint's figure minus the baseline's on the same images, in points; p is McNemar's exact "
    "test, two-sided, and stands where an image is either right or wrong.",
    "Mean error and mean flip probability leave out the extra corruptions and perturbations, as mCE and mFR do. They "
    "are plain means: not mCE, not mFR.",
    "CE and FR, in percent, are relative to AlexNet for official files alone, and only then is their mean called mCE "
    "or mFR; elsewhere they are relative to the baseline. Only what says so is comparable with published figures.",
    "Under attack a clean mistake counts as one at every eps; eps is in 0..255 units of the pixels the network sees.",
    "ECE has 15 equal bins, the RMS calibration error bins of 100 images, the last one included. AURC is the area "
    "under the risk-coverage curve, AURRA that under the accuracy of the k surest.",
)
_RECALLED = (
    "mFR by AlexNet: its ten flip probabilities are recalled from the paper's table and not yet confirmed by a run of "
    "AlexNet."
)


@dataclass(frozen=True)
class Evaluated:
    """Everything that the report of one evaluation tells."""

    run_id: str
    generation: int
    fingerprint: str
    """Of the evaluation."""
    report: RobustnessReport
    baseline: RobustnessReport | None = None
    """For the second bar and the second curve; differences are in `report`."""
    gate: Mapping[str, Any] | None = None
    """As `report.json` has it."""

    @property
    def title(self) -> str:
        """What came out, in a sentence."""
        report = self.report
        parts = [f"{percent(one.top1.value)} on clean images" for one in (report.images or report.test,) if one]
        for suite, corrupted in tables.corruption_suites(report).items():
            if corrupted.mean_error is not None:
                parts.append(f"{percent(corrupted.mean_error.value)} mean error under {_of(suite, 'corruptions')}")
        for suite, flipped in tables.perturbation_suites(report).items():
            if flipped.mean_flip_probability is not None:
                flips = percent(flipped.mean_flip_probability.value)
                parts.append(f"flips in {flips} of frame pairs of {_of(suite, 'perturbations')}")
        for kind, attack in report.attacks.items():
            if attack.top1:
                eps = tables.strongest(attack.top1)
                parts.append(f"{percent(attack.top1[eps].value)} under {name_of(kind)} at {eps}/255")
        for suite, subset in report.subsets.items():
            parts.append(f"{percent(subset.accuracy.top1.value)} on {name_of(suite)}")
        found = ", ".join(parts) or "nothing was measured"
        return f"{report.model} at {report.size} pixels: {found}."


def _of(suite: str, made: str) -> str:
    return name_of(suite) if suite != made else f"{made} made on the fly"


def render_html(evaluated: Evaluated, pictures: Mapping[str, bytes], examples: Sequence[Example]) -> str:
    """One page that needs nothing else. `pictures`: PNG by caption."""
    report = evaluated.report
    body = [
        f"<h1>{html.escape(evaluated.title)}</h1>",
        html_list([*_remarks(evaluated), *tables.budgets(report)]),
        *_section(*_missing(report)),
        *_section("Every suite", tables.suites(report)),
        *(html_figure(caption, png) for caption, png in pictures.items()),
        *(part for head, table in _details(evaluated).items() for part in _section(head, table)),
        *_section("Most frequent mistakes on clean images", details.confused(report)),
        *_galleries(report, examples),
        "<h2>How to read this</h2>",
        html_list(_notes(report)),
    ]
    return page(f"{evaluated.run_id}: robustness, generation {evaluated.generation}", body)


def render_markdown(evaluated: Evaluated) -> str:
    """The same without pictures, as GitHub-flavoured Markdown."""
    report = evaluated.report
    sections = dict([_missing(report), ("Every suite", tables.suites(report))]) | _details(evaluated)
    parts = [
        f"# {plain(evaluated.title)}",
        _bullets([*_remarks(evaluated), *tables.budgets(report)]),
        *(f"## {plain(head)}\n\n{markdown_table(table)}" for head, table in sections.items() if table.rows),
        f"## How to read this\n\n{_bullets(_notes(report))}",
    ]
    return "\n\n".join(parts) + "\n"


def _notes(report: RobustnessReport) -> list[str]:
    """How to read the figures that this report has."""
    by_alexnet = any(one.normaliser == "AlexNet" for one in tables.perturbation_suites(report).values())
    return [*_NOTES, _RECALLED] if by_alexnet else [*_NOTES]


def _missing(report: RobustnessReport) -> tuple[str, Table]:
    return "Not measured", tables.gaps(report)


def _details(evaluated: Evaluated) -> dict[str, Table]:
    """Heading -> table of what both forms have."""
    report, before = evaluated.report, evaluated.baseline
    errors, flips = tables.baseline_corruptions(report, before), tables.baseline_perturbations(report, before)
    return {
        **{
            f"Errors by corruption and severity, {_of(suite, 'corruptions')}": details.corrupted(one, errors.get(suite))
            for suite, one in tables.corruption_suites(report).items()
        },
        **{
            f"Flips by perturbation, {_of(suite, 'perturbations')}": details.perturbed(one, flips.get(suite))
            for suite, one in tables.perturbation_suites(report).items()
        },
        "Under attack, by strength": details.attacked(report),
        "Settings of the attacks": details.attack_settings(report),
        "Calibration and confidence": details.confidence(report),
        "Predictions that changed": details.changes(report),
    }


def _section(head: str, table: Table) -> list[str]:
    """A heading and its table; nothing without rows."""
    return [f"<h2>{html.escape(head)}</h2>", html_table(table)] if table.rows else []


def _bullets(items: Sequence[str]) -> str:
    return "\n".join(f"- {plain(item)}" for item in items)


def _remarks(evaluated: Evaluated) -> list[str]:
    """Where the report comes from, what the gate said, what is better and worse, what is missing."""
    report = evaluated.report
    place = f"Run {evaluated.run_id}, generation {evaluated.generation}, evaluate-robustness "
    remarks = [place + f"{evaluated.fingerprint[:SHORT]}."]
    if evaluated.gate:
        remarks.append(f"Gate: {evaluated.gate['reason']}")
    uncompared = sum(gap.suite == BASELINE for gap in report.gaps)
    if report.baseline:
        images = "in part on other images or without a ratio, see Not measured" if uncompared else "on the same images"
        remarks.append(f"The baseline is evaluate-robustness {report.baseline[:SHORT]}, {images}.")
    else:
        remarks.append("There is no baseline to compare with.")
    for verdict, figures in tables.verdicts(report).items():
        if figures:
            remarks.append(f"{_OPENINGS[verdict]}: {', '.join(figures)}.")
    remarks += _worst_classes(report)
    if lost := len(report.gaps) - uncompared:
        things = f"{lost:,} {'thing' if lost == 1 else 'things'}"
        remarks.append(f"Incomplete: {things} could not be measured, and no mean counts them: see Not measured.")
    if uncompared:
        those = f"{uncompared:,} {'comparison' if uncompared == 1 else 'comparisons'}"
        remarks.append(f"{those} with the baseline could not be made: see Not measured.")
    return remarks


_OPENINGS = {
    "better": "Better than the baseline",
    "worse": "Worse than the baseline",
    "not told apart": "Not told apart from the baseline at 95 %",
}


def _worst_classes(report: RobustnessReport) -> list[str]:
    """A sentence of the five classes with the lowest accuracy."""
    one = report.images or report.test
    if one is None:
        return []
    known = [(share, name) for share, name in zip(one.per_class, report.class_names, strict=True) if share is not None]
    lowest = ", ".join(f"{name} ({percent(share)})" for share, name in sorted(known)[:5])
    return [f"Lowest accuracy by class: {lowest}."]


def _galleries(report: RobustnessReport, examples: Sequence[Example]) -> Iterator[str]:
    """Worst corruptions, then what was fixed and what was broken; nothing of a kind that has no examples."""
    worst = [one for one in examples if one.kind == "worst"]
    if worst:
        yield "<h2>The worst corruptions</h2>"
        yield "<p>Mistakes at the highest severity, the surest first, of images that are right without corruption"
        yield "where that is known; above, the same image uncorrupted. Below, what the network says.</p>"
    for scene, these in groupby(worst, lambda one: one.scene):
        error = tables.corruption_suites(report)[scene.suite].errors[scene.name][scene.level]
        head = f"{scene.name.replace('_', ' ')}, severity {scene.level}: {percent(error)} error"
        yield f"<h3>{html.escape(head)}</h3>"
        yield _strip([_figure(report, one) for one in these])
    for kind, head, words in (
        ("fixed", "Fixed images", "Right now, wrong before; below, what the network says now and what it said before."),
        ("broken", "Broken images", "Wrong now, right before; below, what the network says and what it is."),
    ):
        if mine := [one for one in examples if one.kind == kind]:
            yield f"<h2>{head}</h2><p>{words} The surest first.</p>"
            yield _strip([_figure(report, one) for one in mine])


def _strip(figures: Sequence[str]) -> str:
    return f'<div class="strip"><div>{"".join(figures)}</div></div>\n'


def _figure(report: RobustnessReport, one: Example) -> str:
    """A thumbnail, the uncorrupted one above where there is one, and what was said."""
    names = report.class_names
    said = f"{names[one.top1]}, {confident(one.confidence)}"
    if one.kind == "fixed":
        said += f"; before: {names[one.baseline_top1]}" if one.baseline_top1 >= 0 else ""
    else:
        said += f"; is {names[one.label]}" if one.label >= 0 else ""
    clean = html_image(one.clean, f"{one.key}, uncorrupted") if one.clean else ""
    picture = html_image(one.image, f"{one.key}: {said}")
    return f"<figure>{clean}{picture}<figcaption>{html.escape(said)}</figcaption></figure>"
