"""How often predictions flip along sequences of frames: FP, FR, mFR and top-5 distance.

In: the readable scenes of a suite (`perturbations`, `imagenet_p`, `cifar10_p`), whose sequences hold the pairs that
were compared and those that flipped; those of the baseline; which should be there. Out: `Perturbations`.
FP is the mean over sequences of a sequence's share of flips (hendrycks/robustness, ImageNet-P/test.py); FR is FP
relative to a normaliser's; means are at difficulty 1. Labels play no part, but in the accuracy over all frames.
"""

from collections.abc import Iterable

import numpy as np

from ns_core.evaluation.figures.baselines import ALEXNET_FLIP_PROBABILITIES, OFFICIAL_IMAGES, counted_perturbations
from ns_core.evaluation.figures.corruption_error import Asked, missing_names
from ns_core.evaluation.figures.paired import mean_estimate
from ns_core.evaluation.figures.relative import Relative, difference, pair, to_alexnet, to_baseline
from ns_core.evaluation.figures.variants import Readable, Variants
from ns_core.evaluation.results import Gap, Perturbations
from ns_core.evaluation.tables import Scene

_FLIPS, _RIGHT, _FRAMES, _T5D = range(4)
"""Figures of `Variants.values`."""


def official(suite: str, published: bool = True) -> Asked:
    """All that `imagenet_p` or `cifar10_p` counts: 10 perturbations at difficulty 1."""
    return Asked(suite, [Scene(suite, name, "1") for name in counted_perturbations(suite)], published=published)


def perturbations(asked: Asked, source: Readable, baseline: Readable | None) -> tuple[Perturbations, list[Gap]]:
    """The figures of a suite, and the gaps that `source` does not tell by itself.

    Source images that a counted perturbation misses are in none of the figures, as in `corruption_error`.
    """
    counted = counted_perturbations(asked.suite)
    there = [scene for scene in source.scenes if scene.suite == asked.suite]
    means = {scene for scene in there if scene.name in counted and scene.level == "1"}
    ours = Variants.read(source, [scene for scene in _ordered(there, counted) if scene in means])
    rest = Variants.read(source, [scene for scene in _ordered(there, counted) if scene not in means])
    parts = [each for each in (ours, rest) if each]
    missing = missing_names(asked.scenes, [scene for each in parts for scene in each.scenes])
    gaps = [gap for each in parts for gap in each.gaps]
    relative, against = Relative(), None
    if ours:
        base = Variants.read(baseline, ours.scenes) if baseline else None
        both, lost = pair(ours, base) if baseline else (None, [])
        if asked.alexnet:
            relative = to_alexnet(ours, ALEXNET_FLIP_PROBABILITIES, not missing)
        elif both:
            relative = to_baseline(*both)
        against = difference(*both) if both else None
        gaps += [*lost, *relative.gaps]
    sequences = len(ours.key) if ours else 0
    t5d = _t5d(parts)
    counted_t5d = [t5d[scene.name] for scene in ours.scenes if scene.name in t5d] if ours else []
    made = Perturbations(
        flip_probability=_flips(parts),
        top1=_top1(parts),
        t5d=t5d,
        mean_flip_probability=mean_estimate(ours.means().mean(axis=1)) if ours else None,
        mean_t5d=float(np.mean(counted_t5d)) if counted_t5d else None,
        extra=[name for name in rest.groups() if name not in counted] if rest else [],
        normaliser=relative.normaliser,
        fr=dict(relative.ratios),
        mfr=relative.mean,
        comparable=asked.published and not missing and sequences == OFFICIAL_IMAGES.get(asked.suite),
        missing=missing,
        sequences=sequences,
        against_baseline=against,
    )
    return made, gaps


def _flips(parts: Iterable[Variants]) -> dict[str, float]:
    return {
        _name(scene): float(each.values[:, column, _FLIPS].mean())
        for each in parts
        for column, scene in enumerate(each.scenes)
    }


def _top1(parts: Iterable[Variants]) -> dict[str, float]:
    """Accuracy over all frames of the sequences whose label is known, as the paper's appendix has it."""
    found = {}
    for each in parts:
        known = each.values[each.label >= 0]
        for column, scene in enumerate(each.scenes):
            if len(known):
                found[_name(scene)] = float(known[:, column, _RIGHT].sum() / known[:, column, _FRAMES].sum())
    return found


def _t5d(parts: Iterable[Variants]) -> dict[str, float]:
    """Mean over sequences; nothing where there are fewer than 5 classes."""
    found = {}
    for each in parts:
        for column, scene in enumerate(each.scenes):
            mean = float(each.values[:, column, _T5D].mean())
            if not np.isnan(mean):
                found[_name(scene)] = mean
    return found


def _name(scene: Scene) -> str:
    return scene.name if scene.level == "1" else f"{scene.name} {scene.level}"


def _ordered(scenes: Iterable[Scene], counted: tuple[str, ...]) -> list[Scene]:
    """As the benchmark lists its perturbations, by difficulty."""
    return sorted(
        scenes, key=lambda scene: (counted.index(scene.name) if scene.name in counted else len(counted), scene)
    )
