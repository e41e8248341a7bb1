"""PNG pictures of a run, about 900 pixels wide. Import it only where pictures are made: matplotlib costs 0.7 s.

In: the document of a run (`evaluation.report`), or arrays and images (`evaluation.gallery`). Out: a file each.
Figures are built without pyplot, whose state is one for the whole process: tasks run in threads.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from textwrap import wrap

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ns_core.evaluation.report import Document, champion, change, figures_of, percent

INK, QUIET, FAINT, GRID = "#1d1d1f", "#63636a", "#b9b9c0", "#ececef"
BLUE, ORANGE = "#0072B2", "#D55E00"
"""Two of Okabe and Ito's colours: told apart by everybody, and on a grey print."""

NAMED_GENERATIONS = 6
"""Up to so many generations the verdicts and figures fit beside the points; beyond, the axis has numbers."""
MIN_SPAN = 0.1
"""Of the axis of accuracies: a tenth of a point must not look like a cliff."""

GALLERY_CLASSES = 30
"""More classes than these are named in a note: the picture has to stay readable."""
THUMBNAIL, CELL, ROW, MARGIN, NAME = 48, 64, 76, 20, 210
"""Pixels of the gallery: a thumbnail's side, the room for it, a row's height, the border, a name at most."""

Pixels = NDArray[np.uint8]
Example = tuple[Pixels, float]
"""An image, uint8[H,W,3], and the teacher's confidence in its pseudo-label."""


def accuracy_by_generation(path: Path, document: Document) -> None:
    """Holdout and test top-1 of the first teacher (generation 0) and of each student; hollow: not promoted.

    Draws `holdout_interval` and `test_interval` where the figures have them; what is None is left out.
    """
    figure, axes = _axes(4.6)
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
    _titles(axes, _accuracy_title(document), f"Top-1 accuracy{bars}{hollow}")
    _save(figure, path)


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


def confidence_histogram(path: Path, confidence: NDArray[np.float32], kept: NDArray[np.bool_], lowest: float) -> None:
    """How sure the teacher was of the pool's images, kept and dropped ones stacked; `lowest` kept confidence."""
    figure, axes = _axes(3.8)
    below = confidence < np.float32(lowest)
    parts = {
        "kept": (kept, BLUE),
        "dropped, class full": (~kept & ~below, ORANGE),
        "dropped, less confident": (~kept & below, FAINT),
    }
    drawn = {f"{name}: {part.sum():,}": (part, colour) for name, (part, colour) in parts.items() if part.any()}
    axes.hist(
        [confidence[part] for part, _ in drawn.values()],
        bins=50,
        range=(0, 1),
        stacked=True,
        color=[colour for _, colour in drawn.values()],
        label=list(drawn),
        rwidth=0.9,
    )
    axes.axvline(lowest, color=INK, linewidth=1)
    axes.annotate(
        f" lowest kept: {lowest:.2f} ",
        (lowest, 1),
        xycoords=("data", "axes fraction"),
        color=INK,
        va="top",
        ha="right" if lowest > 0.5 else "left",
    )
    axes.set_xlim(0, 1)
    axes.set_xlabel("confidence", color=QUIET)
    axes.legend(loc="upper left" if lowest > 0.5 else "upper right", bbox_to_anchor=(0, 0, 1, 0.9), frameon=False)
    title = f"{kept.sum():,} of {len(kept):,} pseudo-labels were kept"
    _titles(axes, title, "Images of the pool by the teacher's confidence in its label")
    _save(figure, path)


