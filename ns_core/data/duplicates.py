"""Which pictures are near-duplicates: of a judged image, or of one another.

In:  signatures (`ns_core.data.signatures`) of the judged images, those of the holdout and test splits, and then
     of everything else; or the hashes of a whole pool.
Out: for each signature the judged image that it duplicates, or None; for each hash the group it belongs to.

A near-duplicate is the same picture stored another way: encoded again at another quality or in another format,
resized by about 10 %, mirrored left to right, a little brighter or darker, or two of these at once. Another crop
of the same scene is none. `JudgedIndex` finds them in two steps:

1. Candidates: the judged images whose hash differs from that of the picture or of its mirror image in at most
   `RADIUS` bits. All pairs are compared, by xor and popcount: an index over parts of the hash that misses none
   at this radius has parts of five bits, which rule out next to nothing.
2. Verification of each candidate on the thumbnails. Brightness and contrast are fitted first, within bounds;
   what is left, the residual, is set against what a copy may differ by at that contrast (`_scores`; 1 is the
   limit).

Scores measured on 1,797 digits at 32x32 and on 3,923 crops of photographs (32, 64 and 128 pixels square,
neighbours overlapping by half), over 19 ways to make a copy: JPEG quality 50 and 75, resizing by 10 % with
Pillow's bicubic, bilinear or Lanczos filter, mirroring, 10 levels brighter or darker, GIF, and pairs of these,
WebP and quality 50:

                                                              worst copy               closest other picture
    digits                                                    0.70                     1.22, the next 1.93
    crops with contrast (deviation of the luma 20 and more)   1.12 (3 of 32,300 miss)  1.01, the next 2.54
    crops with little of it (8 to 20)                         1.28 (8 of 11,533 miss)  0.57 (25 pairs below 1)

All that missed are 32x32. The 25 pairs are neighbours along one horizon in mist, alike to the eye. What has next
to no contrast (below 8: sky, a blank page) holds too little to tell a copy from a look-alike: crops of one sky do
match. There, two pictures are duplicates if they truly look the same: as flat as each other, of one brightness (3
levels, and more as the contrast grows) and of one colour. A black page and a white one are not, nor a red and a
green one of equal luma, nor, then, a blank page and a copy 10 levels brighter.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ns_core.data.signatures import (
    CHROMA_SIDE,
    LUMA_BYTES,
    LUMA_SIDE,
    THUMBNAIL_BYTES,
    Signature,
    signature,
)

__all__ = ["JudgedIndex", "Signature", "group", "signature"]

RADIUS = 12
"""Bits. Of 97,000 copies five flip more, all nearly blank (`ns_core.data.signatures` has the table)."""
RESIDUAL, RESIDUAL_OF_CONTRAST = 1.5, 0.06
"""Grey levels that re-encoding leaves, and the share of the contrast that resizing does; they add as squares."""
CONTRAST, CONTRAST_OF_CONTRAST = 1.5, 0.2
"""How far two deviations may lie apart: grey levels, and a share of the smaller one."""
SHIFT, SHIFT_OF_CONTRAST, MAX_SHIFT = 3.0, 1.0, 24.0
"""How far two mean brightnesses may: grey levels, and more where contrast is there to prove the pictures alike."""
COLOUR = 7.0
"""Root mean square difference of Cr and Cb; 5.7 in the worst copy, by subsampled chroma at 32x32."""

GROUP_RADIUS = 2
"""Bits, of 64, within which `group` joins two hashes."""
_FOLLOWERS = 32
"""Of the hashes that share 32 bits with it, how many `group` compares one with."""

_COMPARED = 1 << 16
"""Hash pairs in one go: half a megabyte of xor, which a cache holds."""
_VERIFIED = 1 << 12
"""Thumbnail pairs in one go."""
_PAIRS = 1 << 23
"""Pairs that `group` collects before it joins them."""
_QUARTER, _ROW = np.uint64(0xFFFF), np.uint64(0xFFFFFFFF)

_Pair = tuple[NDArray[np.int64], NDArray[np.int64]]


class _Looks(NamedTuple):
    """The thumbnails of n pictures."""

    pixels: NDArray[np.uint8]
    """[n, THUMBNAIL_BYTES]"""
    mean: NDArray[np.float64]
    """[n], of the luma."""
    deviation: NDArray[np.float64]


class JudgedIndex:
    """The judged images, and which of them a picture duplicates.

    0.4 kB an image, and its key. `match` may run on many threads at once (most of its time is without the GIL);
    `add` only while no other call runs.
    """

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._hashes = np.zeros(0, np.uint64)
        self._looks = _looks([])

    def add(self, key: str, signature: Signature) -> None:
        """One more judged image. A key may come more than once."""
        count = len(self._keys)
        if count == len(self._hashes):
            self._hashes = np.resize(self._hashes, max(1024, 2 * count))
            self._looks = _Looks(*(np.resize(column, (len(self._hashes), *column.shape[1:])) for column in self._looks))
        self._hashes[count] = signature.hash
        pixels, mean, deviation = _looks([signature.thumbnail])
        self._looks.pixels[count] = pixels[0]
        self._looks.mean[count], self._looks.deviation[count] = mean[0], deviation[0]
        self._keys.append(key)

    def match(self, signatures: Sequence[Signature]) -> list[str | None]:
        """For each signature the key of the judged image that it is a near-duplicate of, or None.

        Of several the one of the lowest score, of equals the smallest key: neither the order of `add` nor what
        else is in the batch matters. Against 100,000 judged images 0.2 ms a picture, and 0.5 us a candidate.
        """
        count = len(signatures)
        hashes = np.array([one.hash for one in signatures] + [one.mirrored for one in signatures], np.uint64)
        looks = _both_ways(_looks([one.thumbnail for one in signatures]))
        lowest = np.ones(count)
        found: list[str | None] = [None] * count
        for views, rows in self._candidates(hashes):
            scores = _scores(looks, views, self._looks, rows)
            good = scores <= lowest[views % count]
            hits = zip((views[good] % count).tolist(), scores[good].tolist(), rows[good].tolist(), strict=True)
            for picture, score, row in hits:
                key, best = self._keys[row], found[picture]
                if best is None or (score, key) < (lowest[picture], best):
                    lowest[picture], found[picture] = score, key
        return found

    def _candidates(self, hashes: NDArray[np.uint64]) -> Iterator[_Pair]:
        """Rows of `hashes` and rows of the index that are within the radius, at most `_VERIFIED` at a time."""
        judged = self._hashes[: len(self._keys)]
        step = max(1, _COMPARED // max(1, len(judged)))
        for top in range(0, len(hashes), step):
            for left in range(0, len(judged), _COMPARED):
                differing = hashes[top : top + step, None] ^ judged[None, left : left + _COMPARED]
                # A third of the time of np.nonzero on the matrix.
                views, rows = np.divmod(np.flatnonzero(np.bitwise_count(differing) <= RADIUS), differing.shape[1])
                for start in range(0, len(views), _VERIFIED):
                    part = slice(start, start + _VERIFIED)
                    yield views[part] + top, rows[part] + left


def group(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The group of each of uint64[n]: int64[n], the smallest row in it, which is its own for one that is alone.

    Two rows share a group if a chain of hashes leads from one to the other, each within `GROUP_RADIUS` bits of
    the next. This is for a report and not for dropping: by hashes alone, nearly blank pictures of all colours are
    one group, and of copies at JPEG quality 50 a quarter is missed among crops of photographs (most of them of 32
    pixels), 2 % among digits. Mirrored twins are joined only where `hashes` are `min(hash, mirrored)`.

    Equal hashes are one from the start. Two that differ in two bits agree in at least two of their four
    quarters: for each two quarters the hashes are sorted by these 32 bits, and of those that agree in them each
    is compared with the `_FOLLOWERS` next ones. So a pair can be missed only where more different hashes than
    that share 32 bits. A million random hashes take 0.4 s, 10 million 6 s and 0.9 GB; n is below 2^31.
    """
    assert hashes.dtype == np.uint64, hashes.dtype
    assert hashes.ndim == 1, hashes.shape
    assert len(hashes) < 1 << 31, len(hashes)
    distinct, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    component, pairs = np.arange(len(distinct)), list[_Pair]()
    for left, right in _close_pairs(distinct):
        pairs.append((left, right))
        if sum(len(left) for left, _ in pairs) >= _PAIRS:
            component, pairs = _merged(component, pairs), []
    component = _merged(component, pairs)
    smallest = np.full(len(distinct), len(hashes))
    np.minimum.at(smallest, component, first)
    return np.asarray(smallest[component][inverse], np.int64)


