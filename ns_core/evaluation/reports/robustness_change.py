"""What training changed: two evaluations compared image by image, figure by figure.

In: the tables of two evaluations of the same images. Out: rows (`comparison.Row`) for clean images, corruptions,
perturbations and attacks. Loads no torch.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

from ns_core.evaluation.figures.baselines import (
    OFFICIAL_IMAGES,
    SEVERITIES,
    counted_corruptions,
    counted_perturbations,
)
from ns_core.evaluation.figures.paired import common_rows, compared
from ns_core.evaluation.figures.relative import difference
from ns_core.evaluation.figures.variants import ATTACKS, Readable, Variants, paired
from ns_core.evaluation.reports.comparison import CLEAN_TEST, Row, verdict
from ns_core.evaluation.reports.robustness_tables import name_of
from ns_core.evaluation.results import Paired
from ns_core.evaluation.tables import SEQUENCE_SUITES, Scene, Tables
from ns_core.stage import log

_CLEAN = {Scene("clean", "test"): CLEAN_TEST, Scene("clean", "images"): "clean images of the folder"}
_MEANS = {
    "corruptions": "corruptions made on the fly",
    "imagenet_c": "ImageNet-C",
    "cifar10_c": "CIFAR-10-C",
    "perturbations": "perturbation sequences made on the fly",
    "imagenet_p": "ImageNet-P",
    "cifar10_p": "CIFAR-10-P",
}


def changes(before: Tables, after: Tables) -> list[Row]:
    """Every figure that both evaluations have, on the images that both could read.

    Attacks are compared at the strongest eps and at a middle one (of 2, 4, 8, 16: at 4, where a network without defence
    still has something to lose).
    """
    two = Readable(before), Readable(after)
    rows = [_single(two, scene, figure) for scene, figure in _CLEAN.items()]
    rows += [_mean(two, suite, figure) for suite, figure in _MEANS.items()]
    rows += [_single(two, scene, f"{name_of(scene.suite)} at {scene.level}/255") for scene in _attacks(two)]
    return [row for row in rows if row is not None]


def _single(two: tuple[Readable, Readable], scene: Scene, figure: str) -> Row | None:
    """Top-1 on single images; None where one of the two has no such scene, or looked at other images."""
    teacher, student = (each.predictions(scene) for each in two)
    if teacher is None or student is None or (both := common_rows(teacher.key, student.key)) is None:
        return None
    old, new = teacher.right[both[0]], student.right[both[1]]
    return _row(figure, "top-1 accuracy", (float(old.mean()), float(new.mean())), compared(new, old))


def _mean(two: tuple[Readable, Readable], suite: str, figure: str) -> Row | None:
    """A mean over the variants that both have and kept; its figure says so when those are not all."""
    measured = [_counted(each.scenes, suite) for each in two]
    scenes = [scene for scene in measured[0] if scene in measured[1]]
    old, new = (Variants.read(each, scenes) for each in two)
    both = _on_common_scenes(new, old) if old and new else None
    if both is None:
        if any(measured):
            log.warning("%s: not compared, the two evaluations have too few images or variants in common", figure)
        return None
    values = float(both[1].means().mean()), float(both[0].means().mean())
    measure = "mean flip probability" if suite in SEQUENCE_SUITES else "mean top-1 error"
    part = _part(both[0].scenes, {*_official(suite), *measured[0], *measured[1]})
    return _row(figure + part, measure, values, difference(*both))


def _counted(scenes: Iterable[Scene], suite: str) -> list[Scene]:
    """Those of a suite that its mean is over."""
    sequences = suite in SEQUENCE_SUITES
    names = counted_perturbations(suite) if sequences else counted_corruptions()
    mine = [scene for scene in scenes if scene.suite == suite and scene.name in names]
    return [scene for scene in mine if scene.level == "1" or not sequences]


def _official(suite: str) -> list[Scene]:
    """What a suite of official files has; nothing for what is made on the fly, as settings say."""
    if suite not in OFFICIAL_IMAGES:
        return []
    if suite in SEQUENCE_SUITES:
        return [Scene(suite, name, "1") for name in counted_perturbations(suite)]
    return [Scene(suite, name, level) for name in counted_corruptions() for level in SEVERITIES]


def _on_common_scenes(new: Variants, old: Variants) -> tuple[Variants, Variants] | None:
    """Both on the scenes that both kept: one of the two may have left one out that misses too many images."""
    kept = [scene for scene in new.scenes if scene in old.scenes]
    return paired(new.restricted(kept), old) if kept else None


def _part(compared_scenes: Sequence[Scene], wanted: Collection[Scene]) -> str:
    """` (14 of 15 kinds)`, or the number of variants where a kind lacks some; nothing when all are there."""
    lost = set(wanted) - set(compared_scenes)
    if not lost:
        return ""
    names, all_names = {scene.name for scene in compared_scenes}, {scene.name for scene in wanted}
    if names & {scene.name for scene in lost}:
        return f" ({len(compared_scenes)} of {len(wanted)} variants)"
    return f" ({len(names)} of {len(all_names)} kinds)"


def _attacks(two: tuple[Readable, Readable]) -> Iterator[Scene]:
    """The middle and the strongest eps of each attack that both have; eps 0 is none."""
    for kind in ATTACKS:
        found = [scene for scene in two[0].scenes if scene.suite == kind and scene in two[1] and float(scene.level)]
        order = sorted(found, key=lambda scene: float(scene.level))
        yield from dict.fromkeys([order[(len(order) - 1) // 2], order[-1]]) if order else ()


def _row(figure: str, measure: str, values: tuple[float, float], found: Paired) -> Row:
    gain = found.difference
    return Row.model_validate(
        {
            "figure": figure,
            "measure": measure,
            "before": values[0],
            "after": values[1],
            "difference": gain.value,
            "low": gain.low,
            "high": gain.high,
            "p_value": found.p_value,
            "images": gain.images,
            "verdict": verdict(measure, gain.low, gain.high),
        }
    )
