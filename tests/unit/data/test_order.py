"""The order of a stream: a keyed bijection that looks random, and streams as a function of the position."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2

from ns_core.data.order import Permutation, StreamOrder, stream_key

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
