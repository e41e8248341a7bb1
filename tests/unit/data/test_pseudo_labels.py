"""What a label table says of each image, against plain numpy in double precision, and what comes back from disk."""

import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from ns_core.data.pseudo_labels import dense, label_file, label_table, softmax

LOGITS = st.tuples(st.integers(1, 6), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-80, 80, width=32))
)


def _texts(count: int) -> pa.Table:
    return pa.table(
        {"key": [f"image-{row}" for row in range(count)], "sha256": [f"{row:064x}" for row in range(count)]}
    )


def _exact(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _drawn(count: int, classes: int, scale: float = 3.0) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(0).standard_normal((count, classes))).astype(np.float32)


@given(logits=LOGITS, temperature=st.floats(0.05, 20))
@settings(max_examples=200)
def test_each_row_says_what_the_logits_say(logits: NDArray[np.float32], temperature: float) -> None:
    table = label_table(_texts(len(logits)), logits, temperature)
    exact = _exact(logits)
    ordered = np.sort(logits.astype(np.float64), axis=1)
    assert table["top1"].to_pylist() == logits.argmax(axis=1).tolist()
    np.testing.assert_allclose(table["confidence"].to_numpy(), exact.max(axis=1), rtol=1e-5)
    cooled = _exact((logits / temperature).astype(np.float32))
    np.testing.assert_allclose(table["calibrated"].to_numpy(), cooled.max(axis=1), rtol=1e-4)
    apart = ordered[:, -1] - ordered[:, -2] if logits.shape[1] > 1 else np.zeros(len(logits))
    np.testing.assert_allclose(table["margin"].to_numpy(), apart, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dense(table, logits.shape[1]), exact, atol=2.5e-4)
    assert table["reason"].null_count == len(logits)


@given(logits=LOGITS, top_k=st.integers(1, 9))
@settings(max_examples=200)
def test_the_most_probable_classes_come_first_with_their_mass(logits: NDArray[np.float32], top_k: int) -> None:
    table = label_table(_texts(len(logits)), logits, top_k=top_k)
    if top_k >= logits.shape[1]:
        assert "classes" not in table.column_names
        return
    classes = np.array(table["classes"].to_pylist())
    assert classes[:, 0].tolist() == table["top1"].to_pylist()
    kept = np.take_along_axis(logits, classes, axis=1)
    assert (np.diff(kept, axis=1) <= 0).all()
    assert (kept[:, -1:] >= np.where(_among(classes, logits.shape[1]), -np.inf, logits)).all()
    mass = np.take_along_axis(_exact(logits), classes, axis=1).sum(axis=1)
    np.testing.assert_allclose(table["kept_mass"].to_numpy(), mass, rtol=1e-5)
    assert table["kept_mass"].to_numpy().max() <= 1


