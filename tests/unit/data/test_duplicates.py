"""Planted near-duplicates are found and other pictures are not: digits, and crops of photographs.

The crops come from three photographs that scikit-learn and matplotlib ship. Neighbours overlap by half, and count
as different pictures. Crops of little contrast (sky, a horizon in mist, blurred background) look alike in fact; they
have tests of their own.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse.csgraph import connected_components
from sklearn.datasets import load_sample_images

from ns_core.data.duplicates import GROUP_RADIUS, JudgedIndex, group, signature
from tests.near_duplicates import (
    CONTRAST,
    Change,
    Pixels,
    brighter,
    contrast,
    crops,
    digits,
    encoded,
    judged_and_pool,
    mirrored,
    other_format,
    resized,
    stored,
)

SINGLE = (encoded, resized, mirrored)


def _index(images: list[Pixels]) -> JudgedIndex:
    index = JudgedIndex()
    for row, image in enumerate(images):
        index.add(f"judged-{row:04d}", signature(image))
    return index


def _planted(
    kind: str, seed: int, changes: list[list[Callable[[np.random.Generator], Change]]]
) -> tuple[int, int, int]:
    """(found as the right image, dropped in error, size of the clean pool) for 50 leaks hidden in the pool."""
    rng = np.random.default_rng(seed)
    judged, pool = judged_and_pool(kind, rng)
    mixed: list[tuple[Pixels, str | None]] = [(image, None) for image in pool]
    for number, row in enumerate(rng.choice(len(judged), 50, replace=False)):
        image = judged[row]
        for change in changes[number % len(changes)]:
            image = change(rng)(image)
        mixed.append((image, f"judged-{row:04d}"))
    mixed = [mixed[place] for place in rng.permutation(len(mixed))]
    matches = _index(judged).match([signature(image) for image, _ in mixed])
    found = sum(key is not None and match == key for match, (_, key) in zip(matches, mixed, strict=True))
    wrong = sum(key is None and match is not None for match, (_, key) in zip(matches, mixed, strict=True))
    return found, wrong, len(pool)


KINDS = ("digits", "32", "64", "128")
SIZES = {"digits": 1_047, "32": 590, "64": 190, "128": 50}
"""At least so many images in the clean pool."""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_fifty_planted_leaks_are_found_and_nothing_else(kind: str, seed: int) -> None:
    found, wrong, clean = _planted(kind, seed, [[change] for change in SINGLE])
    assert clean >= SIZES[kind]
    assert (found, wrong) == (50, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_leaks_changed_in_two_ways_at_once_are_found_too(kind: str) -> None:
    pairs = [[*pair] for pair in combinations((*SINGLE, brighter, other_format), 2)]
    assert _planted(kind, 0, [way for pair in pairs for way in (pair, pair[::-1])])[:2] == (50, 0)


def test_re_encoded_digits_are_found_at_every_quality() -> None:
    judged, _ = digits()
    index = _index(judged)
    for quality in (50, 65, 80, 95):
        copies = [signature(stored(image, "JPEG", quality=quality)) for image in judged]
        assert index.match(copies) == [f"judged-{row:04d}" for row in range(len(judged))]


@pytest.mark.parametrize("kind", KINDS)
def test_the_hardest_copies_are_found(kind: str) -> None:
    """Of all judged images: shrunk by a soft filter or darkened, then JPEG at the lowest quality."""
    judged, _ = judged_and_pool(kind, np.random.default_rng(0))
    index, missed = _index(judged), 0
    for row, image in enumerate(judged):
        size = (round(image.shape[1] * 0.9), round(image.shape[0] * 0.9))
        shrunk = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        darker = np.clip(image.astype(int) - 10, 0, 255).astype(np.uint8)
        matches = index.match([signature(stored(copy, "JPEG", quality=50)) for copy in (shrunk, darker)])
        missed += 2 - matches.count(f"judged-{row:04d}")
    assert missed <= (1 if kind == "32" else 0)


# What is no near-duplicate


@pytest.mark.parametrize("side", [32, 64, 128])
def test_only_crops_of_little_contrast_match_a_neighbour(side: int) -> None:
    """All crops, sky included: every second one judged, and the others looked up, so that each has its neighbours."""
    signatures = [signature(crop) for crop in crops(side)]
    judged = JudgedIndex()
    for row in range(0, len(signatures), 2):
        judged.add(str(row), signatures[row])
    others = signatures[1::2]
    matched = [one for one, key in zip(others, judged.match(others), strict=True) if key is not None]
    assert matched
    assert max(map(contrast, matched)) < CONTRAST


def test_another_colour_or_contrast_or_brightness_is_another_picture() -> None:
    image = crops(128)[60]
    assert contrast(signature(image)) > CONTRAST
    faded = (128 + (image.astype(int) - 128) // 2).astype(np.uint8)
    darker = (image.astype(int) * 7 // 10).astype(np.uint8)
    index = _index([image])
    copies = [image, np.ascontiguousarray(image[..., ::-1]), faded, darker]
    assert index.match([signature(copy) for copy in copies]) == ["judged-0000", None, None, None]


def test_blank_pictures_match_only_if_they_look_the_same() -> None:
    def blank(*colour: int) -> Pixels:
        return np.full((50, 70, 3), colour, np.uint8)

    noise = np.random.default_rng(0).normal(0, 1, (50, 70, 1)).round().astype(int)
    index = JudgedIndex()
    for name, colour in {"white": (255, 255, 255), "grey": (128, 128, 128), "red": (200, 60, 60)}.items():
        index.add(name, signature(blank(*colour)))
    expected = {
        "white": [blank(255, 255, 255), stored(blank(254, 254, 254), "JPEG", quality=50)],
        "grey": [blank(130, 130, 130), (blank(128, 128, 128) + noise).astype(np.uint8), blank(128, 128, 128)[:8, :1]],
        "red": [stored(blank(200, 60, 60), "JPEG", quality=70)],
        None: [blank(0, 0, 0), blank(138, 138, 138), blank(60, 131, 60), blank(102, 102, 102)],
    }
    for key, images in expected.items():
        assert index.match([signature(image) for image in images]) == [key] * len(images)


def test_a_blank_picture_matches_none_with_something_on_it() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    image[20:40, 20:40] = 150
    index = _index([image])
    assert index.match([signature(image), signature(np.full_like(image, 130))]) == ["judged-0000", None]


# Which one matches


def test_the_best_match_wins_and_of_equals_the_smallest_key() -> None:
    image = crops(64)[300]
    original, rough = signature(image), signature(stored(image, "JPEG", quality=30))
    for keys in (("b", "c", "a"), ("a", "c", "b"), ("c", "b", "a")):
        index = JudgedIndex()
        index.add("0-rough", rough)
        for key in keys:
            index.add(key, original)
        index.add("0-rougher", signature(stored(image, "JPEG", quality=20)))
        assert index.match([original, rough]) == ["a", "0-rough"]


def test_what_else_is_in_a_batch_or_the_order_of_judged_images_makes_no_difference() -> None:
    """Crops that overlap by three quarters and more, sky among them: many candidates a picture, many matches."""
    image = load_sample_images().images[0]
    originals = [image[top : top + 64, left : left + 64] for top in range(0, 128, 8) for left in range(0, 512, 8)]
    signatures = [signature(crop) for crop in originals]
    forth, back = JudgedIndex(), JudgedIndex()
    numbered = list(enumerate(signatures[::2]))
    for row, one in numbered:
        forth.add(f"{row:04d}", one)
    for row, one in reversed(numbered):
        back.add(f"{row:04d}", one)
    others = signatures[1::2]
    matches = forth.match(others)
    assert len(set(matches)) > 20
    assert back.match(others) == matches
    assert [forth.match([one])[0] for one in others] == matches
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda one: forth.match([one])[0], others)) == matches


def test_images_can_be_added_after_a_match() -> None:
    """Beyond the room of the first thousand, and the second."""
    images = np.random.default_rng(0).integers(0, 256, (2_500, 8, 8, 3), dtype=np.uint8)
    signatures = [signature(image) for image in images]
    keys = [f"{row:04d}" for row in range(len(images))]
    index = JudgedIndex()
    assert index.match(signatures[:2]) == [None, None]
    for end in range(500, 2_501, 500):
        for row in range(end - 500, end):
            index.add(keys[row], signatures[row])
        known = [key if row < end else None for row, key in enumerate(keys)]
        assert index.match(signatures) == known
    assert index.match([]) == []


# Groups of the pool


def _chains(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """`group` as it is defined, by comparing all pairs."""
    close = np.bitwise_count(hashes[:, None] ^ hashes) <= GROUP_RADIUS
    labels = connected_components(close, directed=False)[1]
    _, first = np.unique(labels, return_index=True)
    return first[labels]


def _flipped(hashes: NDArray[np.uint64], bits: int, rng: np.random.Generator) -> NDArray[np.uint64]:
    """`bits` different bits of each."""
    places = np.argsort(rng.random((len(hashes), 64)), axis=1)[:, :bits]
    return hashes ^ np.bitwise_or.reduce(np.uint64(1) << places.astype(np.uint64), axis=1, initial=np.uint64(0))


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_chains_of_hashes_that_differ_in_two_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 1 << 64, 200, dtype=np.uint64)
    for bits in (0, 1, 2, 2, 3):
        hashes = np.concatenate([hashes, _flipped(rng.choice(hashes, 150), bits, rng)])
    rng.shuffle(hashes)
    groups = group(hashes)
    assert groups.dtype == np.int64
    np.testing.assert_array_equal(groups, _chains(hashes))
    assert len(np.unique(groups)) > 200
    assert np.bincount(groups).max() > 4


def test_three_bits_are_too_many() -> None:
    hashes = np.random.default_rng(0).integers(0, 1 << 64, 500, dtype=np.uint64)
    for bits, joined in ((2, 500), (3, 0)):
        groups = group(np.concatenate([hashes, _flipped(hashes, bits, np.random.default_rng(1))]))
        assert np.count_nonzero(groups[500:] == np.arange(500)) == joined


def test_a_million_with_a_hundred_thousand_blank_ones_group_as_planted() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 1 << 64, 1_000_000, dtype=np.uint64)
    hashes[400_000:500_000] = 1 << 63
    hashes[700_000:701_000] = _flipped(hashes[:1_000], 2, rng)
    expected = np.arange(1_000_000)
    expected[400_000:500_000] = 400_000
    expected[700_000:701_000] = np.arange(1_000)
    np.testing.assert_array_equal(group(hashes), expected)


def test_crowded_parts_of_a_hash_cost_pairs_and_never_join_what_is_apart() -> None:
    """4,000 hashes that share 48 bits are more than are compared with each other."""
    rng = np.random.default_rng(0)
    hashes = rng.choice(1 << 16, 4_000, replace=False).astype(np.uint64) << np.uint64(20)
    groups, chains = group(hashes), _chains(hashes)
    assert len(np.unique(groups)) < 4_000
    assert len(np.unique(np.stack([groups, chains]), axis=1).T) == len(np.unique(groups))
    assert (groups[groups] == groups).all()
    assert (groups <= np.arange(4_000)).all()


def test_no_hash_and_one_hash() -> None:
    assert group(np.zeros(0, np.uint64)).tolist() == []
    assert group(np.array([7], np.uint64)).tolist() == [0]


def test_re_encoded_and_mirrored_crops_are_grouped() -> None:
    originals = [crop for crop in crops(128) if contrast(signature(crop)) >= CONTRAST]
    copies = [stored(crop, "JPEG", quality=75) for crop in originals]
    turned = [np.ascontiguousarray(crop[:, ::-1]) for crop in originals]
    signatures = [signature(image) for image in originals + copies + turned]
    groups = group(np.array([min(one.hash, one.mirrored) for one in signatures], np.uint64)).reshape(3, len(originals))
    assert groups[0].tolist() == list(range(len(originals)))
    assert (groups[2] == groups[0]).all()
    assert np.mean(groups[1] == groups[0]) > 0.9