def _close_pairs(hashes: NDArray[np.uint64]) -> Iterator[_Pair]:
    """Rows of uint64[n], all different, that are within `GROUP_RADIUS`; a pair may come more than once."""
    rows = np.arange(len(hashes), dtype=np.uint64)
    for one, other in combinations(range(0, 64, 16), 2):
        quarters = ((hashes >> np.uint64(one)) & _QUARTER) << np.uint64(16) | ((hashes >> np.uint64(other)) & _QUARTER)
        # The row in the low half of the number: numpy sorts such numbers faster than it finds the order of keys.
        packed = np.sort(quarters << np.uint64(32) | rows)
        keys, order = packed >> np.uint64(32), (packed & _ROW).astype(np.int64)
        at = np.arange(len(hashes))
        for lag in range(1, _FOLLOWERS + 1):
            at = at[: np.searchsorted(at, len(hashes) - lag)]
            at = at[keys[at] == keys[at + lag]]
            if not len(at):
                break
            left, right = order[at], order[at + lag]
            close = np.bitwise_count(hashes[left] ^ hashes[right]) <= GROUP_RADIUS
            yield left[close], right[close]


def _merged(component: NDArray[np.int64], pairs: Sequence[_Pair]) -> NDArray[np.int64]:
    """The component of each node, int64[n] below n, once the nodes of each pair are connected."""
    none = np.zeros(0, np.int64)
    left, right = (component[np.concatenate([none, *(pair[side] for pair in pairs)])] for side in (0, 1))
    edges = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(component), len(component)))
    return np.asarray(connected_components(edges, directed=False)[1][component], np.int64)


