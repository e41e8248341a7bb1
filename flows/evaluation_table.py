"""Shows an evaluation to the person at the terminal. Imports no torch.

In: the document that `noisy-student evaluate --json` prints. Out: on one stream, standard error by convention, a table
of each suite's figures, what they may be compared with, what was not measured, and where the whole report lies.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from ns_core.evaluation.reports import robustness_tables
from ns_core.evaluation.reports.robustness_tables import name_of
from ns_core.evaluation.results import RobustnessReport
from ns_core.fingerprint import SHORT

PLAIN_TABLE_WIDTH = 110
"""Columns of the table where no terminal says how many there are."""
NOTE = 2
"""Column of `robustness_tables.suites` that says what a figure is comparable with: below the table here, once each."""
PAIRED = 6
"""The first column of the comparison with a baseline."""


def print_evaluation(document: Mapping[str, Any], stream: TextIO) -> None:
    """`document`: as `--json` prints it."""
    report: RobustnessReport = RobustnessReport.model_validate(document["report"])
    terminal = stream.isatty()
    console = Console(file=stream, width=None if terminal else PLAIN_TABLE_WIDTH, highlight=False)
    table, notes = _figures(report)
    console.print(table, markup=False)
    for line in (*notes, *_gaps(report), *_draws(report), *_verdict(document)):
        console.print(line, markup=False, soft_wrap=not terminal)
    stage, fingerprint = document["checkpoint"].split("/")
    console.print(f"{document['model']}, {stage}/{fingerprint[:SHORT]}", markup=False, soft_wrap=True)
    if document["page"]:  # never broken, or a terminal could not open it by a click
        console.print(f"Report: {document['page']}", markup=False, soft_wrap=True)


def _figures(report: RobustnessReport) -> tuple[Table, list[str]]:
    """The table, with the number of a note in each row, and the notes."""
    words, heads, rows = robustness_tables.suites(report)
    shown = [number for number in range(len(heads)) if number != NOTE and (report.baseline or number < PAIRED)]
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for number in shown:
        table.add_column(heads[number], overflow="fold", justify="left" if number < words else "right")
    table.add_column("note", justify="right")
    notes: dict[str, int] = {}
    for row in rows:
        note = notes.setdefault(row[NOTE], len(notes) + 1)
        table.add_row(*(row[number] for number in shown), str(note))
    return table, [f"{number}: {words}" for words, number in notes.items()]


def _gaps(report: RobustnessReport) -> Iterator[str]:
    """A line for each suite and reason."""
    whole: dict[tuple[str, str], list[str]] = defaultdict(list)
    for gap in report.gaps:
        whole[gap.suite, gap.reason].append(f"{gap.what} ({gap.images:,} images)" if gap.images else gap.what)
    for (suite, reason), what in whole.items():
        yield f"Gap in {name_of(suite)}: {', '.join(what)}: {reason}"


def _draws(report: RobustnessReport) -> Iterator[str]:
    """A line for each size of a draw."""
    suites: dict[int, list[str]] = defaultdict(list)
    for suite, images in report.budget.items():
        suites[images].append(name_of(suite))
    for images, names in suites.items():
        yield f"A seeded draw of {images:,}, not everything there is: {', '.join(names)}."


def _verdict(document: Mapping[str, Any]) -> Iterator[str]:
    if gate := document["gate"]:
        yield f"The gate against the baseline says {gate['verdict']}."
