"""The order of a stream: a keyed bijection that looks random, and streams as a function of the position."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2

from ns_core.data.order import OrderBlocks, Permutation, StreamOrder, WindowedOrder, stream_key

KEYS = 6_000
WORD = st.integers(0, 2**32 - 1)


def _rows(n: int, *key: int) -> NDArray[np.int64]:
    return Permutation(n, *key)(np.arange(n))


def _p_value(counts: NDArray[np.int64], degrees: int) -> float:
    """Of a chi-square test that all cells are equally likely."""
    expected = counts.sum() / counts.size
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), degrees))


@settings(max_examples=200)
@given(n=st.integers(1, 5000), key=st.lists(WORD, min_size=1, max_size=4))
def test_a_permutation_is_a_bijection(n: int, key: list[int]) -> None:
    assert np.array_equal(np.sort(_rows(n, *key)), np.arange(n))


@pytest.mark.parametrize("n", [2**16 - 1, 2**16, 2**16 + 1])
def test_a_permutation_is_a_bijection_around_a_change_of_width(n: int) -> None:
    assert np.array_equal(np.sort(_rows(n, 3)), np.arange(n))


@given(start=st.integers(0, 300_000_000 - 1000))
def test_300_million_rows_are_permuted_without_listing_them(start: int) -> None:
    n = 300_000_000
    places = Permutation(n, 5)(np.arange(start, start + 1000))
    assert len(np.unique(places)) == 1000
    assert places.min() >= 0
    assert places.max() < n


@given(first=st.tuples(WORD, WORD, WORD, WORD), second=st.tuples(WORD, WORD, WORD, WORD))
def test_different_keys_give_different_orders(
    first: tuple[int, int, int, int], second: tuple[int, int, int, int]
) -> None:
    same = np.array_equal(_rows(1000, *first), _rows(1000, *second))
    assert same == (first == second)


@pytest.mark.parametrize("others", [0, 7, 2**31, 2**32 - 1])
@pytest.mark.parametrize("place", range(4))
def test_each_part_of_a_key_counts_to_its_last_bit_whatever_the_others_are(place: int, others: int) -> None:
    def drawn(value: int) -> bytes:
        key = [others] * 4
        key[place] = value
        return stream_key(*key).random_raw(4).tobytes()

    values = [0, *(1 << bit for bit in range(32)), 2**32 - 1]
    assert len({drawn(value) for value in values}) == len(values)


def test_a_part_of_a_key_that_would_run_into_its_neighbour_is_refused() -> None:
    with pytest.raises(AssertionError):
        stream_key(0, 2**32)


def test_keys_are_kept_apart_from_one_epoch_and_stream_to_the_next() -> None:
    orders = {_rows(200, seed, stream, epoch).tobytes() for seed in range(4) for stream in (0, 1) for epoch in range(8)}
    assert len(orders) == 4 * 2 * 8


@pytest.mark.parametrize("n", [4, 5, 8, 16, 50])
def test_where_a_row_goes_and_where_two_neighbours_go_looks_random(n: int) -> None:
    """Each position is as likely for each row, and each pair of rows at the first two positions."""
    table, pairs = np.zeros((n, n), np.int64), np.zeros((n, n), np.int64)
    for key in range(KEYS):
        rows = _rows(n, 11, 0, key)
        table[np.arange(n), rows] += 1
        pairs[rows[0], rows[1]] += 1
    assert _p_value(table, (n - 1) ** 2) > 1e-3
    assert _p_value(pairs[~np.eye(n, dtype=bool)], n * (n - 1) - 1) > 1e-3


@given(rows=st.integers(1, 60), epochs=st.integers(1, 5), seed=WORD, stream=st.integers(0, 1))
def test_every_row_comes_once_in_every_epoch(rows: int, epochs: int, seed: int, stream: int) -> None:
    order = StreamOrder(rows, seed, stream).rows(np.arange(rows * epochs)).reshape(epochs, rows)
    assert (np.sort(order, axis=1) == np.arange(rows)).all()


def test_epochs_and_streams_have_orders_of_their_own() -> None:
    first, second = (StreamOrder(100, 3, stream).rows(np.arange(1000)).reshape(10, 100) for stream in (0, 1))
    assert len({epoch.tobytes() for epoch in (*first, *second)}) == 20


@given(positions=st.lists(st.integers(0, 2**37), min_size=1, max_size=50), data=st.data())
def test_the_row_at_a_position_depends_on_the_position_alone(positions: list[int], data: st.DataObject) -> None:
    order = StreamOrder(37, 9, 1)
    alone = [int(order.rows(np.array([position]))[0]) for position in positions]
    together = data.draw(st.permutations(range(len(positions))))
    asked = order.rows(np.array([positions[place] for place in together]))
    assert asked.tolist() == [alone[place] for place in together]


@given(copies=st.lists(st.integers(0, 4), min_size=1, max_size=40).filter(any), seed=WORD, epochs=st.integers(1, 3))
def test_copies_come_in_the_order_of_rows_that_stand_so_often(copies: list[int], seed: int, epochs: int) -> None:
    repeated = np.repeat(np.arange(len(copies)), copies)
    positions = np.arange(len(repeated) * epochs)
    order = StreamOrder(len(copies), seed, 1, np.array(copies, np.int32))
    assert order.length == len(repeated)
    assert np.array_equal(order.rows(positions), repeated[StreamOrder(len(repeated), seed, 1).rows(positions)])


@st.composite
def windowed(draw: st.DrawFn) -> tuple[WindowedOrder, NDArray[np.int32], NDArray[np.int32]]:
    """A windowed order, the shard of each row and its copies."""
    codes = np.array(draw(st.lists(st.integers(0, 8), min_size=1, max_size=60)), np.int32)
    if draw(st.booleans()):
        codes.sort()
    copies = np.array(draw(st.lists(st.integers(0, 3), min_size=len(codes), max_size=len(codes)).filter(any)), np.int32)
    repeated = draw(st.booleans())
    order = WindowedOrder(codes, draw(st.integers(1, 6)), draw(WORD), 1, copies if repeated else None)
    return order, codes, copies if repeated else np.ones(len(codes), np.int32)


@given(drawn=windowed(), epochs=st.integers(1, 3))
def test_a_windowed_pass_has_every_row_as_often_as_it_has_copies(
    drawn: tuple[WindowedOrder, NDArray[np.int32], NDArray[np.int32]], epochs: int
) -> None:
    order, codes, copies = drawn
    assert order.length == copies.sum()
    for rows in order.rows(np.arange(order.length * epochs)).reshape(epochs, order.length):
        assert np.array_equal(np.bincount(rows, minlength=len(codes)), copies)


@given(drawn=windowed())
def test_only_the_shards_of_a_window_are_mixed_and_their_need_is_foretold(
    drawn: tuple[WindowedOrder, NDArray[np.int32], NDArray[np.int32]],
) -> None:
    order, codes, copies = drawn
    used = len(set(codes[copies > 0].tolist()))
    ahead = order.shards_ahead(0, 3 * used)
    assert len(ahead) == 3 * used
    begins = sorted({position for position, _ in ahead})
    assert begins[0] == 0
    for begin, end in pairwise([*begins, 3 * order.length]):
        window = {code for position, code in ahead if position == begin}
        assert 0 < len(window) <= order.window
        assert set(codes[order.rows(np.arange(begin, end))].tolist()) == window
        for position in (begin, end - 1):
            assert order.shards_ahead(position, len(window)) == [one for one in ahead if one[0] == begin]


def test_windows_and_what_is_mixed_in_them_differ_from_pass_to_pass() -> None:
    codes = np.repeat(np.arange(20, dtype=np.int32), 30)
    order = WindowedOrder(codes, 4, seed=3, stream=0)
    passes = order.rows(np.arange(600 * 8)).reshape(8, 600)
    assert len({one.tobytes() for one in passes}) == 8
    assert len({frozenset(codes[one[:120]].tolist()) for one in passes}) == 8, "other shards meet in the first window"
    assert not np.array_equal(np.sort(passes[0][:120]), passes[0][:120])


def test_each_window_of_each_pass_and_stream_has_a_permutation_of_its_own() -> None:
    """One shard a window; its rows by number within the shard."""
    codes = np.repeat(np.arange(20, dtype=np.int32), 30)
    orders = [WindowedOrder(codes, 1, seed, stream) for seed in (0, 1) for stream in (0, 1)]
    windows = [run for order in orders for run in order.rows(np.arange(600 * 5)).reshape(100, 30) % 30]
    unmixed = [run for stream in (0, 1) for run in StreamOrder(30, 0, stream).rows(np.arange(30 * 5)).reshape(5, 30)]
    assert len({run.tobytes() for run in (*windows, *unmixed)}) == 4 * 100 + 10
    shards = [order.rows(np.arange(0, 600 * 5, 30)).reshape(5, 20) // 30 for order in orders]
    assert len({one.tobytes() for passes in shards for one in passes}) == 20


def test_rows_of_a_window_are_mixed_evenly() -> None:
    """Each of the three shards of a window gives about a third of every run."""
    order = WindowedOrder(np.repeat(np.arange(3, dtype=np.int32), 500), 3, seed=0, stream=0)
    counts = np.array([np.bincount(run // 500, minlength=3) for run in order.rows(np.arange(1500)).reshape(10, 150)])
    assert _p_value(counts, 2 * 9) > 1e-3


@given(drawn=windowed(), positions=st.lists(st.integers(0, 2**37), min_size=1, max_size=20), data=st.data())
def test_the_row_at_a_windowed_position_depends_on_the_position_alone(
    drawn: tuple[WindowedOrder, NDArray[np.int32], NDArray[np.int32]], positions: list[int], data: st.DataObject
) -> None:
    order, _, _ = drawn
    assume(max(positions) // order.length < 2**32)
    alone = [int(order.rows(np.array([position]))[0]) for position in positions]
    together = data.draw(st.permutations(range(len(positions))))
    asked = order.rows(np.array([positions[place] for place in together]))
    assert asked.tolist() == [alone[place] for place in together]


@pytest.mark.parametrize("rows", [1, 50, 5000])
@given(first=st.integers(0, 10**9), count=st.integers(1, 5000))
@settings(max_examples=20)
def test_runs_of_positions_are_those_of_the_order(rows: int, first: int, count: int) -> None:
    order = StreamOrder(rows, 5, 0)
    count = min(count, 20 * rows)
    assert np.array_equal(OrderBlocks(order).rows(first, first + count), order.rows(np.arange(first, first + count)))
