"""PNG pictures of a run. Import it only where pictures are made: matplotlib costs 0.7 s.

Each function writes one file, about 900 pixels wide. Colours are Okabe and Ito's, told apart by everybody.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
THUMBNAIL = 48
GALLERY_CLASSES = 30
"""More classes than these are named in a note: the picture has to stay readable."""
DPI = 110

Pixels = NDArray[np.uint8]
Example = tuple[Pixels, float]
"""An image, uint8[H,W,3], and the teacher's confidence in its pseudo-label."""


def accuracy_by_generation(path: Path, document: Mapping[str, Any]) -> None:
    """Holdout and test top-1 of the first teacher (generation 0) and of each student."""
    models = [document["first_teacher"], *(entry["student"] for entry in document["generations"])]
    verdicts = ["first teacher", *(entry["gate"]["verdict"] for entry in document["generations"])]
    figure, axes = _axes("Accuracy by generation", "top-1, %")
    places = list(range(len(models)))
    for split, colour, marker in (("holdout", GREY, "s"), ("test", BLUE, "o")):
        values = [100 * model[f"{split}_top1"] for model in models]
        axes.plot(places, values, color=colour, marker=marker, linewidth=2, label=split)
        if split == "test":
            for place, value in zip(places, values, strict=True):
                axes.annotate(f"{value:.1f}", (place, value), (0, 9), textcoords="offset points", ha="center")
    axes.set_xticks(places, [f"{place}\n{verdict}" for place, verdict in zip(places, verdicts, strict=True)])
    axes.margins(x=0.15, y=0.25)
    axes.legend(frameon=False)
    _save(figure, path)


def confidence_histogram(path: Path, confidence: NDArray[np.float32], kept: NDArray[np.bool_], lowest: float) -> None:
    """How sure the teacher was of the pool's images, kept and dropped ones stacked; `lowest` kept confidence."""
    figure, axes = _axes("The teacher's confidence on the pool", "images")
    bins = np.linspace(0, 1, 41).tolist()
    axes.hist(
        [confidence[kept], confidence[~kept]],
        bins=bins,
        stacked=True,
        color=[GREEN, GREY],
        label=[f"kept ({int(kept.sum()):,})", f"dropped ({int((~kept).sum()):,})"],
    )
    axes.axvline(lowest, color=ORANGE, linewidth=1.5, label=f"lowest kept: {lowest:.2f}")
    axes.set_xlabel("confidence")
    axes.legend(frameon=False, loc="upper left")
    _save(figure, path)


def corruption_bars(
    path: Path, teacher: Mapping[str, Mapping[str, float]], student: Mapping[str, Mapping[str, float]]
) -> None:
    """Top-1 error by corruption, mean over severities, of the first teacher and of the last student."""
    names = [name for name in student if name in teacher]
    figure, axes = _axes("Error under corruption", "top-1 error, %")
    places = np.arange(len(names))
    for shift, label, errors, colour in (
        (-0.2, "first teacher", teacher, GREY),
        (0.2, "last student", student, BLUE),
    ):
        means = [100 * float(np.mean(list(errors[name].values()))) for name in names]
        axes.bar(places + shift, means, 0.4, color=colour, label=label)
    axes.set_xticks(places, [name.replace("_", "\n", 1) for name in names])
    axes.legend(frameon=False)
    _save(figure, path)


def pseudo_label_gallery(path: Path, groups: Sequence[tuple[str, Sequence[Example]]]) -> None:
    """A row for each class: its kept images from the surest to the least sure, confidence below each."""
    shown = groups[:GALLERY_CLASSES]
    columns = max((len(examples) for _, examples in shown), default=0)
    cell, left, top = THUMBNAIL + 24, 150, 34
    note = 24 if len(groups) > len(shown) else 0
    canvas = Image.new("RGB", (max(left + columns * cell + 12, 640), top + len(shown) * cell + note), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    draw.text((12, 8), "Pseudo-labels that were kept, the surest first; below each, the confidence", "black", font)
    for row, (name, examples) in enumerate(shown):
        y = top + row * cell
        draw.text((12, y + THUMBNAIL // 2 - 8), name[:18], "black", font)
        for column, (pixels, confidence) in enumerate(examples):
            x = left + column * cell
            canvas.paste(_thumbnail(pixels), (x, y))
            draw.text((x + 8, y + THUMBNAIL + 2), f"{confidence:.2f}", GREY, font)
    if note:
        draw.text((12, canvas.height - 20), f"and {len(groups) - len(shown)} more classes", GREY, font)
    canvas.save(path)


def _thumbnail(pixels: Pixels) -> Image.Image:
    """THUMBNAIL pixels on the longer side; tiny images keep their pixels visible."""
    image = Image.fromarray(pixels)
    scale = THUMBNAIL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _axes(title: str, label: str) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(8.2, 4.2))
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=DPI, format="png")
    plt.close(figure)
