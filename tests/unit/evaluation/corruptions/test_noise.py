"""The noises have the laws of the originals: written out here, and as imagecorruptions-imaug has them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from imagecorruptions import corruptions as library
from scipy.stats import chi2, chi2_contingency, ks_2samp, poisson

from ns_core.evaluation.corruptions import SEVERITIES, Pixels
from ns_core.evaluation.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from ns_core.evaluation.corruptions.tables import LEVELS
from tests.unit.evaluation.corruptions.pictures import photographs

LEAST_P = 1e-5
"""Some 300 tests are made, of 77,000 to 500,000 values each: laws that hold pass, a deviation off by 5 % does not."""

Original = Callable[[npt.NDArray[np.float64], Any, np.random.Generator], npt.NDArray[np.float64]]


def original_gaussian(unit: npt.NDArray[np.float64], c: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return unit + rng.normal(size=unit.shape, scale=c)


def original_shot(unit: npt.NDArray[np.float64], c: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return rng.poisson(unit * c) / c


def original_speckle(unit: npt.NDArray[np.float64], c: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return unit + unit * rng.normal(size=unit.shape, scale=c)


def original_impulse(unit: npt.NDArray[np.float64], c: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """skimage's `random_noise(mode="s&p", amount=c)`."""
    flipped, salted = rng.random(unit.shape) <= c, rng.random(unit.shape) <= 0.5
    noisy = unit.copy()
    noisy[flipped & salted] = 1
    noisy[flipped & ~salted] = 0
    return noisy


NOISES: dict[str, tuple[Callable[[Pixels, Any, np.random.Generator], Pixels], Original]] = {
    "gaussian_noise": (gaussian_noise, original_gaussian),
    "shot_noise": (shot_noise, original_shot),
    "speckle_noise": (speckle_noise, original_speckle),
    "impulse_noise": (impulse_noise, original_impulse),
}


def same_law(ours: Pixels, theirs: Pixels) -> float:
    """p of a chi-squared test of two samples of bytes; rare bytes are pooled with their neighbours."""
    counts = np.stack([np.bincount(sample.reshape(-1), minlength=256) for sample in (ours, theirs)])
    groups = np.cumsum(counts.sum(axis=0)) // 20
    _, starts = np.unique(groups, return_index=True)
    pooled = np.add.reduceat(counts, starts, axis=1)
    pooled = pooled[:, pooled.sum(axis=0) > 0]
    return 1.0 if pooled.shape[1] == 1 else float(chi2_contingency(pooled).pvalue)


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("name", NOISES)
def test_bytes_of_an_even_area_have_the_law_of_the_original(name: str, size: int) -> None:
    ours, original = NOISES[name]
    for severity in SEVERITIES:
        level = LEVELS[name][size][severity - 1]
        for grey in (0, 1, 60, 128, 254, 255):
            area = np.full((160, 160, 3), grey, dtype=np.uint8)
            theirs = np.uint8(np.clip(original(area / 255, level, np.random.default_rng(1)), 0, 1) * 255)
            made = ours(area, level, np.random.default_rng(2 + severity))
            assert same_law(made, np.asarray(theirs)) > LEAST_P, (severity, grey)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", NOISES)
def test_noise_of_photographs_has_the_law_of_the_library(name: str, severity: int) -> None:
    for image in photographs(160, 200):
        np.random.seed(severity)  # the library draws from the global generator
        seed = {"seed": 5} if name == "impulse_noise" else {}
        theirs = np.uint8(getattr(library, name)(image, severity, **seed))
        ours = NOISES[name][0](image, LEVELS[name][224][severity - 1], np.random.default_rng(7))
        changes = [(made.astype(int) - image).reshape(-1) for made in (ours, theirs)]
        assert ks_2samp(*changes).pvalue > LEAST_P


@pytest.mark.parametrize("name", NOISES)
def test_pixels_and_channels_are_drawn_apart(name: str) -> None:
    image = np.full((256, 256, 3), 120, dtype=np.uint8)
    noise = NOISES[name][0](image, LEVELS[name][224][2], np.random.default_rng(3)).astype(float)
    noise -= noise.mean()
    for shift in ((0, 0, 1), (0, 1, 0), (1, 0, 0)):
        other = np.roll(noise, shift, axis=(0, 1, 2))
        assert abs((noise * other).mean() / noise.var()) < 4 / np.sqrt(noise.size), shift


@pytest.mark.parametrize("photons", sorted({one for levels in LEVELS["shot_noise"].values() for one in levels}))
def test_shot_noise_is_poissons_law_for_each_of_the_256_values(photons: int) -> None:
    draws = 1200
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, np.newaxis, np.newaxis], (256, draws // 3, 3))
    made = shot_noise(ramp, photons, np.random.default_rng(photons)).reshape(256, draws)
    outcomes = np.asarray(np.arange(photons + 1) / photons * 255, dtype=np.uint8)
    seen = np.stack([np.bincount(row, minlength=256) for row in made])
    chances = np.zeros((256, 256))
    laws = poisson.pmf(np.arange(photons), np.arange(256)[:, np.newaxis] / 255 * photons)
    for count in range(photons):
        chances[:, outcomes[count]] += laws[:, count]
    chances[:, 255] += 1 - laws.sum(axis=1)
    assert not seen[chances < 1e-12].any()
    expected = draws * chances
    often = expected > 5
    statistic = ((seen - expected)[often] ** 2 / expected[often]).sum()
    assert chi2.sf(statistic, often.sum() - 256) > LEAST_P
    assert abs(seen[~often].sum() - expected[~often].sum()) < 5 * np.sqrt(expected[~often].sum()) + 5


def test_impulse_noise_replaces_the_official_share_half_by_white_half_by_black() -> None:
    grey = np.full((224, 224, 3), 128, dtype=np.uint8)
    noisy = impulse_noise(grey, 0.27, np.random.default_rng(0))
    assert (noisy == 0).mean() == pytest.approx(0.135, abs=0.005)
    assert (noisy == 255).mean() == pytest.approx(0.135, abs=0.005)
    assert ((noisy == 128) | (noisy == 0) | (noisy == 255)).all()
