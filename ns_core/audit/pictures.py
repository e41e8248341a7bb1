"""The pictures of an audit. Import it only where pictures are made: matplotlib costs 0.7 s.

In: an `Audit`. Out: a PNG file each.
"""

from pathlib import Path

from matplotlib.ticker import PercentFormatter

from ns_core.audit.audit import Audit
from ns_core.audit.shift import SHOWN
from ns_core.evaluation.reports.pictures import BLUE, FAINT, INK, ORANGE, QUIET, new_axes, save, titles

MOST_CLASSES = 50
"""Bars of priors; of more classes those with the largest change are shown."""
UPRIGHT = 10
"""Up to so many names fit side by side."""


def precision(path: Path, audit: Audit) -> None:
    """Precision with its interval, and coverage, by one threshold for all classes."""
    figure, axes = new_axes(4.6)
    known = [point for point in audit.curve if point.precision.value is not None]
    places = [point.threshold for point in known]
    low, high = [point.precision.low for point in known], [point.precision.high for point in known]
    axes.fill_between(places, low, high, color=BLUE, alpha=0.18, linewidth=0)
    values = [point.precision.value or 0.0 for point in known]
    axes.plot(places, values, color=BLUE, linewidth=1.8, label="precision, 95 % interval")
    coverage = [point.coverage for point in audit.curve]
    axes.plot([point.threshold for point in audit.curve], coverage, "--", color=ORANGE, linewidth=1.5, label="coverage")
    axes.axvline(audit.threshold, color=INK, linewidth=1)
    axes.annotate("select.threshold", (audit.threshold, 0.02), (4, 0), textcoords="offset points", color=QUIET)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_xlabel("threshold", color=QUIET)
    axes.legend(loc="lower left", frameon=False, labelcolor=INK)
    titles(axes, "What another threshold would keep", "Estimated from held-out labels, without limits by class")
    save(figure, path)


def reliability(path: Path, audit: Audit) -> None:
    """Accuracy by confidence on the holdout, before and after temperature scaling."""
    figure, axes = new_axes(4.6)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    both = zip(("as it is", "after scaling"), (ORANGE, BLUE), audit.calibration.reliability, strict=True)
    for name, colour, rows in both:
        places, values = [row[0] for row in rows], [row[1] for row in rows]
        most = max((row[2] for row in rows), default=1)
        axes.plot(places, values, color=colour, linewidth=1.2, label=name)
        axes.scatter(places, values, s=[20 + 120 * row[2] / most for row in rows], color=colour, alpha=0.7)
    axes.set_xlim(0, 1.04)
    axes.set_ylim(0, 1.04)
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_xlabel("mean confidence of a bin", color=QUIET)
    axes.legend(loc="upper left", frameon=False, labelcolor=INK)
    before, after = (100 * error for error in audit.calibration.ece)
    said = f"Calibration error {before:.1f} points, {after:.1f} after temperature scaling"
    titles(axes, said, "Accuracy on the holdout; larger points hold more images")
    save(figure, path)


def prior(path: Path, audit: Audit) -> None:
    """Class prior of the holdout, and of the pool as estimated."""
    figure, axes = new_axes(4.2)
    change = [abs(one - other) for one, other in zip(audit.shift.held, audit.shift.pool, strict=True)]
    shown = sorted(sorted(range(len(change)), key=lambda label: -change[label])[:MOST_CLASSES])
    bars = (("holdout", audit.shift.held, FAINT, -0.2), ("pool, estimated", audit.shift.pool, BLUE, 0.2))
    for name, values, colour, aside in bars:
        axes.bar(
            [at + aside for at in range(len(shown))], [values[one] for one in shown], 0.4, color=colour, label=name
        )
    names = [audit.classes[label].name[:16] for label in shown]
    axes.set_xticks(range(len(shown)), names, rotation=0 if len(shown) <= UPRIGHT else 90)
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.legend(loc="upper right", frameon=False, labelcolor=INK, ncols=2)
    axes.set_ylim(0, 1.2 * max([audit.shift.held[one] for one in shown] + [audit.shift.pool[one] for one in shown]))
    apart = "differs from" if audit.shift.p_value < SHOWN else "is not shown to differ from"
    said = (
        f"Total variation distance {100 * audit.shift.distance:.1f} points; chi-squared p = {audit.shift.p_value:.2g}"
    )
    titles(axes, f"The pool's make-up {apart} the holdout's", said)
    save(figure, path)