def corruption_bars(
    path: Path, teacher: Mapping[str, Mapping[str, float]], student: Mapping[str, Mapping[str, float]]
) -> None:
    """Top-1 error by corruption, mean over severities, of the first teacher and of the last student."""
    means = [
        {name: float(np.mean(list(levels.values()))) for name, levels in one.items()} for one in (teacher, student)
    ]
    before, after = means
    names = sorted(before.keys() & after.keys(), key=lambda name: (before[name], name))
    figure, axes = _axes(1.6 + 0.52 * len(names))
    rows = np.arange(len(names))
    for errors, shift, colour, label in ((before, 0.2, FAINT, "first teacher"), (after, -0.2, BLUE, "last student")):
        bars = axes.barh(rows + shift, [errors[name] for name in names], 0.36, color=colour, label=label)
        axes.bar_label(bars, [percent(errors[name]) for name in names], padding=4, color=INK, fontsize=9)
    axes.set_yticks(rows, [name.replace("_", " ") for name in names])
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=GRID)
    axes.margins(x=0.12)
    axes.legend(loc="lower right", frameon=False, labelcolor=INK, reverse=True)
    better = sum(after[name] < before[name] for name in names)
    title = f"The last student errs less under {better} of {len(names)} kinds of corruption"
    _titles(axes, title, "Top-1 error on corrupted test images, mean over severities")
    _save(figure, path)


def _axes(height: float) -> tuple[Figure, Axes]:
    """A figure 9 by `height` inches with one pair of axes, nothing on it but a faint grid."""
    figure = Figure((9, height), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12))
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, labelcolor=INK, labelsize=10)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    return figure, axes


def _titles(axes: Axes, title: str, explanation: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=14, fontweight="bold", pad=34)
    axes.annotate(explanation, (0, 1), (0, 16), "axes fraction", "offset points", color=QUIET)


def _save(figure: Figure, path: Path) -> None:
    """As a PNG of 256 colours: to the eye a chart has no more, and the file is a third as large."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    Image.open(buffer).convert("RGB").quantize(256).save(path, optimize=True)


def pseudo_label_gallery(path: Path, groups: Sequence[tuple[str, Sequence[Example]]]) -> None:
    """A row for each class: its kept images from the surest to the least sure, confidence below each."""
    shown, note = groups[:GALLERY_CLASSES], _note([name for name, _ in groups[GALLERY_CLASSES:]])
    names, font = [_fitted(name) for name, _ in shown], _font(14)
    left = 2 * MARGIN + round(max(map(font.getlength, names), default=0))
    columns = max((len(examples) for _, examples in shown), default=0)
    top, size = 84, (max(left + columns * CELL + MARGIN, 640), 84 + ROW * len(shown) + 22 * len(note) + MARGIN)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, 14), "Pseudo-labels that were kept", INK, _font(19, "Bold"))
    draw.text((MARGIN, 46), "The surest first; below each image, the confidence of the teacher", QUIET, font)
    for row, (_, examples) in enumerate(shown):
        y = top + row * ROW
        draw.text((MARGIN, y + THUMBNAIL // 2), names[row], INK, font, anchor="lm")
        for column, (pixels, confidence) in enumerate(examples):
            x, thumbnail = left + column * CELL, _thumbnail(pixels)
            canvas.paste(thumbnail, (x + (THUMBNAIL - thumbnail.width) // 2, y + (THUMBNAIL - thumbnail.height) // 2))
            draw.text((x + THUMBNAIL // 2, y + THUMBNAIL + 3), f"{confidence:.2f}", QUIET, _font(11), anchor="ma")
    draw.multiline_text((MARGIN, top + ROW * len(shown)), "\n".join(note), QUIET, font)
    canvas.save(path)


def _thumbnail(pixels: Pixels) -> Image.Image:
    """THUMBNAIL pixels on the longer side; tiny images keep their pixels visible."""
    image = Image.fromarray(pixels)
    scale = THUMBNAIL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _font(size: int, weight: str = "") -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, which is on every machine: unlike Pillow's it has Greek, Cyrillic and Arabic."""
    file = f"DejaVuSans{'-' * bool(weight)}{weight}.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts", "ttf", file)), size)


def _fitted(name: str) -> str:
    """A class name on one line of at most `NAME` pixels."""
    text, font = " ".join(name.split()), _font(14)
    if font.getlength(text) <= NAME:
        return text
    while font.getlength(text + "…") > NAME:
        text = text[:-1]
    return text + "…"


def _note(names: Sequence[str]) -> list[str]:
    """The lines that name the classes without a row, as many as four lines hold."""
    return wrap(f"{len(names)} more classes: {', '.join(names)}", 90, max_lines=4, placeholder=" …") if names else []
