"""PNG pictures of an evaluation. Import it only where pictures are made: matplotlib costs 0.7 s.

In: a `RobustnessReport`, and that of the baseline where there is one. Out: a file each; everywhere this checkpoint is
blue and solid, the baseline grey and dashed.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

from ns_core.evaluation.reports.pictures import (
    BLUE,
    FAINT,
    GRID,
    INK,
    ORANGE,
    QUIET,
    new_axes,
    plain_axes,
    save,
    titles,
)
from ns_core.evaluation.reports.report import percent
from ns_core.evaluation.reports.robustness_tables import clean, name_of, same_severities
from ns_core.evaluation.results import Accuracy, Attack, Corruptions, Estimate, Perturbations, RobustnessReport

GREEN = "#009E73"
"""The third of Okabe and Ito's colours."""
COLOURS = {"fgsm": BLUE, "pgd": ORANGE, "autoattack": GREEN}
GREY = "#8e8e96"
"""Of the baseline's lines: darker than its bars, which have an area."""
COLUMNS = 5
"""Small charts in a row."""
NAMES = ("baseline", "this checkpoint")


def severity_curves(path: Path, now: Corruptions, before: Corruptions | None = None) -> None:
    """A small chart for each corruption: top-1 error by severity."""
    names = [name for name in now.errors if now.errors[name]]
    rows = math.ceil(len(names) / COLUMNS)
    figure = Figure((9, 1.1 + 1.75 * rows), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    charts = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(charts.flat):
        plain_axes(axes)
        axes.set_visible(place < len(names))
        if place >= len(names):
            continue
        name = names[place]
        if before is not None and before.errors.get(name):
            _curve(axes, before.errors[name], color=GREY, linestyle="--", marker="o", label=NAMES[0])
        _curve(axes, now.errors[name], color=BLUE, linestyle="-", marker="o", label=NAMES[1])
        extra = " (extra)" if name in now.extra else ""
        axes.set_title(name.replace("_", " ") + extra, loc="left", fontsize=9.5, color=INK)
        axes.set_xticks(range(1, 6))
        axes.set_xlim(0.7, 5.3)
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.tick_params(labelsize=8.5, labelbottom=place + COLUMNS >= len(names))
    if before is not None:
        handles, labels = charts.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", frameon=False, labelcolor=INK, ncols=2)
    title = f"Mean error under corruptions {_mean(now)}{_after(now, before)}"
    _heading(figure, title, "Top-1 error by severity, 1 to 5")
    save(figure, path)


def _curve(axes: Axes, levels: Mapping[str, float], **style: Any) -> None:
    points = sorted((float(level), error) for level, error in levels.items())
    axes.plot(*zip(*points, strict=True), linewidth=1.5, markersize=3.5, **style)


def _mean(one: Corruptions) -> str:
    return percent(one.mean_error.value if one.mean_error else None)


def _after(now: Corruptions, before: Corruptions | None) -> str:
    """The baseline's mean, if it is of the same corruptions at the same severities."""
    if before is None or before.mean_error is None or _counted(now) != _counted(before):
        return ""
    return f", the baseline's {_mean(before)}"


def _counted(one: Corruptions) -> set[tuple[str, str]]:
    """What its mean is of: corruptions at severities, without the extra ones."""
    return {(name, level) for name, levels in one.errors.items() if name not in one.extra for level in levels}


def _heading(figure: Figure, title: str, explanation: str) -> None:
    """As `titles`, above several charts."""
    figure.suptitle(f"{title}\n", x=0.015, ha="left", color=INK, fontsize=14, fontweight="bold")
    figure.text(0.015, 1 - 0.46 / figure.get_figheight(), explanation, color=QUIET, va="top")


def corruption_bars(
    path: Path, now: Corruptions, before: Corruptions | None = None, names: tuple[str, str] = NAMES
) -> None:
    """Top-1 error by corruption, mean over severities; `names`: of the two in the legend.

    With a baseline only what both have at the same severities: a mean over others is another figure. Without any such
    corruption as without a baseline.
    """
    same = same_severities(now, before) if before else []
    means = {name: before.means[name] for name in same if name in before.means} if before else None
    _bars(path, now.means, means, names, ("errs less under", "kinds of corruption"))


def flip_bars(path: Path, now: Perturbations, before: Perturbations | None = None) -> None:
    """Flip probability by perturbation."""
    means = before.flip_probability if before else None
    _bars(path, now.flip_probability, means, NAMES, ("flips less under", "kinds of perturbation"))


_EXPLAINED = {
    "kinds of corruption": "Top-1 error on corrupted images, mean over severities",
    "kinds of perturbation": "Flip probability: pairs of frames with different predictions",
}


def _bars(
    path: Path,
    now: Mapping[str, float],
    before: Mapping[str, float] | None,
    names: tuple[str, str],
    words: tuple[str, str],
) -> None:
    """Two bars for each name, the largest of the baseline's above; one without a baseline."""
    shown = now.keys() & before.keys() if before else now.keys()
    order = sorted(shown, key=lambda name: ((before or now)[name], name))
    better = sum(now[name] < before[name] for name in order) if before else 0
    title = f"{names[1].capitalize()} {words[0]} {better} of {len(order)} {words[1]}"
    alone = f"{len(order)} {words[1]}"
    two = (before, now) if before else (now,)
    _paired_bars(path, order, two, names, (title if before else alone, _EXPLAINED[words[1]]))


def _paired_bars(
    path: Path,
    order: Sequence[str],
    figures: Sequence[Mapping[str, float]],
    names: tuple[str, str],
    head: tuple[str, str],
) -> None:
    """A group of bars for each of `order`, from the bottom; `head`: title and explanation."""
    both = len(figures) == 2
    figure, axes = new_axes(1.6 + (0.52 if both else 0.34) * len(order))
    rows = np.arange(len(order))
    styles = [(0.2, FAINT, names[0]), (-0.2, BLUE, names[1])] if both else [(0.0, BLUE, names[1])]
    for values, (shift, colour, label) in zip(figures, styles, strict=True):
        bars = axes.barh(
            rows + shift, [values[name] for name in order], 0.36 if both else 0.6, color=colour, label=label
        )
        axes.bar_label(bars, [percent(values[name]) for name in order], padding=4, color=INK, fontsize=9)
    axes.set_yticks(rows, [shorten(name.replace("_", " "), 40, placeholder="…") for name in order])
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=GRID)
    axes.margins(x=0.12)
    if both:
        figure.legend(loc="outside lower center", frameon=False, labelcolor=INK, ncols=2)
    titles(axes, *head)
    save(figure, path)


