"""The selection rule against a brute-force oracle: exact top-k, hash ties, copies that add up."""

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ns_core.selection.balance import BELOW_THRESHOLD, CLASS_FULL, KEPT, Choice, choose

CLASSES = 4


@dataclass(frozen=True)
class Image:
    """A row of the pseudo-label table."""

    top1: int
    confidence: np.float32
    sha256: str


def _image(top1: int, hundredths: int, content: int) -> Image:
    return Image(top1, np.float32(hundredths / 100), hashlib.sha256(bytes([content])).hexdigest())


# Few values, so that ties in confidence are the rule and some images hold the same bytes.
POOLS = st.lists(st.builds(_image, st.integers(0, CLASSES - 1), st.integers(20, 30), st.integers(0, 40)), max_size=60)
THRESHOLDS = st.integers(15, 32).map(lambda hundredths: hundredths / 100)
QUOTAS = st.tuples(st.integers(1, 12), st.integers(1, 5))


def _choose(pool: list[Image], threshold: float, quota: tuple[int, int], seed: int = 0) -> Choice:
    return choose(
        np.array([image.top1 for image in pool], np.int32),
        np.array([image.confidence for image in pool], np.float32),
        np.array([image.sha256 for image in pool], object),
        threshold,
        quota,
        seed,
    )


def _kept(pool: list[Image], threshold: float, per_class: int) -> Counter[Image]:
    """What is to be kept, by sorting each class."""
    kept: Counter[Image] = Counter()
    for top1 in range(CLASSES):
        eligible = [image for image in pool if image.top1 == top1 and image.confidence >= np.float32(threshold)]
        eligible.sort(key=lambda image: (-image.confidence, image.sha256))
        kept.update(eligible[:per_class])
    return kept


@given(pool=POOLS, threshold=THRESHOLDS, quota=QUOTAS)
def test_each_class_keeps_its_most_confident_images_with_ties_broken_by_hash(
    pool: list[Image], threshold: float, quota: tuple[int, int]
) -> None:
    choice = _choose(pool, threshold, quota)
    kept = Counter(image for image, outcome in zip(pool, choice.outcome, strict=True) if outcome == KEPT)
    assert kept == _kept(pool, threshold, quota[0])


@given(pool=POOLS, threshold=THRESHOLDS, quota=QUOTAS)
def test_every_image_is_kept_or_has_the_reason_that_holds_for_it(
    pool: list[Image], threshold: float, quota: tuple[int, int]
) -> None:
    choice = _choose(pool, threshold, quota)
    for image, outcome, copies in zip(pool, choice.outcome, choice.copies, strict=True):
        assert (outcome == BELOW_THRESHOLD) == (image.confidence < np.float32(threshold))
        assert outcome in (KEPT, BELOW_THRESHOLD, CLASS_FULL)
        assert (copies > 0) == (outcome == KEPT)
    for top1 in range(CLASSES):
        outcomes = Counter(o for image, o in zip(pool, choice.outcome.tolist(), strict=True) if image.top1 == top1)
        assert outcomes[CLASS_FULL] == 0 or outcomes[KEPT] == quota[0]


@given(pool=POOLS, threshold=THRESHOLDS, quota=QUOTAS, seed=st.integers(0, 9))
def test_copies_of_a_class_come_to_its_quota_as_evenly_as_the_cap_allows(
    pool: list[Image], threshold: float, quota: tuple[int, int], seed: int
) -> None:
    per_class, max_copies = quota
    choice = _choose(pool, threshold, quota, seed)
    for top1 in range(CLASSES):
        copies = [int(n) for image, n in zip(pool, choice.copies, strict=True) if image.top1 == top1 and n]
        if copies:
            assert sum(copies) == min(per_class, len(copies) * max_copies)
            assert max(copies) <= max_copies
            assert max(copies) - min(copies) <= 1


@given(pool=POOLS, threshold=THRESHOLDS, quota=QUOTAS, data=st.data())
def test_the_order_of_the_rows_does_not_matter(
    pool: list[Image], threshold: float, quota: tuple[int, int], data: st.DataObject
) -> None:
    """Images with the same bytes may change places with each other, with no one else."""

    def rows(images: list[Image]) -> Counter[tuple[Image, int, int]]:
        choice = _choose(images, threshold, quota)
        return Counter(zip(images, choice.copies.tolist(), choice.outcome.tolist(), strict=True))

    assert rows(data.draw(st.permutations(pool))) == rows(pool)


@given(pool=POOLS, threshold=THRESHOLDS, quota=QUOTAS, seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)))
def test_the_seed_moves_only_the_odd_copies(
    pool: list[Image], threshold: float, quota: tuple[int, int], seeds: tuple[int, int]
) -> None:
    first, second = (_choose(pool, threshold, quota, seed) for seed in seeds)
    assert np.array_equal(first.outcome, second.outcome)
    assert (np.abs(first.copies - second.copies) <= 1).all()
    if seeds[0] == seeds[1]:
        assert np.array_equal(first.copies, second.copies)


def test_odd_copies_go_to_other_images_under_another_seed_and_not_to_the_most_confident() -> None:
    pool = [_image(0, 99 - place, place) for place in range(20)]
    drawn = [np.flatnonzero(_choose(pool, 0.5, (25, 3), seed).copies == 2) for seed in range(30)]
    assert all(len(places) == 5 for places in drawn)
    assert len({places.tobytes() for places in drawn}) > 25
    assert np.bincount(np.concatenate(drawn), minlength=20).min() > 0


def test_the_threshold_is_inclusive_at_the_precision_of_the_table() -> None:
    """0.3 is not a float32: the nearest one is larger than it, 0.7's is smaller, and both pass their threshold."""
    for threshold in (0.3, 0.7):
        at = np.float32(threshold)
        values = [np.nextafter(at, np.float32(0)), at, np.nextafter(at, np.float32(1))]
        pool = [Image(0, value, str(place)) for place, value in enumerate(values)]
        assert _choose(pool, threshold, (10, 1)).outcome.tolist() == [BELOW_THRESHOLD, KEPT, KEPT]


def test_equal_confidences_of_a_saturated_teacher_are_cut_exactly() -> None:
    """The official code draws at random from such a class, with the expected count only."""
    pool = [_image(0, 100, place) for place in range(200)]
    choice = _choose(pool, 0.3, (130, 1))
    kept = sorted(image.sha256 for image, copies in zip(pool, choice.copies, strict=True) if copies)
    assert kept == sorted(image.sha256 for image in pool)[:130]


def test_nothing_comes_of_nothing() -> None:
    assert _choose([], 0.3, (5, 2)).copies.tolist() == []
    pool = [_image(0, 20, 1), _image(1, 20, 2)]
    assert _choose(pool, 0.5, (5, 2)).copies.tolist() == [0, 0]


def test_columns_have_the_documented_types() -> None:
    choice = _choose([_image(0, 90, 1)], 0.5, (5, 2))
    assert choice.copies.dtype == np.int32
    assert choice.outcome.dtype == np.int8
