"""Errors under corruptions: by severity, their means, CE, mCE and relative mCE.

In: the readable scenes of a suite (`corruptions`, `imagenet_c`, `cifar10_c`), those of the baseline, and which should
be there. Out: `Corruptions`. Definitions: Hendrycks & Dietterich 2019, as google-research/augmix computes them. The
four extra corruptions are in no mean (the test script of hendrycks/robustness prints one over all 19: not so here).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ns_core.evaluation.figures.baselines import (
    CLEAN_ERROR,
    OFFICIAL_IMAGES,
    SEVERITIES,
    alexnet_means,
    counted_corruptions,
)
from ns_core.evaluation.figures.paired import MIN_COMMON, mean_estimate
from ns_core.evaluation.figures.relative import Relative, difference, group_means, pair, to_alexnet, to_baseline
from ns_core.evaluation.figures.variants import Readable, Variants
from ns_core.evaluation.results import Corruptions, Gap
from ns_core.evaluation.tables import Scene

MIN_DEGRADATION = 0.005
"""A normaliser that a corruption costs less than half a point has no relative CE: the ratio would be noise."""


class Asked(NamedTuple):
    """What a suite should have, and against what it is held."""

    suite: str
    scenes: Sequence[Scene]
    clean: Sequence[Scene] = ()
    """Where the same images are uncorrupted, the first choice first."""
    published: bool = False
    """Whether figures of all of it are the published ones: official files, seen by a network of the set's classes."""

    @property
    def alexnet(self) -> bool:
        """Whether AlexNet is the normaliser; else it is the baseline."""
        return self.published and self.suite in ("imagenet_c", "imagenet_p")


def official(suite: str, clean: Sequence[Scene] = (), published: bool = True) -> Asked:
    """All that `imagenet_c` or `cifar10_c` counts: 15 corruptions at 5 severities."""
    scenes = [Scene(suite, name, level) for name in counted_corruptions() for level in SEVERITIES]
    return Asked(suite, scenes, clean, published)


def relative_mce(
    means: Mapping[str, float], clean: float, normaliser: Mapping[str, float], normaliser_clean: float
) -> float | None:
    """Mean over corruptions of 100 * (error - clean error) / (normaliser's error - its clean error).

    Args:
        means, normaliser: corruption -> error, as a mean over the same severities.
        clean, normaliser_clean: errors on the uncorrupted images.

    Returns:
        None without corruptions, or when one of them costs the normaliser less than `MIN_DEGRADATION`.
    """
    lost = {name: normaliser[name] - normaliser_clean for name in means}
    if not lost or min(lost.values()) < MIN_DEGRADATION:
        return None
    return float(np.mean([100 * (means[name] - clean) / lost[name] for name in means]))


def corruptions(asked: Asked, source: Readable, baseline: Readable | None) -> tuple[Corruptions, list[Gap]]:
    """The figures of a suite, and the gaps that `source` does not tell by itself.

    Images that a counted scene misses are in none of the figures, so that errors, means and intervals agree.
    """
    counted = counted_corruptions()
    there = [scene for scene in source.scenes if scene.suite == asked.suite]
    ours = Variants.read(source, [scene for scene in _ordered(there) if scene.name in counted])
    extra = Variants.read(source, [scene for scene in _ordered(there) if scene.name not in counted])
    measured = [scene for each in (ours, extra) if each for scene in each.scenes]
    missing = missing_names(asked.scenes, measured)
    gaps = [gap for each in (ours, extra) if each for gap in each.gaps]
    relative, against, relative_mean = Relative(), None, None
    if ours:
        base = Variants.read(baseline, ours.scenes) if baseline else None
        both, lost = pair(ours, base) if baseline else (None, [])
        if asked.alexnet:
            relative = to_alexnet(ours, _alexnet(ours), not missing)
        elif both:
            relative = to_baseline(*both)
        relative_mean = _relative(asked, source, ours, baseline, both)
        against = difference(*both) if both else None
        gaps += [*lost, *relative.gaps]
    images = len(ours.key) if ours else 0
    mean = mean_estimate(ours.means().mean(axis=1)) if ours else None
    made = Corruptions(
        errors=_errors(ours) | _errors(extra),
        means=(group_means(ours) if ours else {}) | (group_means(extra) if extra else {}),
        mean_error=mean,
        mean_top1=1 - mean.value if mean else None,
        extra=list(extra.groups()) if extra else [],
        normaliser=relative.normaliser,
        ce=dict(relative.ratios),
        mce=relative.mean,
        relative_mce=relative_mean,
        comparable=asked.published and not missing and images == OFFICIAL_IMAGES.get(asked.suite),
        missing=missing,
        images=images,
        against_baseline=against,
    )
    return made, gaps


def missing_names(asked: Iterable[Scene], measured: Iterable[Scene]) -> list[str]:
    """`fog` when no level of it that was asked for is there, else `fog 3`; in the order asked for."""
    there, wanted = set(measured), list(asked)
    started = {scene.name for scene in wanted if scene in there}
    names = [
        f"{scene.name} {scene.level}" if scene.name in started else scene.name for scene in wanted if scene not in there
    ]
    return list(dict.fromkeys(names))


def clean_errors(
    sources: Sequence[Readable], scenes: Iterable[Scene], key: NDArray[np.object_], least: float = 1
) -> list[float] | None:
    """Error of each source on the images of `key` that all of them have uncorrupted: the same images of each.

    In the first scene where these are at least the share `least` of them; None when there is no such scene.
    """
    wanted = set(key.tolist())
    for scene in scenes:
        found = [table for source in sources if (table := source.predictions(scene))]
        common = wanted.intersection(*(table.key.tolist() for table in found))
        if len(found) == len(sources) and len(common) >= least * len(wanted):
            return [float(1 - table.right[[one in common for one in table.key.tolist()]].mean()) for table in found]
    return None


def _relative(
    asked: Asked,
    source: Readable,
    ours: Variants,
    baseline: Readable | None,
    both: tuple[Variants, Variants] | None,
) -> float | None:
    """Relative mCE by the suite's normaliser, of all that is there."""
    if asked.alexnet:
        whole = len(ours.scenes) == len(asked.scenes)
        clean = clean_errors([source], asked.clean, ours.key) if whole else None
        return relative_mce(group_means(ours), clean[0], _alexnet(ours), CLEAN_ERROR) if clean else None
    if baseline is None or both is None:
        return None
    mine, theirs = both
    clean = clean_errors([source, baseline], asked.clean, mine.key, MIN_COMMON)
    return relative_mce(group_means(mine), clean[0], group_means(theirs), clean[1]) if clean else None


def _alexnet(variants: Variants) -> dict[str, float]:
    """AlexNet's means over the severities that are there."""
    levels = {name: [variants.scenes[one].level for one in columns] for name, columns in variants.groups().items()}
    return alexnet_means(levels)


def _errors(variants: Variants | None) -> dict[str, dict[str, float]]:
    if variants is None:
        return {}
    means = variants.values[:, :, 0].mean(axis=0).tolist()
    return {
        name: {variants.scenes[one].level: means[one] for one in columns} for name, columns in variants.groups().items()
    }


def _ordered(scenes: Iterable[Scene]) -> list[Scene]:
    """As the benchmark lists its corruptions, by severity."""
    counted = counted_corruptions()
    return sorted(
        scenes, key=lambda scene: (counted.index(scene.name) if scene.name in counted else len(counted), scene)
    )