def class_bars(path: Path, report: RobustnessReport, before: RobustnessReport | None, worst: int) -> None:
    """Accuracy of the `worst` classes on clean images, the lowest above; with the baseline's where both were
    compared on these images and it has the classes."""
    ours, theirs = clean(report, before)
    now, known = _by_class(report.class_names, ours), _by_class(before.class_names, theirs) if before else {}
    order = sorted(now, key=lambda name: (now[name], name))[:worst]
    figures: list[Mapping[str, float]] = [now]
    if order and all(name in known for name in order):
        figures = [known, now]
    lowest = f"The lowest accuracy of a class is {percent(now[order[0]])}"
    which = f"the {len(order)} lowest of {len(now):,} classes" if len(order) < len(now) else f"all {len(now):,} classes"
    _paired_bars(path, order[::-1], figures, NAMES, (lowest, f"Top-1 accuracy by class on clean images, {which}"))


def _by_class(names: Sequence[str], one: Accuracy | None) -> dict[str, float]:
    shares = one.per_class if one else []
    return {name: share for name, share in zip(names, shares, strict=False) if share is not None}


def attack_curves(path: Path, attacks: Mapping[str, Attack], before: Mapping[str, Attack]) -> None:
    """Accuracy by eps with intervals; dashed: the baseline's."""
    figure, axes = new_axes(4.4)
    steps = sorted({float(eps) for attack in attacks.values() for eps in attack.top1})
    places = {eps: place for place, eps in enumerate(steps)}
    for number, (kind, attack) in enumerate(attacks.items()):
        colour, shift = COLOURS[kind], 0.05 * (number - (len(attacks) - 1) / 2)
        if kind in before and (
            shared := {eps: before[kind].top1[eps] for eps in attack.top1 if eps in before[kind].top1}
        ):
            _attacked(axes, shared, places, shift - 0.02, color=colour, linestyle="--", alpha=0.55)
        _attacked(axes, attack.top1, places, shift + 0.02, color=colour, linestyle="-", label=name_of(kind))
    if before:
        axes.plot([], [], color=GREY, linestyle="--", label="baseline")
    axes.set_xticks(range(len(steps)), [f"{eps:g}" for eps in steps])
    axes.set_xlabel("eps, in 0..255 units of the pixels that the network sees", color=QUIET)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.legend(loc="upper right", frameon=False, labelcolor=INK)
    titles(axes, _attack_title(attacks), "Top-1 accuracy under attack with 95 % intervals; clean mistakes count")
    save(figure, path)


