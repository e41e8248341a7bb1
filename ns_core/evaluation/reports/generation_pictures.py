"""PNG picture of one generation. Import it only where pictures are made: matplotlib costs 0.7 s.

In: `GenerationResult.summary()`. Out: a file; the student is blue and filled, its teacher grey and hollow.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.ticker import PercentFormatter

from ns_core.evaluation.reports.generation_report import FIGURES, VERDICTS
from ns_core.evaluation.reports.pictures import BLUE, GRID, INK, new_axes, save, titles
from ns_core.evaluation.reports.report import percent

GREY = "#8e8e96"
_SHARES = tuple(name for name in FIGURES if name != "ece")


def teacher_and_student(path: Path, summary: Mapping[str, Any]) -> None:
    """A line for each share that was measured of both, from the teacher's to the student's; intervals where known."""
    sides = (summary["teacher"], GREY, "white", "teacher"), (summary["student"], BLUE, BLUE, "student")
    names = [name for name in _SHARES if all(side[0].get(name) is not None for side in sides)]
    figure, axes = new_axes(1.5 + 0.5 * len(names))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=GRID)
    for row, name in enumerate(names):
        before, after = (side[0][name] for side in sides)
        axes.plot((before, after), (row, row), color=GREY, linewidth=1.5, zorder=1)
        for figures, colour, fill, _ in sides:
            _interval(axes, figures.get(f"{name.removesuffix('_top1')}_interval"), row, colour)
            axes.plot(figures[name], row, "o", color=colour, markerfacecolor=fill, markersize=8, markeredgewidth=1.8)
        axes.annotate(percent(after), (after, row), (0, 7), textcoords="offset points", color=BLUE, ha="center")
    for _, colour, fill, label in sides:
        axes.plot([], [], "o", color=colour, markerfacecolor=fill, markersize=8, markeredgewidth=1.8, label=label)
    axes.set_yticks(range(len(names)), [FIGURES[name] for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.15)
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    figure.legend(loc="outside lower right", frameon=False, labelcolor=INK, ncols=2)
    words = VERDICTS[summary["gate"]["verdict"]]
    titles(
        axes, f"{words[0].upper()}{words[1:]}", f"Generation {summary['index']}: teacher and student, 95 % intervals"
    )
    save(figure, path)


def _interval(axes: Any, interval: Any, row: int, colour: str) -> None:
    if interval:
        axes.hlines(row, *interval, color=colour, linewidth=4, alpha=0.25, zorder=0)
