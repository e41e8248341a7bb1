"""The tables of an evaluation's report: each suite with its figure, its interval and what it may be compared with.

In: a `RobustnessReport`. Out: `page.Table`s of plain text. Loads no torch.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ns_core.evaluation.reports.comparison import points
from ns_core.evaluation.reports.page import Table
from ns_core.evaluation.reports.report import percent
from ns_core.evaluation.results import Accuracy, Corruptions, Estimate, Paired, Perturbations, RobustnessReport

ON_THE_FLY = "made on the fly: compares runs with each other only"
OWN_IMAGES = "this data only"
ATTACKED = "this data, size and attack only"
PUBLISHED = "official files, AlexNet-normalised: comparable with published "
PARTIAL = "official files, but not all of them: not comparable with published "
RELATIVE = "relative to the baseline's errors: compares runs with each other only"
PLAIN = "official files, not normalised: comparable with published "
SAME_PROTOCOL = "official files, usual protocol: comparable with published "
T5D = "official files, not normalised: not comparable with published mT5D"

NAMES = {
    "imagenet_a": "ImageNet-A",
    "imagenet_r": "ImageNet-R",
    "imagenet_o": "ImageNet-O",
    "imagenet_v2": "ImageNetV2",
    "imagenet_sketch": "ImageNet-Sketch",
    "imagenet_c": "ImageNet-C",
    "imagenet_p": "ImageNet-P",
    "cifar10_c": "CIFAR-10-C",
    "cifar10_p": "CIFAR-10-P",
    "fgsm": "FGSM",
    "pgd": "PGD",
    "autoattack": "AutoAttack",
}
"""Of suites, as people write them."""

LOWER = "(lower is better)"
AGAINST = ("against the baseline", "95 % interval of that", "p")
"""Heads of the columns of a paired comparison."""


class Row(NamedTuple):
    """One figure of a suite, its numbers written already."""

    suite: str
    figure: str
    comparable: str
    value: str
    interval: str = ""
    images: str = ""
    against: Paired | None = None


def name_of(suite: str) -> str:
    """`ImageNet-C` of `imagenet_c`; of other suites the word itself."""
    return NAMES.get(suite, suite.replace("_", " "))


def strongest(levels: dict[str, Estimate]) -> str:
    """The largest eps, as it is spelled."""
    return max(levels, key=float)


def suites(report: RobustnessReport) -> Table:
    """A row for each figure that sums a suite up."""
    heads = ("suite", "figure", "comparable with", "value", "95 % interval", "images", *AGAINST)
    return Table(3, heads, [cells_of(row) for row in _all(report)])


def verdicts(report: RobustnessReport) -> dict[str, list[str]]:
    """`better`, `worse` or `not told apart` -> the figures whose difference to the baseline says so at 95 %."""
    told: dict[str, list[str]] = {"better": [], "worse": [], "not told apart": []}
    for row in _all(report):
        if row.against is not None:
            gain = row.against.difference
            sign = -1 if row.figure.endswith(LOWER) else 1
            low, high = sorted((sign * gain.low, sign * gain.high))
            verdict = "better" if low > 0 else "worse" if high < 0 else "not told apart"
            told[verdict].append(f"{row.suite} ({row.figure.removesuffix(LOWER).strip()}, {points(gain.value)} points)")
    return told


def _all(report: RobustnessReport) -> list[Row]:
    return [*_clean(report), *_corruptions(report), *_perturbations(report), *_attacked(report), *_subsets(report)]


def cells_of(row: Row) -> tuple[str, ...]:
    """As the heads of `suites` have it; dashes where nothing is compared."""
    words = (row.suite, row.figure, row.comparable, row.value, row.interval, row.images)
    if row.against is None:
        return (*words, "-", "-", "-")
    gain = row.against.difference
    p_value = "-" if row.against.p_value is None else f"{row.against.p_value:.2g}"
    return (*words, points(gain.value), f"{points(gain.low)} to {points(gain.high)}", p_value)


def share_row(suite: str, figure: str, comparable: str, one: Estimate, against: Paired | None = None) -> Row:
    """Of a share, in percent."""
    interval = f"{100 * one.low:.1f} to {100 * one.high:.1f}"
    return Row(suite, figure, comparable, percent(one.value), interval, f"{one.images:,}", against)


def _ratio(suite: str, figure: str, comparable: str, one: Estimate) -> Row:
    """Of mCE and mFR, which are percent already."""
    return Row(suite, figure, comparable, f"{one.value:.1f}", f"{one.low:.1f} to {one.high:.1f}", f"{one.images:,}")


def _clean(report: RobustnessReport) -> Iterator[Row]:
    splits = {"holdout": report.holdout, "test": report.test, "own images": report.images}
    for name, accuracy in splits.items():
        if accuracy is not None:
            against = accuracy.against_baseline
            yield share_row(f"clean, {name}", "top-1 accuracy", OWN_IMAGES, accuracy.top1, against)


def _attacked(report: RobustnessReport) -> Iterator[Row]:
    for kind, attack in report.attacks.items():
        if attack.top1:
            eps = strongest(attack.top1)
            against = attack.against_baseline.get(eps)
            yield share_row(name_of(kind), f"top-1 at eps {eps}/255", ATTACKED, attack.top1[eps], against)


def _subsets(report: RobustnessReport) -> Iterator[Row]:
    for suite, subset in report.subsets.items():
        comparable = _of_files(report, suite, subset.comparable) + "top-1"
        figure = f"top-1 accuracy, {subset.classes:,} classes"
        yield share_row(name_of(suite), figure, comparable, subset.accuracy.top1, subset.accuracy.against_baseline)
        if subset.clean is not None:
            figure, against = f"clean top-1, same {subset.classes:,} classes", subset.clean.against_baseline
            yield share_row(name_of(suite), figure, OWN_IMAGES, subset.clean.top1, against)
        if subset.gap is not None:
            lost = f"{points(subset.gap)} points"
            yield Row(name_of(suite), "lost against clean images", OWN_IMAGES, lost)
    if (unknown := report.imagenet_o) is not None:
        comparable = _of_files(report, "imagenet_o", unknown.comparable) + "AUPR"
        yield share_row("ImageNet-O", "AUPR of unknown classes", comparable, unknown.aupr)
        yield share_row("ImageNet-O", "AUROC of unknown classes", comparable, unknown.auroc)
        images = f"{unknown.unknown + unknown.known:,}"
        yield Row("ImageNet-O", f"FPR95 {LOWER}", comparable, percent(unknown.fpr95), "", images)


def _corruptions(report: RobustnessReport) -> Iterator[Row]:
    for suite, one in corruption_suites(report).items():
        made = suite == "corruptions"
        comparable = ON_THE_FLY if made else (PLAIN if one.comparable else PARTIAL) + "mean error"
        figure = f"mean top-1 error {LOWER}"
        if one.mean_error is not None:
            yield share_row(name_of(suite), figure, comparable, one.mean_error, one.against_baseline)
        if one.mce is not None:
            yield _ratio(name_of(suite), _relative(one, "mCE"), _normalised(one, "mCE"), one.mce)
        if one.relative_mce is not None:
            figure = _relative(one, "relative mCE")
            yield Row(name_of(suite), figure, _normalised(one, "relative mCE"), f"{one.relative_mce:.1f}")


def _perturbations(report: RobustnessReport) -> Iterator[Row]:
    for suite, one in perturbation_suites(report).items():
        made = suite == "perturbations"
        comparable = ON_THE_FLY if made else (PLAIN if one.comparable else PARTIAL) + "flip probability"
        figure = f"mean flip probability {LOWER}"
        if one.mean_flip_probability is not None:
            yield share_row(name_of(suite), figure, comparable, one.mean_flip_probability, one.against_baseline)
        if one.mfr is not None:
            yield _ratio(name_of(suite), _relative(one, "mFR"), _normalised(one, "mFR"), one.mfr)
        if one.mean_t5d is not None:
            figure, comparable = f"mean T5D, not normalised {LOWER}", ON_THE_FLY if made else T5D
            yield Row(name_of(suite), figure, comparable, f"{one.mean_t5d:.2f}")


def corruption_suites(report: RobustnessReport) -> dict[str, Corruptions]:
    """Those that were measured, official files first."""
    named = {"imagenet_c": report.imagenet_c, "cifar10_c": report.cifar10_c, "corruptions": report.corruptions}
    return {suite: one for suite, one in named.items() if one is not None}


def perturbation_suites(report: RobustnessReport) -> dict[str, Perturbations]:
    """As `corruption_suites`."""
    named = {"imagenet_p": report.imagenet_p, "cifar10_p": report.cifar10_p, "perturbations": report.perturbations}
    return {suite: one for suite, one in named.items() if one is not None}


def clean(report: RobustnessReport, before: RobustnessReport | None = None) -> tuple[Accuracy | None, Accuracy | None]:
    """On clean images: of the folder, else of the test split; and the baseline's on the same ones.

    The second is None where the two were not compared: another split, or other images of it, are no comparison.
    """
    now = report.images or report.test
    if now is None or now.against_baseline is None or before is None:
        return now, None
    return now, before.images if report.images else before.test


def baseline_corruptions(report: RobustnessReport, before: RobustnessReport | None) -> dict[str, Corruptions]:
    """The baseline's figures of the suites in which the two were compared on the same images."""
    ours, theirs = corruption_suites(report), corruption_suites(before) if before else {}
    return {suite: theirs[suite] for suite, one in ours.items() if one.against_baseline and suite in theirs}