def _attacked(
    axes: Axes, levels: Mapping[str, Estimate], places: Mapping[float, int], shift: float, **style: Any
) -> None:
    order = sorted(levels, key=float)
    x = [places[float(eps)] + shift for eps in order]
    axes.plot(x, [levels[eps].value for eps in order], marker="o", markersize=5, linewidth=1.5, **style)
    quiet: dict[str, Any] = {"color": style["color"], "alpha": 0.6, "linewidth": 1.2}
    axes.vlines(x, [levels[eps].low for eps in order], [levels[eps].high for eps in order], **quiet)


def _attack_title(attacks: Mapping[str, Attack]) -> str:
    """What is left at the strongest attack of each kind."""
    left = {kind: attack.top1[max(attack.top1, key=float)] for kind, attack in attacks.items()}
    eps = {kind: max(attack.top1, key=float) for kind, attack in attacks.items()}
    return ", ".join(f"{name_of(kind)} at {eps[kind]}/255: {percent(left[kind].value)}" for kind in attacks)


def confidence_curves(path: Path, now: Accuracy, before: Accuracy | None = None) -> None:
    """Reliability diagram and risk-coverage curve side by side."""
    figure = Figure((9, 4.6), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12))
    reliability, risk = figure.subplots(1, 2)
    for axes in (reliability, risk):
        plain_axes(axes)
        axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.set_xlim(-0.02, 1.02)
    reliability.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    most = max((images for *_, images in now.reliability), default=1)
    for one, colour, line, label in ((before, GREY, "--", NAMES[0]), (now, BLUE, "-", NAMES[1])):
        if one is None:
            continue
        confidence, accuracy, images = zip(*one.reliability, strict=True)
        sizes = [12 + 90 * count / most for count in images]
        reliability.plot(confidence, accuracy, line, color=colour, linewidth=1.2, label=label)
        reliability.scatter(confidence, accuracy, sizes, color=colour, alpha=0.75, linewidths=0)
        risk.plot(*zip(*one.risk_coverage, strict=True), line, color=colour, linewidth=1.6, marker="o", markersize=3)
    reliability.set_ylim(-0.02, 1.02)
    reliability.set_xlabel("confidence", color=QUIET)
    reliability.set_title("Accuracy by confidence (size: images)", loc="left", fontsize=10.5, color=INK)
    risk.set_ylim(bottom=0)
    risk.set_xlabel("coverage: share of images answered, the surest first", color=QUIET)
    risk.set_title("Error among the answered", loc="left", fontsize=10.5, color=INK)
    if before is not None:
        handles, labels = reliability.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", frameon=False, labelcolor=INK, ncols=2)
    _heading(figure, f"ECE {now.ece:.3f}, AURC {now.aurc:.3f}", "Calibration and risk-coverage on clean images")
    save(figure, path)