def _scores(looks: _Looks, views: NDArray[np.int64], judged: _Looks, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64[n] for n pairs: 0 for the same picture, up to 1 for a near-duplicate, infinite where nothing fits.

    With standard deviations s and t and covariance c of two lumas, the residual after fitting mean and contrast
    is sqrt(2 (s t - c)). Sums are of whole numbers below 2^24, so exact in float32 and in any order.
    """
    scores = np.full(len(views), np.inf)
    apart = np.abs(looks.mean[views] - judged.mean[rows])
    first, second = looks.deviation[views], judged.deviation[rows]
    low = np.minimum(first, second)
    fits = apart <= np.minimum(SHIFT + SHIFT_OF_CONTRAST * low, MAX_SHIFT)
    fits &= np.abs(first - second) <= CONTRAST + CONTRAST_OF_CONTRAST * low
    at = np.flatnonzero(fits)
    views, rows, squared = views[at], rows[at], first[at] * second[at]
    one, other = looks.pixels[views].astype(np.float32), judged.pixels[rows].astype(np.float32)
    products = np.einsum("ij,ij->i", one[:, :LUMA_BYTES], other[:, :LUMA_BYTES]).astype(np.float64)
    covariance = products / LUMA_BYTES - looks.mean[views] * judged.mean[rows]
    residual = 2 * np.maximum(squared - covariance, 0)
    limit = RESIDUAL**2 + RESIDUAL_OF_CONTRAST**2 * squared
    colour = one[:, LUMA_BYTES:] - other[:, LUMA_BYTES:]
    alike = np.einsum("ij,ij->i", colour, colour) <= COLOUR**2 * colour.shape[1]
    scores[at[alike]] = np.sqrt(residual / limit)[alike]
    return scores


def _looks(thumbnails: Sequence[bytes]) -> _Looks:
    pixels = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, THUMBNAIL_BYTES)
    luma = pixels[:, :LUMA_BYTES].astype(np.int64)
    mean = luma.sum(axis=1) / LUMA_BYTES
    return _Looks(pixels, mean, np.sqrt((luma**2).sum(axis=1) / LUMA_BYTES - mean**2))


def _both_ways(looks: _Looks) -> _Looks:
    """The pictures, then their mirror images."""
    luma, chroma = looks.pixels[:, :LUMA_BYTES], looks.pixels[:, LUMA_BYTES:]
    mirrored = np.concatenate(
        [
            luma.reshape(-1, LUMA_SIDE, LUMA_SIDE)[:, :, ::-1].reshape(luma.shape),
            chroma.reshape(-1, 2, CHROMA_SIDE, CHROMA_SIDE)[..., ::-1].reshape(chroma.shape),
        ],
        axis=1,
    )
    return _Looks(np.concatenate([looks.pixels, mirrored]), np.tile(looks.mean, 2), np.tile(looks.deviation, 2))
