"""Tables of an evaluation's report that go into detail: by corruption, perturbation and eps, confidence, mistakes.

In: a `RobustnessReport`. Out: `page.Table`s of plain text. Loads no torch.
"""

import json

from pydantic import JsonValue

from ns_core.evaluation.reports.page import Table
from ns_core.evaluation.reports.report import percent
from ns_core.evaluation.reports.robustness_tables import AGAINST, cells_of, name_of, same_severities, share_row
from ns_core.evaluation.results import Accuracy, Corruptions, Perturbations, RobustnessReport

CONFUSED = 20
"""Pairs of classes in the table of mistakes."""


def corrupted(now: Corruptions, before: Corruptions | None) -> Table:
    """A row for each corruption: errors by severity, their mean, the baseline's over the same severities, CE.

    `before`: None unless both were compared on the same images.
    """
    same = same_severities(now, before) if before else []
    severities = sorted({level for levels in now.errors.values() for level in levels}, key=float)
    rows: list[tuple[str, ...]] = [
        (
            _named(name, now.extra),
            *(percent(levels.get(level)) for level in severities),
            percent(now.means.get(name)),
            percent(before.means.get(name) if before and name in same else None),
            _ratio(now.ce.get(name)),
        )
        for name, levels in now.errors.items()
    ]
    heads = (*(f"severity {level}" for level in severities), "mean error", "baseline's mean", f"CE to {_whose(now)}")
    return Table(1, ("corruption", *heads), rows)


def perturbed(now: Perturbations, before: Perturbations | None) -> Table:
    """A row for each perturbation: flip probability, the baseline's, FR, accuracy over all frames, T5D.

    `before`: as in `corrupted`.
    """
    rows: list[tuple[str, ...]] = [
        (
            _named(name, now.extra),
            percent(flips),
            percent(before.flip_probability.get(name) if before else None),
            _ratio(now.fr.get(name)),
            percent(now.top1.get(name)),
            f"{now.t5d[name]:.2f}" if name in now.t5d else "-",
        )
        for name, flips in now.flip_probability.items()
    ]
    heads = ("perturbation", "flip probability", "baseline's", f"FR to {_whose(now)}", "top-1 of all frames", "T5D")
    return Table(1, heads, rows)


def _named(name: str, extra: list[str]) -> str:
    return name.replace("_", " ") + (" (extra)" if name in extra else "")


def _whose(one: Corruptions | Perturbations) -> str:
    return {"AlexNet": "AlexNet", "baseline": "the baseline", None: "nobody"}[one.normaliser]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def confidence(report: RobustnessReport) -> Table:
    """Calibration and selective prediction on clean images and on the official subsets."""
    measured = {"holdout": report.holdout, "test": report.test, "own images": report.images}
    measured |= {name_of(suite): subset.accuracy for suite, subset in report.subsets.items()}
    rows = [(name, *_confidence(one)) for name, one in measured.items() if one is not None]
    heads = ("images", "top-5", "balanced", "ECE", "RMS calib. error", "NLL", "Brier", "AURC", "AURRA")
    return Table(1, heads, rows)


def _confidence(one: Accuracy) -> tuple[str, ...]:
    rms = "-" if one.rms_calibration_error is None else f"{one.rms_calibration_error:.3f}"
    rest = (one.nll, one.brier, one.aurc, one.aurra)
    return percent(one.top5), percent(one.balanced), f"{one.ece:.3f}", rms, *(f"{each:.3f}" for each in rest)


def attacked(report: RobustnessReport) -> Table:
    """Accuracy by eps, with its interval and against the baseline."""
    rows = [
        cells_of(share_row(name_of(kind), f"eps {eps}/255", "", attack.top1[eps], attack.against_baseline.get(eps)))
        for kind, attack in report.attacks.items()
        for eps in sorted(attack.top1, key=float)
    ]
    heads = ("attack", "strength", "top-1", "95 % interval", "images", *AGAINST)
    return Table(2, heads, [(*row[:2], *row[3:]) for row in rows])


def attack_settings(report: RobustnessReport) -> Table:
    """Whatever one needs to make the attacks again: a column for each attack."""
    kinds = [attack.settings for attack in report.attacks.values()]
    names = list(dict.fromkeys(name for settings in kinds for name in settings))
    rows = [(name.replace("_", " "), *(_setting(settings.get(name)) for settings in kinds)) for name in names]
    return Table(1 + len(kinds), ("setting", *map(name_of, report.attacks)), rows)


def _setting(value: JsonValue) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)


def changes(report: RobustnessReport) -> Table:
    """Flips of the clean predictions: what changed beyond the sum."""
    measured = {"holdout": report.holdout, "test": report.test, "own images": report.images}
    rows: list[tuple[str, ...]] = [
        (name, percent(one.against_baseline.negative_flips), percent(one.against_baseline.positive_flips))
        for name, one in measured.items()
        if one is not None and one.against_baseline is not None
    ]
    return Table(1, ("images", "right before, wrong now", "wrong before, right now"), rows)


def confused(report: RobustnessReport) -> Table:
    """The most frequent mistakes on clean images."""
    one = report.images or report.test
    names = report.class_names
    pairs = one.confused[:CONFUSED] if one is not None else []
    return Table(2, ("class", "taken for", "images"), [(names[a], names[b], f"{n:,}") for a, b, n in pairs])
