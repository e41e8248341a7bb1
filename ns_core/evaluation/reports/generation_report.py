"""The report of one generation as Markdown: teacher against student, and what the gate said.

In: `GenerationResult.summary()`, the generation's part of a run's document (`reports.report`). Out: text. Loads
neither numpy, matplotlib nor torch.
"""

from collections.abc import Mapping
from typing import Any

from ns_core.evaluation.reports.page import Table, markdown_table, plain
from ns_core.evaluation.reports.report import percent

FIGURES = {
    "holdout_top1": "holdout accuracy",
    "test_top1": "test accuracy",
    "ece": "ECE (lower is better)",
    "mean_corruption_error": "mean corruption error (lower is better)",
    "mean_flip_probability": "mean flip probability (lower is better)",
    "fgsm_strongest_top1": "accuracy under FGSM",
    "pgd_strongest_top1": "accuracy under PGD",
}
"""Figures of a model in the order of their rows, in words."""

VERDICTS = {
    "promote": "the student is promoted and teaches next",
    "keep-teacher": "the student is not promoted, the teacher stays",
    "stop": "the student is worse, the run stops",
}


def headline(summary: Mapping[str, Any]) -> str:
    """`Generation 2: the student is promoted and teaches next`."""
    return f"Generation {summary['index']}: {VERDICTS[summary['gate']['verdict']]}"


def render_markdown(summary: Mapping[str, Any]) -> str:
    """Headline, the gate's reason, the figures and the pseudo-labels."""
    student, labels = summary["student"], summary["pseudo_labels"]
    remarks = [
        summary["gate"]["reason"],
        f"Student: {student['model']}, {student['parameters']:,} parameters.",
        f"Pseudo-labels: {labels['kept']:,} images of the pool kept, {labels['rows']:,} rows with repeats"
        f"{_where(summary)}.",
    ]
    listed = "\n".join(f"- {plain(remark)}" for remark in remarks)
    return f"# {plain(headline(summary))}\n\n{listed}\n\n{markdown_table(_figures(summary))}\n"


def _where(summary: Mapping[str, Any]) -> str:
    chosen = summary["pseudo_labels"]["selected_in"]
    return "" if chosen == summary["index"] else f", selected in generation {chosen}"


def _figures(summary: Mapping[str, Any]) -> Table:
    """One row a figure that was measured of both; the holdout's change has the gate's interval."""
    rows, gate = list[tuple[str, ...]](), summary["gate"]
    for name, words in FIGURES.items():
        before, after = summary["teacher"].get(name), summary["student"].get(name)
        if before is None or after is None:
            continue
        if name == "ece":
            rows.append((words, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"))
            continue
        spread = f" ({_points(gate['interval'][0])} to {_points(gate['interval'][1])})" * (name == "holdout_top1")
        rows.append((words, percent(before), percent(after), f"{_points(after - before)} points{spread}"))
    return Table(1, ("figure", "teacher", "student", "change (95 % interval)"), rows)


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
