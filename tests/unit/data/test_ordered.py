"""`in_order`, the map on threads."""

from collections.abc import Iterator

import pytest

from ns_core.data.ordered import in_order


def test_in_order_keeps_the_order_and_looks_little_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = in_order(lambda item: item * item, items(), threads=2)
    assert [next(results) for _ in range(10)] == [n * n for n in range(10)]
    assert len(taken) <= 14
    assert list(results) == [n * n for n in range(10, 100)]


def test_in_order_hands_on_what_went_wrong() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: 1 // item, [2, 1, 0, 3], threads=2))
