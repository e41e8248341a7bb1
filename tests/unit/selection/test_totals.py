"""The counts of a selection: each against plain Python, and no digest of them moves with the order of shards."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from ns_core.selection.engine import BELOW_THRESHOLD, CLASS_FULL, CORRUPT, KEPT
from ns_core.selection.totals import Totals

NAMES = ("cat", "dog", "eel")
IMAGES = 20_000
RANDOM = np.random.default_rng(0)
OUTCOME = RANDOM.choice(np.array([KEPT, BELOW_THRESHOLD, CLASS_FULL, CORRUPT], np.int8), IMAGES)
TOP1 = np.where(OUTCOME == CORRUPT, 0, RANDOM.integers(0, 2, IMAGES)).astype(np.int32)
CONFIDENCE = RANDOM.random(IMAGES).astype(np.float32)
COPIES = np.where(OUTCOME == KEPT, RANDOM.integers(1, 9, IMAGES), 0).astype(np.int32)


def _totals(pieces: int, order: list[int] | None = None) -> Totals:
    totals = Totals(NAMES)
    rows = np.array_split(np.arange(IMAGES), pieces)
    for number in order or range(pieces):
        mine = rows[number]
        totals.add(TOP1[mine], CONFIDENCE[mine], OUTCOME[mine], COPIES[mine])
    totals.left_out("corrupt", 3)
    totals.left_out("leak", 4)
    return totals


def test_a_document_does_not_depend_on_the_order_or_size_of_shards() -> None:
    whole = _totals(1)
    for pieces in (7, 300):
        parts = _totals(pieces, list(reversed(range(pieces))))
        assert parts.document() == whole.document()
        assert parts.table().equals(whole.table())


def test_sums_are_those_of_exact_arithmetic() -> None:
    document: dict[str, Any] = _totals(5).document()
    kept = OUTCOME == KEPT
    exact = sum((Fraction(float(value)) for value in CONFIDENCE[kept]), Fraction(0)) / int(kept.sum())
    assert document["mean_confidence"] == pytest.approx(float(exact), abs=2.0**-32)
    assert document["rows"] == int(COPIES.sum())
    assert document["effective_images"] == int(COPIES.sum()) ** 2 / int((COPIES.astype(np.int64) ** 2).sum())
    assert document["histogram"] == np.histogram(CONFIDENCE[OUTCOME != CORRUPT], 20, (0, 1))[0].tolist()


def test_what_came_in_is_what_is_in_the_pool_and_what_never_came_there() -> None:
    document: dict[str, Any] = _totals(5).document()
    assert document["pool"] == IMAGES
    assert document["came_in"] == IMAGES + 7
    assert document["dropped"]["corrupt"] == (OUTCOME == CORRUPT).sum() + 3
    assert document["dropped"]["leak"] == 4
    assert document["kept"] + sum(document["dropped"].values()) == IMAGES + 7


def test_a_class_of_which_nothing_came_has_no_confidences() -> None:
    row = _totals(1).table().to_pylist()[2]
    assert row["name"] == "eel"
    assert row["cut_confidence"] is None
    assert row["mean_confidence"] is None
    assert _totals(1).unseen() == {
        "nothing in the pool is taken for": ["eel"],
        "everything was dropped that is taken for": [],
    }


def test_a_document_lists_no_classes_where_there_are_more_than_a_thousand() -> None:
    totals = Totals([f"class {label}" for label in range(1001)])
    totals.add(TOP1, CONFIDENCE, OUTCOME, COPIES)
    document = totals.document()
    assert not [name for name in document if name.endswith("per_class")]
    assert len(str(document)) < 1_500
    assert totals.table().num_rows == 1001