def baseline_perturbations(report: RobustnessReport, before: RobustnessReport | None) -> dict[str, Perturbations]:
    """As `baseline_corruptions`."""
    ours, theirs = perturbation_suites(report), perturbation_suites(before) if before else {}
    return {suite: theirs[suite] for suite, one in ours.items() if one.against_baseline and suite in theirs}


def same_severities(now: Corruptions, before: Corruptions) -> list[str]:
    """Corruptions whose errors both have at the same severities: the means of others are of different things."""
    return [
        name for name, levels in now.errors.items() if levels and levels.keys() == before.errors.get(name, {}).keys()
    ]


def _of_files(report: RobustnessReport, suite: str, whole: bool) -> str:
    """What a figure of official files compares with: all of them, and nothing less, give the published one."""
    short = suite in report.budget or any(gap.suite == suite for gap in report.gaps)
    return SAME_PROTOCOL if whole and not short else PARTIAL


def _relative(one: Corruptions | Perturbations, figure: str) -> str:
    """The name of a relative figure: what is not relative to AlexNet is not called mCE or mFR."""
    if one.normaliser != "baseline":
        return f"{figure} {LOWER}"
    kind = figure.replace("relative mCE", "relative mean CE").replace("mCE", "mean CE").replace("mFR", "mean FR")
    return f"{kind} to the baseline's 100 {LOWER}"


def _normalised(one: Corruptions | Perturbations, figure: str) -> str:
    """What a figure relative to somebody's errors compares with."""
    if one.normaliser == "baseline":
        return RELATIVE
    return (PUBLISHED if one.comparable else PARTIAL) + figure


def gaps(report: RobustnessReport) -> Table:
    """What should have been measured and was not."""
    rows: list[tuple[str, ...]] = [
        (name_of(gap.suite), gap.what, gap.reason, f"{gap.images:,} images" if gap.images else "all of it")
        for gap in report.gaps
    ]
    return Table(4, ("suite", "not measured", "because", "how much"), rows)


def budgets(report: RobustnessReport) -> list[str]:
    """A sentence with the suites that looked at a draw only; none where there is no such suite."""
    drawn = ", ".join(f"{images:,} for {name_of(suite)}" for suite, images in report.budget.items())
    return [f"Seeded draws, not everything there is (the intervals allow for it): {drawn}."] if drawn else []