def _among(classes: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    mask = np.zeros((len(classes), count), bool)
    np.put_along_axis(mask, classes, True, axis=1)
    return mask


def test_classes_whose_probabilities_are_equal_in_float32_are_ranked_by_logit() -> None:
    small = np.float32(2**-25)
    logits = np.array([[0, small, -1]], np.float32)
    assert softmax(logits)[0, 0] == softmax(logits)[0, 1]
    table = label_table(_texts(1), logits, top_k=2)
    assert table["top1"].to_pylist() == [1]
    assert table["classes"].to_pylist() == [[1, 0]]


def test_margins_tell_apart_what_is_certain_in_float32() -> None:
    table = label_table(_texts(2), np.array([[40, 0, 0], [50, 0, 0]], np.float32))
    assert table["confidence"].to_pylist() == [1.0, 1.0]
    assert table["margin"].to_pylist() == [40.0, 50.0]


def test_equal_logits_give_the_first_class_and_no_margin() -> None:
    table = label_table(_texts(1), np.zeros((1, 4), np.float32), top_k=2)
    assert table["top1"].to_pylist() == [0]
    assert table["margin"].to_pylist() == [0.0]
    assert table["classes"].to_pylist() == [[0, 1]]


@pytest.mark.parametrize("top_k", [0, 3])
def test_an_unreadable_image_has_a_reason_and_nothing_else(top_k: int) -> None:
    logits = _drawn(3, 5)
    logits[1] = [np.nan, np.inf, -np.inf, 0, 1]
    features = np.full((3, 2), np.nan, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = label_table(_texts(3), logits, 1.5, top_k, features, {1: "truncated"})
    assert table["reason"].to_pylist() == [None, "truncated", None]
    row = table.slice(1, 1).to_pylist()[0]
    lists = {name: row.pop(name) for name in ("probabilities", "classes", "embedding") if name in row}
    assert {value for values in lists.values() for value in values} == {0}
    assert {name for name, value in row.items() if value is not None} == {"key", "sha256", "reason"}
    assert row["key"] == "image-1"
    others = table.filter(pa.array([True, False, True]))
    expected = label_table(_texts(3).take([0, 2]), logits[[0, 2]], 1.5, top_k)
    for name in expected.column_names:
        assert others[name].to_pylist() == expected[name].to_pylist(), name


def test_what_an_unreadable_image_left_in_memory_does_not_reach_the_file(tmp_path: Path) -> None:
    logits = _drawn(4, 5)
    written = []
    for number, left in enumerate((0.0, 7.5, np.nan)):
        logits[2] = left
        path = tmp_path / f"{number}.parquet"
        pq.write_table(label_table(_texts(4), logits, 1.0, 2, logits, {2: "gone"}), path)
        written.append(path.read_bytes())
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("top_k", [0, 3])
def test_a_file_gives_back_the_table(tmp_path: Path, top_k: int) -> None:
    table = label_table(_texts(5), _drawn(5, 7), 1.2, top_k, _drawn(5, 4), {3: "no picture"})
    pq.write_table(table, tmp_path / "labels.parquet", compression="zstd")
    assert pq.read_table(tmp_path / "labels.parquet").equals(table)


@pytest.mark.parametrize(("classes", "kind"), [(300, pa.uint16()), (70_000, pa.uint32())])
def test_class_numbers_fit_their_type(classes: int, kind: pa.DataType) -> None:
    logits = np.zeros((1, classes), np.float32)
    logits[0, classes - 1] = 9
    table = label_table(_texts(1), logits, top_k=2)
    assert table["classes"].type.value_type == kind
    assert table["classes"].to_pylist()[0] == [classes - 1, 0]


def test_embeddings_beyond_half_precision_stay_finite() -> None:
    features = np.array([[1e6, -1e6, 0.5]], np.float32)
    table = label_table(_texts(1), _drawn(1, 3), features=features)
    assert np.array(table["embedding"].to_pylist()).tolist() == [[65504.0, -65504.0, 0.5]]
    assert table["embedding"].type.value_type == pa.float16()


def test_a_dense_label_spreads_the_mass_that_was_not_kept_over_the_other_classes() -> None:
    logits = _drawn(20, 12)
    table = label_table(_texts(20), logits, top_k=3)
    labels, exact = dense(table, 12), _exact(logits)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(labels.max(axis=1), exact.max(axis=1), atol=2.5e-4)
    for row, classes in enumerate(table["classes"].to_pylist()):
        others = np.delete(labels[row], classes)
        np.testing.assert_allclose(others, (1 - table["kept_mass"][row].as_py()) / 9, atol=1e-6)
        np.testing.assert_allclose(labels[row, classes], exact[row, classes], atol=2.5e-4)


@pytest.mark.parametrize("top_k", [0, 2])
def test_dense_labels_of_slices_chunks_and_no_rows(top_k: int) -> None:
    table = label_table(_texts(9), _drawn(9, 5), top_k=top_k)
    whole = dense(table, 5)
    np.testing.assert_array_equal(dense(table.slice(3, 4), 5), whole[3:7])
    np.testing.assert_array_equal(
        dense(pa.concat_tables([table.slice(4), table.slice(0, 4)]), 5), whole[[*range(4, 9), *range(4)]]
    )
    assert dense(table.slice(0, 0), 5).shape == (0, 5)
    assert dense(table.schema.empty_table(), 5).shape == (0, 5)


def test_there_is_no_dense_label_of_an_unreadable_image() -> None:
    table = label_table(_texts(2), _drawn(2, 3), unreadable={0: "gone"})
    with pytest.raises(AssertionError, match="cannot be read"):
        dense(table, 3)


def test_shards_of_one_name_in_several_folders_have_files_of_their_own() -> None:
    assert label_file("pool-000003.tar") == "labels-pool-000003.parquet"
    names = {
        label_file(shard) for shard in ("unlabeled/a/000.tar", "unlabeled/b/000.tar", "selected/000.tar", "000.tar")
    }
    assert len(names) == 4
    assert all("/" not in name and name.startswith("labels-000") for name in names)
