"""The last standing student against the first teacher, in words and tables: whatever came out, it is told.

In: rows, as `robustness_change` computes them and a run's document keeps them under `robustness`. Out: sentences, and a
table. Loads neither numpy nor torch.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ns_core.artifacts import Frozen
from ns_core.evaluation.reports.page import Table, html_list, html_table, markdown_table, plain

CLEAN_TEST = "clean test images"
"""Figure of the row whose difference is the run's gain."""


class Row(Frozen):
    """One figure of two networks on the same images. Shares are 0 to 1."""

    figure: str
    """`clean test images`, `FGSM at 16/255`; of a mean that is not over everything, `ImageNet-C (14 of 15 kinds)`."""
    measure: Literal["top-1 accuracy", "mean top-1 error", "mean flip probability"]
    """Of the last two less is better."""
    before: float
    """The first teacher's."""
    after: float
    """The student's."""
    difference: float
    """After minus before."""
    low: float
    """95 % interval of the difference: a paired bootstrap over source images."""
    high: float
    p_value: float | None
    """Exact McNemar test; None for means over several variants of an image."""
    images: int
    verdict: Literal["better", "worse", "not told apart"]
    """Of the student; the last when the interval holds 0."""


def rows_of(document: Mapping[str, Any]) -> list[Row]:
    """Those of a run's document; none of a run without generations, or from before there were any."""
    return [Row.model_validate(row) for row in document.get("robustness", ())]


def verdict(measure: str, low: float, high: float) -> Literal["better", "worse", "not told apart"]:
    """What an interval of a difference says."""
    if low <= 0 <= high:
        return "not told apart"
    return "better" if (low > 0) == (measure == "top-1 accuracy") else "worse"


def words(row: Row) -> str:
    """A loss is called one, and chance is called chance."""
    gain = row.difference if row.measure == "top-1 accuracy" else -row.difference
    how = "More" if gain > 0 else "Less" if gain < 0 else "As"
    doubt = "" if row.verdict != "not told apart" else "; the interval holds 0, this may be chance"
    return (
        f"{how} {_quality(row)} {row.figure}: {row.measure} {100 * row.after:.1f} % after {100 * row.before:.1f} %, "
        f"{points(row.difference)} points (95 % interval {points(row.low)} to {points(row.high)}){doubt}."
    )


def _quality(row: Row) -> str:
    if row.measure == "mean top-1 error":
        return "robust to"
    if row.measure == "mean flip probability":
        return "stable along"
    return "robust under" if "/255" in row.figure else "accurate on"


def table(rows: Sequence[Row]) -> Table:
    """A line for each figure."""
    heads = ("figure", "measure", "the student is", "first teacher", "student", "difference", "95 % interval", "p")
    cells: list[tuple[str, ...]] = [
        (
            row.figure,
            row.measure,
            row.verdict,
            f"{100 * row.before:.1f} %",
            f"{100 * row.after:.1f} %",
            points(row.difference),
            f"{points(row.low)} to {points(row.high)}",
            "-" if row.p_value is None else f"{row.p_value:.2g}",
            f"{row.images:,}",
        )
        for row in rows
    ]
    return Table(3, (*heads, "images"), cells)


def as_html(head: str, rows: Sequence[Row]) -> list[str]:
    """A section of a page: heading, sentences, table; nothing without rows."""
    if not rows:
        return []
    return [f"<h2>{html.escape(head)}</h2>", html_list([words(row) for row in rows]), html_table(table(rows))]


def as_markdown(head: str, rows: Sequence[Row]) -> str:
    """The same as Markdown."""
    told = "\n".join(f"- {plain(words(row))}" for row in rows)
    return f"## {plain(head)}\n\n{told}\n\n{markdown_table(table(rows))}" if rows else ""


def points(share: float) -> str:
    """A difference of shares in points, with its sign; -0.0 is none."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"
