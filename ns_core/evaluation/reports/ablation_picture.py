"""The picture of an ablation. Import it only where pictures are made: matplotlib costs 0.7 s."""

from pathlib import Path

from ns_core.evaluation.reports.ablation import Ablation
from ns_core.evaluation.reports.pictures import BLUE, FAINT, INK, new_axes, plain_axes, save, titles


def changes(path: Path, ablation: Ablation) -> None:
    """A line for each arm: the mean change of test top-1 in points with its interval, and a dot a seed."""
    baseline, *others = ablation.arms
    figure, axes = new_axes(1.6 + 0.5 * len(others))
    plain_axes(axes)
    for row, arm in enumerate(reversed(others)):
        both = arm.by_seed.keys() & baseline.by_seed.keys()
        each = [100 * (arm.by_seed[seed] - baseline.by_seed[seed]) for seed in sorted(both)]
        axes.plot(each, [row] * len(each), "o", color=FAINT, markersize=4)
        if arm.figures.against is None:
            continue
        change = arm.figures.against.change
        if change.low is not None and change.high is not None:
            axes.plot([100 * change.low, 100 * change.high], [row, row], color=BLUE, linewidth=2)
        axes.plot([100 * change.mean], [row], "s", color=BLUE, markersize=7)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(others)), [arm.arm for arm in reversed(others)])
    axes.set_ylim(-0.6, len(others) - 0.4)
    titles(axes, ablation.question, f"test top-1 against {baseline.arm}, points; 95 % intervals, a dot a seed")
    save(figure, path)
