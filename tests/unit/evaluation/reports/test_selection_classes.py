"""Which classes a report shows first."""

from collections.abc import Sequence

import numpy as np
import pytest

from ns_core.evaluation.reports.selection_classes import ClassFigures, read_classes, shown_classes, worst_first
from tests.selection_builders import OUTCOMES, built


def figures(label: int, kept: int, rows: int = 0, cut: float | None = 0.5) -> ClassFigures:
    """A class; of none kept there is no cut."""
    return ClassFigures(label, f"class {label}", kept, kept, rows or kept, {}, cut if kept else None, cut)


def labels(classes: Sequence[ClassFigures]) -> list[int]:
    return [one.label for one in classes]


def test_the_worst_class_has_the_fewest_kept_then_the_lowest_cut_then_the_most_repeats() -> None:
    classes = [
        figures(0, 9),
        figures(1, 5, cut=0.8),
        figures(2, 5, cut=0.7),
        figures(3, 5, rows=20, cut=0.8),
        figures(4, 0),
        figures(5, 9),
    ]
    assert labels(worst_first(classes)) == [4, 2, 3, 1, 0, 5]


def test_as_many_classes_as_fit_are_all_shown() -> None:
    assert labels(shown_classes([figures(label, 9 - label) for label in range(4)], 4)) == [3, 2, 1, 0]


@pytest.mark.parametrize("limit", [4, 5, 30])
def test_of_more_classes_half_are_the_worst_and_half_spread_over_the_rest(limit: int) -> None:
    shown = labels(shown_classes([figures(label, label) for label in range(1000)], limit))
    assert len(set(shown)) == limit
    assert shown == sorted(shown)
    half = limit // 2
    assert shown[:half] == list(range(half))
    assert (shown[half], shown[-1]) == (half, 999)
    assert np.diff(shown[half:]).max() <= 1000 / (limit - half - 1)


def test_factor_is_rows_by_image_and_none_of_nothing() -> None:
    assert figures(0, 4, rows=10).factor == 2.5
    assert figures(0, 0).factor is None


def test_the_table_of_the_stage_is_read_by_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    pool = built(tmp_path_factory.mktemp("pool"), 300, ["ant", "bee", "cat"])
    with (pool.selection / "classes.parquet").open("rb") as file:
        classes = read_classes(file)
    assert [one.name for one in classes] == ["ant", "bee", "cat"]
    for one in classes:
        mine = pool.top1 == one.label
        assert one.pool == mine.sum() == one.kept + sum(one.dropped.values())
        assert one.rows == pool.copies[mine].sum()
        for code, reason in enumerate(OUTCOMES[1:], 1):
            assert one.dropped[reason] == (mine & (pool.outcome == code)).sum()
        kept = pool.confidence[mine & (pool.outcome == 0)]
        assert one.cut == (kept.min() if len(kept) else None)
