"""What a run says at its end to the person at the terminal: a table, whether it was worth it, and where to look.

In: the document of a finished run, as `flows.results.RunResult.document()` makes it. Out: text on one stream,
standard error by convention, so that standard output keeps the result alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from ns_core.evaluation.reports.comparison import Row, points, rows_of

PLAIN_TABLE_WIDTH = 110
"""Columns of the table where no terminal says how many there are."""
COLUMNS = (
    "params",
    "holdout\ntop-1\n%",
    "test\ntop-1\n%",
    "ECE",
    "mean\ncorr.\nerror\n%",
    "max.\nFGSM\ntop-1\n%",
    "labels\nkept",
)
"""Heads of the figures, high and narrow: with them the table fits 80 columns, the model's name folded."""

MEASURES = {"top-1 accuracy": "top-1", "mean top-1 error": "error", "mean flip probability": "flips"}
"""Those of `comparison.Row`, short."""


def print_summary(document: Mapping[str, Any], stream: TextIO) -> None:
    """The table of a finished run, whether the student beats the teacher, and where the report lies.

    Accuracies and errors are shares in the document and per cent here.
    """
    terminal = stream.isatty()
    console = Console(file=stream, width=None if terminal else PLAIN_TABLE_WIDTH, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for name in ("", "model"):
        table.add_column(name, overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("gate", no_wrap=True)
    table.add_row("teacher", *_model_cells(document["first_teacher"]), "", "")
    for generation in document["generations"]:
        kept, verdict = generation["pseudo_labels"]["kept"], generation["gate"]["verdict"]
        table.add_row(f"g{generation['index']}", *_model_cells(generation["student"]), f"{kept:,}", verdict)
    console.print(table)
    states = [stage["state"] for stage in document["stages"]]
    computed, cached = states.count("computed"), states.count("cached")
    console.print(comparison(document), markup=False, soft_wrap=not terminal)
    if ending := document.get("ending"):
        console.print(f"No further generation: {ending}.", markup=False, soft_wrap=True)
    if rows := rows_of(document):
        console.print(_robustness(rows))
    console.print(f"{len(states)} stages: {computed} computed, {cached} cached.")
    # Never broken, or a terminal could not open it by a click.
    console.print(f"Report: {document['report']}", markup=False, soft_wrap=True)
    console.print(in_mlflow(document), markup=False, soft_wrap=True)


def in_mlflow(document: Mapping[str, Any]) -> str:
    """Where the run stands beside others; without a server, how to start one."""
    pages = document["mlflow"]
    if page := pages["compare"] or pages["run"]:
        return f"Compare: {page}"
    return "Compare: in MLflow's pages; where no server runs, `noisy-student ui` starts them"


def _robustness(rows: Sequence[Row]) -> Table:
    """Figure by figure what became of robustness; in 80 columns the longest names are folded."""
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for name in ("student against\nfirst teacher", "measure"):
        table.add_column(name, overflow="fold")
    for name in ("before\n%", "after\n%", "change\npoints", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("the student is", no_wrap=True)
    for row in rows:
        change, low, high = (points(share) for share in (row.difference, row.low, row.high))
        figures = (_percent(row.before), _percent(row.after), change, f"{low} to {high}")
        table.add_row(row.figure, MEASURES[row.measure], *figures, row.verdict)
    return table


def comparison(document: Mapping[str, Any]) -> str:
    """Whether the run was worth it, in a sentence: a student against the first teacher on the test split.

    The student is the last one that a gate promoted, or the last one of all when none was: chosen by the
    holdout, never by the split that it is compared on.
    """
    generations = document["generations"]
    if not generations:
        return "No generation was run, so there is no student to compare with the teacher."
    promoted = [one for one in generations if one["gate"]["verdict"] == "promote"]
    chosen = (promoted or generations)[-1]
    student, teacher = chosen["student"]["test_top1"], document["first_teacher"]["test_top1"]
    points = round(100 * (student - teacher), 1)
    figures = f"{_percent(student)} % (generation {chosen['index']}) against {_percent(teacher)} % (first teacher)"
    gate = "" if promoted else " No gate promoted a student."
    if points > 0:
        return f"The student beats the teacher by {points:+.1f} points on the test split: {figures}.{gate}"
    how = f"it is {-points:.1f} points worse" if points < 0 else "they are level"
    return f"The student does not beat the teacher on the test split, {how}: {figures}.{gate}"


def _model_cells(figures: Mapping[str, Any]) -> tuple[str, ...]:
    ece = figures["ece"]
    return (
        figures["model"],
        _count(figures["parameters"]),
        _percent(figures["holdout_top1"]),
        _percent(figures["test_top1"]),
        "-" if ece is None else f"{ece:.3f}",
        _percent(figures["mean_corruption_error"]),
        _percent(figures["fgsm_strongest_top1"]),
    )


def _percent(share: float | None) -> str:
    """`97.5`; a dash for what the recipe did not measure."""
    return "-" if share is None else f"{100 * share:.1f}"


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.2f} M" if parameters >= 1e6 else f"{parameters / 1e3:.0f} k"
