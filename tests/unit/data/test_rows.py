"""Rows of a stream and their targets."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from ns_core.data.order import StreamOrder, WindowedOrder
from ns_core.data.rows import OneHot, Rows, Shuffle, stream_of


def _rows(copies: list[int] | None = None) -> Rows:
    return Rows(
        shard_names=("a.tar", "b/c.tar"),
        shard_codes=np.array([1, 0, 1], np.int32),
        offsets=np.array([10, 20, 30], np.int64),
        sizes=np.array([1, 2, 3], np.int64),
        keys=pa.array(["x", "y", "ä"], pa.large_string()),
        targets=OneHot(np.array([0, 1, 1], np.int32), 2),
        copies=None if copies is None else np.array(copies, np.int32),
    )


def test_a_row_knows_its_place_and_its_key() -> None:
    rows = _rows()
    assert [rows.place(row) for row in range(3)] == [("b/c.tar", 10, 1), ("a.tar", 20, 2), ("b/c.tar", 30, 3)]
    assert [rows.key(row) for row in range(3)] == ["x", "y", "ä"]
    assert rows.keys_of(np.array([2, 0, 2])) == ["ä", "x", "ä"]


def test_a_pass_is_as_long_as_the_copies_come_to() -> None:
    assert (len(_rows()), _rows().positions) == (3, 3)
    assert (len(_rows([1, 4, 2])), _rows([1, 4, 2]).positions) == (3, 7)


def test_the_order_is_windowed_when_a_window_is_asked_for() -> None:
    mixed, windowed = (stream_of(_rows([1, 4, 2]), 6, 1, Shuffle(5, window)) for window in (0, 2))
    assert isinstance(mixed.order, StreamOrder)
    assert isinstance(windowed.order, WindowedOrder)
    assert mixed.order.length == windowed.order.length == 7
    assert (mixed.images, windowed.order.window) == (6, 2)


def test_label_smoothing_moves_a_tenth_of_the_mass_to_all_classes() -> None:
    smoothed = OneHot(np.array([2, 0], np.int32), 4, 0.1)[np.array([0, 1])]
    assert smoothed.dtype == np.float32
    assert np.allclose(smoothed, [[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]])
    assert OneHot(np.array([1], np.int32), 2)[np.array([0])].tolist() == [[0.0, 1.0]]


@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=20),
    smoothing=st.floats(0, 0.99),
    data=st.data(),
)
def test_targets_made_when_asked_for_are_the_rows_of_the_whole_table_to_the_last_bit(
    labels: list[int], smoothing: float, data: st.DataObject
) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, len(labels) - 1), max_size=10)), np.int64)
    hot = np.eye(7, dtype=np.float32)[labels]
    table = hot * np.float32(1 - smoothing) + np.float32(smoothing / 7)
    made = OneHot(np.array(labels, np.int32), 7, smoothing)[rows]
    assert made.dtype == np.float32
    assert np.array_equal(made, table[rows])
