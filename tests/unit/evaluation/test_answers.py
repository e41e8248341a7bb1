"""From logits to rows: against the definition, one picture at a time."""

import numpy as np
import pytest
import torch

from ns_core.errors import StageFailed
from ns_core.evaluation.answers import check_finite, masked, predictions


def test_a_row_says_what_the_softmax_of_its_logits_says() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 4, (40, 7)).astype(np.float32), rng.integers(0, 7, 40).astype(np.int32)
    keys = [f"key-{number}" for number in range(40)]
    table = predictions(keys, labels, logits)
    wanted = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    assert table.key.tolist() == keys
    assert table.top1.tolist() == wanted.argmax(axis=1).tolist()
    assert np.allclose(table.confidence, wanted.max(axis=1), rtol=1e-6)
    assert np.allclose(table.label_probability, wanted[np.arange(40), labels], rtol=1e-6)
    assert np.allclose(table.squares, (wanted**2).sum(axis=1), rtol=1e-6)
    order = np.argsort(-logits, axis=1)
    assert [order[row].tolist().index(label) for row, label in enumerate(labels)] == table.rank.tolist()
    assert (table.right == (table.rank == 0)).all()
    assert set(table.reason) == {""}


def test_of_equal_scores_the_lowest_class_is_predicted_and_ranks_before_the_others() -> None:
    table = predictions(["a", "b"], np.array([1, 3], np.int32), np.array([[0, 5, 1, 5]] * 2, np.float32))
    assert table.top1.tolist() == [1, 1]
    assert table.rank.tolist() == [0, 1]
    assert table.right.tolist() == [True, False]


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    logits = np.random.default_rng(1).normal(0, 9, (30, 5)).astype(np.float32)
    labels = np.arange(30, dtype=np.int32) % 5
    keys = list(map(str, range(30)))
    whole = predictions(keys, labels, logits)
    for row in range(30):
        alone = predictions(keys[row : row + 1], labels[row : row + 1], logits[row : row + 1])
        for column in ("top1", "confidence", "label_probability", "squares", "rank"):
            assert getattr(alone, column)[0] == getattr(whole, column)[row]


def test_a_class_outside_the_mask_is_neither_predicted_nor_probable() -> None:
    logits = np.array([[9, 1, 2, 8], [9, 3, 2, 8]], np.float32)
    table = predictions(["a", "b"], np.array([2, 1], np.int32), masked(logits, np.array([1, 2])))
    assert table.top1.tolist() == [2, 1]
    odds = 1 / (1 + np.exp(-1))
    assert np.allclose(table.confidence, odds)
    assert np.allclose(table.squares, odds**2 + (1 - odds) ** 2)
    assert table.rank.tolist() == [0, 0]
    assert masked(logits, None) is logits


def test_an_image_that_could_not_be_read_and_one_without_a_label_are_marked() -> None:
    logits = np.array([[np.nan, np.nan], [3, 1], [0, 0]], np.float32)
    table = predictions(["a", "b", "c"], np.array([0, -1, 0], np.int32), logits, ["cut short", "", ""])
    assert table.top1.tolist() == [-1, 0, 0]
    assert table.rank.tolist() == [-1, -1, 0]
    assert table.confidence[0] == table.squares[0] == table.label_probability[0] == table.label_probability[1] == 0
    assert table.right.tolist() == [False, False, True]
    assert table.readable().key.tolist() == ["b", "c"]


def test_an_output_that_is_no_number_ends_the_stage() -> None:
    good = np.zeros((2, 3), np.float32)
    assert check_finite(good) is good
    bad = good.copy()
    bad[1, 2] = np.inf
    with pytest.raises(StageFailed, match="not finite"):
        check_finite(bad)
