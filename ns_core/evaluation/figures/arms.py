"""Arms of an ablation over seeds: means, and differences paired by seed.

In: a figure of each arm by seed. Out: `ArmFigures`. Seeds draw the splits, the labels, the weights and every order, so
that two arms of one seed share what is not theirs, and their difference is told from less than the figures alone.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import sqrt
from statistics import mean, stdev

from pydantic import BaseModel, ConfigDict
from scipy.stats import t

LEVEL = 0.95


class OverSeeds(BaseModel):
    """A mean over seeds."""

    model_config = ConfigDict(frozen=True)
    mean: float
    low: float | None
    """Of the 95 % Student t interval; None with a single seed."""
    high: float | None
    seeds: int


class Difference(BaseModel):
    """An arm less the baseline, seed by seed."""

    model_config = ConfigDict(frozen=True)
    change: OverSeeds
    p_value: float | None
    """Of the two-sided paired t test; None where the seeds do not differ in their differences, or with one of them."""
    adjusted: float | None
    """The p-value after Holm's correction for the number of arms (Holm 1979)."""


class ArmFigures(BaseModel):
    """One arm."""

    model_config = ConfigDict(frozen=True)
    figure: OverSeeds | None
    """None where no seed ended."""
    against: Difference | None
    """None for the baseline, and where the two have no seed in common."""


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Mean of at least one value, with its interval from two on."""
    center, count = mean(values), len(values)
    if count < 2:
        return OverSeeds(mean=center, low=None, high=None, seeds=count)
    half = float(t.ppf((1 + LEVEL) / 2, count - 1)) * stdev(values) / sqrt(count)
    return OverSeeds(mean=center, low=center - half, high=center + half, seeds=count)


def paired_p_value(differences: Sequence[float]) -> float | None:
    """Two-sided, of "the mean difference is 0"."""
    if len(differences) < 2 or stdev(differences) == 0:
        return None
    statistic = mean(differences) / (stdev(differences) / sqrt(len(differences)))
    return float(2 * t.sf(abs(statistic), len(differences) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: the smallest times n, the next times n - 1, never falling, at most 1."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    raised = [(len(p_values) - rank) * p_values[index] for rank, index in enumerate(order)]
    adjusted = dict(zip(order, accumulate(raised, max), strict=True))
    return [min(1.0, adjusted[index]) for index in range(len(p_values))]


def compare(figures: Mapping[str, Mapping[int, float]]) -> dict[str, ArmFigures]:
    """Arm -> seed -> figure; the first arm is the baseline. An arm is compared on the seeds that both have."""
    baseline, *others = figures
    differences = {arm: _differences(figures[arm], figures[baseline]) for arm in others}
    tested = {arm: p for arm, each in differences.items() if (p := paired_p_value(each)) is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    found = {}
    for arm, by_seed in figures.items():
        each = differences.get(arm)
        against = (
            Difference(change=over_seeds(each), p_value=tested.get(arm), adjusted=adjusted.get(arm)) if each else None
        )
        found[arm] = ArmFigures(figure=over_seeds(list(by_seed.values())) if by_seed else None, against=against)
    return found


def _differences(arm: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    return [arm[seed] - baseline[seed] for seed in sorted(arm.keys() & baseline.keys())]
