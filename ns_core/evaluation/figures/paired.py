"""Uncertainty of figures, and of differences between two networks that saw the same images.

In: bool [N] (right or wrong) or float [N, K] (what each source image contributes to K means). Out: p-values, intervals.

The 75 corrupted variants of an image are not 75 observations: what is resampled is always the source image, with all of
its variants. All resampling is seeded, so that a figure is a pure function of the tables.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from ns_core.evaluation.figures.metrics import Right, wilson_interval
from ns_core.evaluation.results import LEVEL, Estimate, Paired

Contributions = npt.NDArray[np.float64]
"""[N, K]: row i is image i's part in K means over the images."""

RESAMPLES = 10_000
"""Of right and wrong, where a resample is three counts."""

CLUSTER_RESAMPLES = 2_000
"""Of source images; 2,000 of 50,000 images take 0.5 s on one core, with 1 column as with 30."""

_BLOCK = 1 << 22
"""Weights that are held at once: 32 MB."""

MIN_COMMON = 0.9
"""Two evaluations are compared when they share at least this part of the larger one's images."""


def share_estimate(right: Right) -> Estimate:
    """The share of True with Wilson's interval."""
    hits = int(right.sum())
    low, high = wilson_interval(hits, len(right))
    return Estimate(value=hits / len(right), low=low, high=high, images=len(right))


def mcnemar_p_value(a_correct: Right, b_correct: Right) -> float:
    """Exact two-sided p-value of "a and b are right equally often" (McNemar 1947), from bool [N] each.

    Of the images that just one of them gets right, the share that is b's is binomial with 1/2. Without any
    such image the models cannot be told apart: 1.
    """
    only_a, only_b = _discordant(a_correct, b_correct)
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_b, only_a + only_b).pvalue)


def paired_interval(
    a_correct: Right,
    b_correct: Right,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap percentile interval of accuracy(b) - accuracy(a), resampling images.

    An image's difference is +1, -1 or 0, so a resample of N images is one multinomial draw of three counts:
    the same distribution as redrawing the images, at 8 ms instead of seconds for 10,000 resamples.

    Args:
        a_correct, b_correct: bool [N], whether each image is predicted right.
        level: coverage, 0 to 1.
        resamples: bootstrap resamples.
        seed: of the resampling; the result is a pure function of the arguments.
    """
    assert 0 < level < 1, f"level {level} is not between 0 and 1"
    only_a, only_b = _discordant(a_correct, b_correct)
    images = len(a_correct)
    shares = np.array([only_a, only_b, images - only_a - only_b]) / images
    draws = np.random.default_rng(seed).multinomial(images, shares, size=resamples)
    low, high = percentiles((draws[:, 1] - draws[:, 0]) / images, level)
    return low, high


def compared(ours: Right, baseline: Right) -> Paired:
    """This checkpoint against the baseline, bool [N] each on the same images in the same order."""
    lost, won = _discordant(baseline, ours)
    images = len(ours)
    low, high = paired_interval(baseline, ours)
    return Paired(
        difference=Estimate(value=(won - lost) / images, low=low, high=high, images=images),
        p_value=mcnemar_p_value(baseline, ours),
        negative_flips=lost / images,
        positive_flips=won / images,
    )


def resampled_means(
    contributions: Contributions, resamples: int = CLUSTER_RESAMPLES, seed: int = 0
) -> npt.NDArray[np.float64]:
    """float64 [resamples, K]: the means over N images drawn with replacement, of each column alike.

    How often each image is drawn is a multinomial vector; the means of a block of resamples are one matrix product.
    """
    images = len(contributions)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // images)
    means = np.empty((resamples, contributions.shape[1]))
    for first in range(0, resamples, block):
        weights = np.empty((min(block, resamples - first), images))
        for row in weights:
            row[:] = np.bincount(rng.integers(0, images, images, dtype=np.int32), minlength=images)
        means[first : first + len(weights)] = weights @ contributions / images
    return means


def cluster_estimate(
    contributions: Contributions, figure: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
) -> Estimate:
    """A figure of means over source images with its bootstrap percentile interval.

    Args:
        contributions: float64 [N, K].
        figure: means [R, K] -> the figure [R]; it is applied to the means themselves and to those of each resample.
    """
    value = float(figure(contributions.mean(axis=0, keepdims=True))[0])
    low, high = percentiles(figure(resampled_means(contributions)))
    return Estimate(value=value, low=low, high=high, images=len(contributions))


def mean_estimate(contributions: npt.NDArray[np.float64]) -> Estimate:
    """The mean of float64 [N], one number a source image: enough for whatever is linear in the images."""
    return cluster_estimate(contributions[:, None], lambda means: means[:, 0])


def mean_ratio_estimate(ours: Contributions, baseline: Contributions) -> Estimate:
    """100 times the mean over columns of mean(ours) / mean(baseline): mCE and mFR against a network's own figures.

    Both float64 [N, K] of the same images; no column of the baseline is all 0. A resample where one is anyway counts it
    as half of the smallest contribution in it, so that every bound is finite.
    """
    columns = ours.shape[1]
    assert (baseline > 0).any(axis=0).all(), "the baseline makes no mistake in a column: there is no ratio"
    floor = np.where(baseline > 0, baseline, np.inf).min(axis=0) / (2 * len(baseline))

    def figure(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(100 * (means[:, :columns] / np.maximum(means[:, columns:], floor)).mean(axis=1))

    return cluster_estimate(np.concatenate([ours, baseline], axis=1), figure)


def percentiles(draws: npt.NDArray[np.float64], level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of the draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def common_rows(
    key: npt.NDArray[np.object_], other: npt.NDArray[np.object_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Row numbers in each of the images that both lists have, in the order of the first.

    None when they share less than `MIN_COMMON` of the longer list.
    """
    place = {one: row for row, one in enumerate(other.tolist())}
    assert len(place) == len(other), "two images of a list have the same key"
    pairs = [(row, place[one]) for row, one in enumerate(key.tolist()) if one in place]
    if not pairs or len(pairs) < MIN_COMMON * max(len(key), len(other)):
        return None
    both = np.array(pairs, np.int64)
    return both[:, 0], both[:, 1]


def _discordant(a_correct: Right, b_correct: Right) -> tuple[int, int]:
    """Images that only a gets right, and that only b does."""
    assert a_correct.shape == b_correct.shape, f"{a_correct.shape} against {b_correct.shape}: not paired"
    assert len(a_correct), "no images to compare"
    return int((a_correct & ~b_correct).sum()), int((b_correct & ~a_correct).sum())
