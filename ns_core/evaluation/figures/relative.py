"""Errors and flip probabilities relative to a normaliser's: what CE, mCE, FR and mFR have in common.

In: `Variants` of a checkpoint, and of the baseline or AlexNet's constants. Out: ratios in percent with their mean, and
the paired difference from the baseline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ns_core.evaluation.figures.paired import mean_estimate, mean_ratio_estimate
from ns_core.evaluation.figures.variants import Variants, paired
from ns_core.evaluation.results import Estimate, Gap, Paired

BASELINE = "baseline"
"""Suite of gaps that are the baseline's: the figures of this checkpoint are whole."""


@dataclass(frozen=True)
class Relative:
    """Ratios to one normaliser, and what stood in their way."""

    normaliser: Literal["AlexNet", "baseline"] | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    """Corruption or perturbation -> 100 * its mean / the normaliser's."""
    mean: Estimate | None = None
    """Over all of them; None when one has no ratio."""
    gaps: Sequence[Gap] = ()


def ratios(means: Mapping[str, float], normaliser: Mapping[str, float]) -> dict[str, float]:
    """100 * mean / normaliser of each name: CE (means of errors over severities) or FR (flip probabilities).

    Names whose normaliser is 0 or not known have none.
    """
    return {name: 100 * value / normaliser[name] for name, value in means.items() if normaliser.get(name, 0) > 0}


def to_alexnet(ours: Variants, constants: Mapping[str, float], whole: bool) -> Relative:
    """Relative to AlexNet's figures of the same scenes.

    Args:
        ours: of official files.
        constants: AlexNet's mean by corruption or perturbation.
        whole: whether all scenes are there that the mean is published of; else there is no mean.
    """
    contributions, names = ours.means(), list(ours.groups())
    found = ratios(dict(zip(names, contributions.mean(axis=0).tolist(), strict=True)), constants)
    mean = None
    if whole:
        mean = mean_estimate((100 * contributions / [constants[name] for name in names]).mean(axis=1))
    return Relative("AlexNet", found, mean)


def to_baseline(ours: Variants, baseline: Variants) -> Relative:
    """Relative to the baseline's figures of the same images and scenes (`variants.paired`).

    Where the baseline makes no mistake there is no ratio, and then no mean either: one over the rest would favour this
    checkpoint.
    """
    contributions, reference, names = ours.means(), baseline.means(), list(ours.groups())
    normaliser = dict(zip(names, reference.mean(axis=0).tolist(), strict=True))
    found = ratios(dict(zip(names, contributions.mean(axis=0).tolist(), strict=True)), normaliser)
    gaps = [
        Gap(suite=BASELINE, what=f"{ours.scenes[0].suite} {name}", reason="it makes no mistake there: no ratio")
        for name in names
        if name not in found
    ]
    return Relative("baseline", found, None if gaps else mean_ratio_estimate(contributions, reference), gaps)


def difference(ours: Variants, baseline: Variants) -> Paired:
    """Mean over the groups, this checkpoint's minus the baseline's, on the same images and scenes."""
    return Paired(difference=mean_estimate((ours.means() - baseline.means()).mean(axis=1)), p_value=None)


def pair(ours: Variants, baseline: Variants | None) -> tuple[tuple[Variants, Variants] | None, list[Gap]]:
    """`variants.paired`, with a gap when the baseline's scenes or images are others than ours."""
    found = None if baseline is None else paired(ours, baseline)
    if found:
        return found, []
    reason = "it was not evaluated on the same images and variants"
    return None, [Gap(suite=BASELINE, what=ours.scenes[0].suite, reason=reason)]


def group_means(variants: Variants) -> dict[str, float]:
    """Group -> mean over its scenes and all images."""
    return dict(zip(variants.groups(), np.mean(variants.means(), axis=0).tolist(), strict=True))
