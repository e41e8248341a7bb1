"""The index on disk and in memory, and reading by offset."""

import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ns_core.data import index
from ns_core.data.index import (
    SCHEMA,
    DatasetIndex,
    IndexRow,
    Split,
    coded,
    joined_text,
    write_classes,
    write_index,
)


def _row(key: str, split: Split, number: int, label: int | None) -> IndexRow:
    return IndexRow(
        key=key,
        split=split,
        shard=f"{split}-{number // 2:06d}.tar",
        offset=512 + number,
        size=100 + number,
        label=label,
        width=32,
        height=16 + number,
        sha256=f"{number:064x}",
        path=f"{split}/ä-{number}.png",
    )


ROWS = [
    *[_row(f"labeled-{n}", "labeled", n, n % 2) for n in range(5)],
    *[_row(f"pool-{n}", "pool", n, None) for n in range(3)],
    *[_row(f"test-{n}", "test", n, 1) for n in range(2)],
]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_index(tmp_path / "index.parquet", ROWS)
    write_classes(tmp_path / "classes.json", ["cat", "größer"])
    return tmp_path


def test_what_is_written_is_read_back_split_by_split(dataset: Path) -> None:
    loaded = DatasetIndex.load(dataset)
    for name in ("labeled", "pool", "test"):
        rows = [row for row in ROWS if row["split"] == name]
        split = loaded.split(name)
        assert len(split) == len(rows)
        assert list(split.keys) == [row["key"] for row in rows]
        assert [split.shard_names[code] for code in split.shard_codes] == [row["shard"] for row in rows]
        assert split.offsets.tolist() == [row["offset"] for row in rows]
        assert split.sizes.tolist() == [row["size"] for row in rows]
        assert split.labels.tolist() == [-1 if row["label"] is None else row["label"] for row in rows]
        assert split.heights.tolist() == [row["height"] for row in rows]
        assert split.widths.tolist() == [32] * len(rows)
        assert list(split.sha256) == [row["sha256"] for row in rows]
        assert list(split.paths) == [row["path"] for row in rows]


def test_columns_have_the_types_they_promise(dataset: Path) -> None:
    split = DatasetIndex.load(dataset).split("pool")
    types = [c.dtype for c in (split.shard_codes, split.offsets, split.sizes, split.labels, split.keys)]
    assert types == [np.int32, np.int64, np.int64, np.int32, np.object_]


def test_a_split_that_a_dataset_lacks_is_empty(dataset: Path) -> None:
    split = DatasetIndex.load(dataset).split("holdout")
    assert len(split) == 0
    assert split.labels.dtype == np.int32
    assert not len(split.keys)
    assert not split.shard_names


def test_class_names_keep_their_order_and_letters(dataset: Path) -> None:
    loaded = DatasetIndex.load(dataset)
    assert loaded.class_names == ("cat", "größer")
    assert loaded.num_classes == 2


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    write_index(tmp_path / "a", ROWS)
    write_index(tmp_path / "b", iter(ROWS))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_row_groups_lose_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_ROW_GROUP", 4)
    write_index(tmp_path / "index.parquet", ROWS)
    assert pq.ParquetFile(tmp_path / "index.parquet").num_row_groups == 3
    assert pq.read_table(tmp_path / "index.parquet").to_pylist() == ROWS


def test_labels_alone_may_be_null(tmp_path: Path) -> None:
    assert [field.name for field in SCHEMA if field.nullable] == ["label"]
    with pytest.raises(pa.ArrowInvalid):
        write_index(tmp_path / "index.parquet", [{**ROWS[0], "path": None}])  # type: ignore[typeddict-item]


def test_an_index_with_other_columns_is_refused_by_name(dataset: Path) -> None:
    pq.write_table(pa.table({"key": ["a"]}), dataset / "index.parquet")
    with pytest.raises(ValueError, match=r"index\.parquet: its columns"):
        DatasetIndex.load(dataset)


def test_reading_an_index_loads_neither_torch_nor_webdataset(dataset: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ns_core.data.index import DatasetIndex; "
        "DatasetIndex.load(Path(sys.argv[1])); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'webdataset', 'sklearn')))"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code, str(dataset)]) == 0


def test_the_rows_of_each_shard_are_found_with_their_texts(dataset: Path) -> None:
    split = DatasetIndex.load(dataset).split("labeled")
    found = {shard: rows.tolist() for shard, rows in split.members()}
    assert found == {"labeled-000000.tar": [0, 1], "labeled-000001.tar": [2, 3], "labeled-000002.tar": [4]}
    for shard, rows in found.items():
        texts = split.texts(shard)
        assert texts["key"].to_pylist() == split.keys[rows].tolist()
        assert texts["sha256"].to_pylist() == split.sha256[rows].tolist()


def test_shards_are_sorted_and_rows_of_one_may_lie_anywhere(tmp_path: Path) -> None:
    order = [4, 0, 3, 1, 2]
    write_index(tmp_path / "index.parquet", [ROWS[number] for number in order])
    write_classes(tmp_path / "classes.json", [])
    split = DatasetIndex.load(tmp_path).split("labeled")
    assert split.shard_names == tuple(f"labeled-{number:06d}.tar" for number in range(3))
    assert split.shard_codes.tolist() == [number // 2 for number in order]
    assert [rows.tolist() for _, rows in split.members()] == [[1, 3], [2, 4], [0]]


@given(
    st.lists(st.lists(st.sampled_from(["a", "b/c", "ä", "z"]), max_size=8), min_size=1, max_size=4),
    st.booleans(),
)
def test_codes_point_to_the_sorted_names_that_occur(chunks: list[list[str]], encoded: bool) -> None:
    arrays = [pa.array(chunk, pa.string()) for chunk in chunks]
    column = pa.chunked_array([array.dictionary_encode() if encoded else array for array in arrays])
    names, codes = coded(column.filter(pa.array([True] * len(column), pa.bool_())))
    flat = [name for chunk in chunks for name in chunk]
    assert [names[code] for code in codes] == flat
    assert list(names) == sorted(set(flat))
    assert codes.dtype == np.int32


def test_text_of_many_chunks_becomes_one_array() -> None:
    joined = joined_text(pa.chunked_array([["a"], [], ["b", "c"]], pa.string()))
    assert isinstance(joined, pa.Array)
    assert joined.to_pylist() == ["a", "b", "c"]
    assert joined_text(pa.chunked_array([], pa.string())).to_pylist() == []


def test_a_split_is_read_once(dataset: Path) -> None:
    loaded = DatasetIndex.load(dataset)
    assert loaded.split("pool") is loaded.split("pool")
