"""PNG pictures of a selection. Import it only where pictures are made: matplotlib costs 0.7 s.

In: a `Survey`, the figures of the classes, thumbnails. Out: a file each.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from textwrap import wrap

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from ns_core.evaluation.reports.gallery import SIDE, Thumbnail
from ns_core.evaluation.reports.pictures import BLUE, FAINT, INK, ORANGE, QUIET, new_axes, save, titles
from ns_core.evaluation.reports.selection_classes import ClassFigures
from ns_core.evaluation.reports.selection_survey import BINS, EXAMPLES, JUDGED, KEPT, LEAST_SURE, Survey
from ns_core.evaluation.reports.strips import confident, words

GREEN = "#009E73"
"""The third of Okabe and Ito's colours."""
COLOURS = {KEPT: BLUE, "class_full": ORANGE, "duplicate": GREEN, "below_threshold": FAINT}
NAMED_CLASSES = 30
"""Up to so many classes stand by name below the bars; more have numbers."""

A_GROUP = 3
"""Thumbnails of one group in a row of the gallery."""
_CELL, _ROW, _GAP, _MARGIN, _NAME = SIDE + 8, SIDE + 26, 22, 20, 210
"""Pixels of the gallery: an image's room, a row's height, between groups, the border, a name at most."""


def confidence_histogram(path: Path, survey: Survey) -> None:
    """How sure the teacher was of the pool's images: what was kept, and what dropped for each reason, stacked."""
    figure, axes = new_axes(3.8)
    edges = np.arange(BINS) / BINS
    bottom = np.zeros(BINS, np.int64)
    for name, colour in COLOURS.items():
        images = survey.histograms[name]
        if images.any():
            label = f"{words(name)}: {images.sum():,}"
            axes.bar(edges, images, 0.9 / BINS, bottom, align="edge", color=colour, label=label)
        bottom += images
    axes.set_xlim(0, 1)
    axes.set_xlabel("confidence", color=QUIET)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    right = 2 * int(bottom[BINS // 2 :].sum()) > int(bottom.sum())
    axes.legend(loc="upper left" if right else "upper right", frameon=False, labelcolor=INK)
    kept = int(survey.histograms[KEPT].sum())
    title = f"{kept:,} of {int(bottom.sum()):,} pseudo-labels were kept"
    titles(axes, title, "Images of the pool by the teacher's confidence in its label")
    save(figure, path)


def class_sizes(path: Path, classes: Sequence[ClassFigures]) -> None:
    """For each class, from the most to the fewest kept: what the pool has, what the student sees, what was kept."""
    order = sorted(classes, key=lambda one: (-one.kept, -one.pool, one.label))
    few = len(order) <= NAMED_CLASSES
    figure, axes = new_axes(4.4)
    series = (
        ("predicted in the pool", FAINT, 0.84, [one.pool for one in order]),
        ("rows the student sees", ORANGE, 0.56, [one.rows for one in order]),
        ("images kept", BLUE, 0.28, [one.kept for one in order]),
    )
    for label, colour, width, counts in series:
        if few:
            axes.bar(range(len(order)), counts, width, color=colour, label=label)
        else:
            axes.step(range(len(order)), counts, where="mid", color=colour, linewidth=1.8, label=label)
    if few:
        names = ["\n".join(wrap(_fitted(one.name, 90), 12)) for one in order]
        axes.set_xticks(range(len(order)), names, fontsize=9, rotation=0 if len(order) <= 12 else 90)
    else:
        axes.set_xlabel("classes, the most kept first", color=QUIET)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    figure.legend(loc="outside lower center", frameon=False, labelcolor=INK, ncols=len(series))
    short = sum(one.rows > one.kept for one in order)
    title = f"{short:,} of {len(order):,} classes repeat images" if short else "No class repeats images"
    titles(axes, title, "Images by the class that the teacher predicts")
    save(figure, path)


def selection_gallery(
    path: Path, classes: Sequence[ClassFigures], shots: Mapping[int, Sequence[Thumbnail]], hidden: int = 0
) -> None:
    """A row for each class that has thumbnails, in the order of `classes`; a column for each group of them.

    `hidden`: classes that are not in `shots`.
    """
    rows = [one for one in classes if one.label in shots]
    note = f"{hidden:,} more classes are not shown" if hidden else ""
    groups = [name for name in EXAMPLES if any(shot.group == name for one in rows for shot in shots[one.label])]
    font = _font(14)
    names = [_fitted(one.name, _NAME) for one in rows]
    left = 2 * _MARGIN + round(max(map(font.getlength, names), default=0))
    width = A_GROUP * _CELL + _GAP
    size = (max(640, left + width * len(groups) + _MARGIN), 112 + _ROW * len(rows) + 22 * bool(note) + _MARGIN)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, 14), "Pseudo-labels that were kept and dropped", INK, _font(19, "Bold"))
    draw.text((_MARGIN, 46), "Below each image, the teacher's confidence; of the dropped ones the surest", QUIET, font)
    for column, group in enumerate(groups):
        x = left + column * width
        draw.text((x, 84), words(group) if group not in JUDGED else f"dropped: {words(group)}", QUIET, _font(12))
        for row, one in enumerate(rows):
            mine = [shot for shot in shots[one.label] if shot.group == group]
            _strip(canvas, (x, 108 + row * _ROW), mine[:A_GROUP] if group != LEAST_SURE else mine[-A_GROUP:])
    for row, name in enumerate(names):
        draw.text((_MARGIN, 108 + row * _ROW + SIDE // 2), name, INK, font, anchor="lm")
    draw.text((_MARGIN, 112 + _ROW * len(rows)), note, QUIET, font)
    canvas.save(path)


def _strip(canvas: Image.Image, corner: tuple[int, int], shots: Sequence[Thumbnail]) -> None:
    """Thumbnails side by side, their confidences below."""
    draw = ImageDraw.Draw(canvas)
    for place, shot in enumerate(shots):
        x, y = corner[0] + place * _CELL, corner[1]
        image = Image.open(BytesIO(shot.image))
        canvas.paste(image, (x + (SIDE - image.width) // 2, y + (SIDE - image.height) // 2))
        draw.text((x + SIDE // 2, y + SIDE + 3), confident(shot.confidence), QUIET, _font(11), anchor="ma")


def _font(size: int, weight: str = "") -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, which is on every machine: unlike Pillow's it has Greek, Cyrillic and Arabic."""
    file = f"DejaVuSans{'-' * bool(weight)}{weight}.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts", "ttf", file)), size)


def _fitted(name: str, limit: int) -> str:
    """A class name on one line of at most `limit` pixels."""
    text, font = " ".join(name.split()), _font(14)
    if font.getlength(text) <= limit:
        return text
    while font.getlength(text + "…") > limit:
        text = text[:-1]
    return text + "…"
