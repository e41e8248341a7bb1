"""PNG pictures of a run, about 900 pixels wide. Import it only where pictures are made: matplotlib costs 0.7 s.

In: the document of a run (`reports.report`). Out: a file each.
Figures are built without pyplot, whose state is one for the whole process: tasks run in threads.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from ns_core.evaluation.reports.report import Document, champion, change, figures_of, percent

INK, QUIET, FAINT, GRID = "#1d1d1f", "#63636a", "#b9b9c0", "#ececef"
BLUE, ORANGE = "#0072B2", "#D55E00"
"""Two of Okabe and Ito's colours: told apart by everybody, and on a grey print."""

NAMED_GENERATIONS = 6
"""Up to so many generations the verdicts and figures fit beside the points; beyond, the axis has numbers."""
MIN_SPAN = 0.1
"""Of the axis of accuracies: a tenth of a point must not look like a cliff."""


def accuracy_by_generation(path: Path, document: Document) -> None:
    """Holdout and test top-1 of the first teacher (generation 0) and of each student; hollow: not promoted.

    Draws `holdout_interval` and `test_interval` where the figures have them; what is None is left out.
    """
    figure, axes = new_axes(4.6)
    verdicts = ["promote", *(entry["gate"]["verdict"] for entry in document["generations"])]
    ends = _accuracies(axes, document, verdicts, ("test", BLUE, 0.04, "-"))
    ends += _accuracies(axes, document, verdicts, ("holdout", ORANGE, -0.04, "--"))
    if len(verdicts) - 1 > NAMED_GENERATIONS:
        axes.set_xlabel("generation (0: first teacher)", color=QUIET)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        words = {"promote": "promoted", "keep-teacher": "not promoted", "stop": "worse: run stopped"}
        names = [f"student {index}\n{words[verdict]}" for index, verdict in enumerate(verdicts)]
        axes.set_xticks(range(len(verdicts)), ["first teacher" + "\n" * (len(verdicts) > 1), *names[1:]])
    axes.set_xlim(-0.5, len(verdicts) - 0.5)
    middle, half = (max(ends) + min(ends)) / 2, max((max(ends) - min(ends)) * 0.65, MIN_SPAN / 2)
    axes.set_ylim(max(middle - half, 0), min(middle + half, 1.01))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.legend(loc="lower right", frameon=False, labelcolor=INK, ncols=2)
    bars = " with 95 % intervals" if "test_interval" in document["first_teacher"] else ""
    hollow = "; hollow: not promoted" if len(verdicts) > 1 else ""
    titles(axes, _accuracy_title(document), f"Top-1 accuracy{bars}{hollow}")
    save(figure, path)


def _accuracies(
    axes: Axes, document: Document, verdicts: Sequence[str], style: tuple[str, str, float, str]
) -> list[float]:
    """One split's line; `style` is its name, colour, shift to the side and kind of line. Returns the ends it spans."""
    split, colour, shift, line = style
    figures = [figures_of(document, generation) for generation in range(len(verdicts))]
    known = {index: one for index, one in enumerate(figures) if one[f"{split}_top1"] is not None}
    values = {index: one[f"{split}_top1"] for index, one in known.items()}
    spans = {index: one.get(f"{split}_interval") or (values[index],) * 2 for index, one in known.items()}
    places = {index: index + shift for index in known}
    axes.plot(list(places.values()), list(values.values()), line, color=colour, linewidth=1.5, label=split)
    for index, place in places.items():
        axes.vlines(place, *spans[index], color=colour, linewidth=1.2, alpha=0.6)
        fill = colour if verdicts[index] == "promote" else "white"
        axes.plot(place, values[index], "o", color=colour, markersize=8, markerfacecolor=fill, markeredgewidth=1.8)
        if len(verdicts) - 1 <= NAMED_GENERATIONS:
            _label(axes, percent(values[index]), (place, spans[index][shift > 0]), colour, above=shift > 0)
    return [end for span in spans.values() for end in span]


def _label(axes: Axes, text: str, point: tuple[float, float], colour: str, above: bool) -> None:
    """A figure beyond the end of its interval, out of the other line's way."""
    side, alignment, edge = (1, "left", "bottom") if above else (-1, "right", "top")
    axes.annotate(text, point, (-4 * side, 8 * side), textcoords="offset points", ha=alignment, va=edge, color=colour)


def _accuracy_title(document: Document) -> str:
    winner = champion(document)
    before, after = (figures_of(document, each)["test_top1"] for each in (0, winner))
    if not document["generations"]:
        return f"The first teacher reached {percent(before)} on the test split"
    if winner == 0:
        return "No student replaced the first teacher"
    if before is None or after is None:
        return f"Student {winner} replaced the first teacher"
    return f"Student {winner} {change(after - before)} the first teacher on the test split"


def new_axes(height: float) -> tuple[Figure, Axes]:
    """A figure 9 by `height` inches with one pair of axes, nothing on it but a faint grid."""
    figure = Figure((9, height), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12))
    axes = figure.add_subplot()
    plain_axes(axes)
    return figure, axes


def plain_axes(axes: Axes) -> None:
    """Nothing but the line at the bottom and a faint grid."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, labelcolor=INK, labelsize=10)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)


def titles(axes: Axes, title: str, explanation: str) -> None:
    """What the picture says, above what it shows."""
    axes.set_title(title, loc="left", color=INK, fontsize=14, fontweight="bold", pad=34)
    axes.annotate(explanation, (0, 1), (0, 16), "axes fraction", "offset points", color=QUIET)


def save(figure: Figure, path: Path) -> None:
    """As a PNG of 256 colours: to the eye a chart has no more, and the file is a third as large."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    Image.open(buffer).convert("RGB").quantize(256).save(path, optimize=True)
