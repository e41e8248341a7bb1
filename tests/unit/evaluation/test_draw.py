"""The stratified draw of an evaluation."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ns_core.evaluation.draw import subset


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=80),
    limit=st.integers(1, 90),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_draw_is_stratified_as_far_as_the_classes_last(labels: list[int], limit: int, seed: int) -> None:
    columns = np.array(labels, np.int32)
    rows = subset(columns, limit, seed)
    assert len(rows) == min(limit, len(labels))
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(rows, subset(columns, limit, seed))
    there, drawn = Counter(labels), Counter(columns[rows].tolist())
    most = max(drawn.values())
    assert all(drawn[label] >= min(most - 1, there[label]) for label in there)


def test_another_seed_draws_other_images_and_every_image_can_be_drawn() -> None:
    labels = np.repeat(np.arange(4, dtype=np.int32), 10)
    draws = [subset(labels, 8, seed) for seed in range(200)]
    assert len({draw.tobytes() for draw in draws}) > 190
    assert set(np.concatenate(draws)) == set(range(40))


def test_a_larger_draw_holds_a_smaller_one() -> None:
    """Attacked images are among the corrupted ones, so that one image can be followed through the report."""
    labels = np.repeat(np.arange(3, dtype=np.int32), (5, 20, 40))
    assert set(subset(labels, 12, 1)) < set(subset(labels, 30, 1))
