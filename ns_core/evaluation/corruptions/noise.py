"""The four noises: every value of every channel altered on its own.

In: a uint8 image [H, W, 3], a level as in `tables`, a generator. Out: a new uint8 image [H, W, 3].

Source: functions of the same names in hendrycks/robustness, ImageNet-C/create_c. The laws are theirs, the draws are
not: theirs came from numpy's global generator, in float64.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.stats import poisson

from ns_core.evaluation.corruptions.pixels import Pixels, cut, truncated


def gaussian_noise(image: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """Normal noise of deviation `sigma`, where white is 1."""
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise *= np.float32(255 * sigma)
    noise += image
    return cut(noise)


def speckle_noise(image: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """Each value times 1 and normal noise of deviation `sigma`."""
    factor = rng.standard_normal(image.shape, dtype=np.float32)
    factor *= np.float32(sigma)
    factor += 1
    factor *= image
    return cut(factor)


def impulse_noise(image: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    """Salt and pepper in equal parts, drawn for each channel on its own (skimage's `s&p`)."""
    draw = rng.random(image.shape, dtype=np.float32)
    return np.where(draw < amount / 2, np.uint8(255), np.where(draw < amount, np.uint8(0), image))


def shot_noise(image: Pixels, photons: int, rng: np.random.Generator) -> Pixels:
    """Counts of a Poisson law whose mean is the value's share of the `photons` that make white.

    There are but 256 means, and counts above `photons` are all white, so each mean has one small table of outcomes, and
    a value takes one 32-bit draw: 600 to 2,500 pictures of 224 pixels a second, where `Generator.poisson` makes 140.
    """
    table = _outcomes(photons)
    draw = rng.integers(0, 1 << 32, image.size, dtype=np.uint32)
    place = draw >> np.uint32(table.rest)
    place |= image.reshape(-1).astype(np.uint32) << np.uint32(32 - table.rest)
    cell = place.astype(np.intp)
    draw &= np.uint32((1 << table.rest) - 1)
    own = draw < table.shares.take(cell)
    cell <<= 1
    cell += own
    return table.values.take(cell).reshape(image.shape)


@dataclass(frozen=True, eq=False)
class _Outcomes:
    """Alias tables (Walker 1977) of the bytes that each of the 256 bytes can become.

    A draw's upper bits choose one of the equally likely cells of a byte's table, its `rest` lower bits whether the
    cell's own outcome comes out, or its alias.
    """

    rest: int
    shares: npt.NDArray[np.uint32]
    """[256 * cells], the own outcome's share of the cell, in units of 2^-rest."""
    values: Pixels
    """[256 * cells * 2]: of each cell the alias, then its own outcome."""


@cache
def _outcomes(photons: int) -> _Outcomes:
    """The tables for so many photons: 16 kB for 3 photons, 0.8 MB and 0.03 s for 500."""
    bits = photons.bit_length()
    cells = 1 << bits
    chances = np.zeros((256, cells))
    means = np.arange(256)[:, np.newaxis] / 255 * photons
    chances[:, :photons] = poisson.pmf(np.arange(photons), means)
    chances[:, photons] = np.maximum(1 - chances.sum(axis=1), 0)
    shares, aliases = _aliases(chances)
    white = truncated(np.arange(cells) / photons)
    values = np.stack([white[aliases], np.broadcast_to(white, aliases.shape)], axis=2)
    rest = 32 - bits
    return _Outcomes(rest, np.rint(shares * (1 << rest)).astype(np.uint32).reshape(-1), values.reshape(-1))


def _aliases(chances: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """For laws float64[N, K]: the share of each outcome in its own cell, and the outcome that fills the rest, [N, K].

    Step by step in all laws at once, the least likely outcome left gets a cell, filled up from the likeliest one.
    """
    count = chances.shape[1]
    rows = np.arange(len(chances))
    shares = np.ones_like(chances)
    aliases = np.tile(np.arange(count), (len(chances), 1))
    least, most = chances * count, chances * count
    for _ in range(count - 1):
        poor, rich = least.argmin(axis=1), most.argmax(axis=1)
        shares[rows, poor] = np.minimum(least[rows, poor], 1)
        aliases[rows, poor] = rich
        most[rows, rich] -= 1 - least[rows, poor]
        least[rows, rich] = most[rows, rich]
        least[rows, poor], most[rows, poor] = np.inf, -np.inf
    return shares, aliases
