"""The index on disk and in memory, and reading by offset."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psutil import Process

from ns_core.data import index
from ns_core.data.index import (
    SCHEMA,
    DatasetIndex,
    IndexRow,
    ShardReader,
    Split,
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


def test_a_reader_gives_exactly_the_bytes_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(range(100)))
    with ShardReader(tmp_path) as reader:
        assert reader.read("a.tar", 10, 3) == b"\x0a\x0b\x0c"
        assert reader.read("a.tar", 99, 1) == b"\x63"


def test_a_truncated_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x" * 100)
    with ShardReader(tmp_path) as reader, pytest.raises(OSError, match=r"a\.tar: truncated, 10 of 20 bytes"):
        reader.read("a.tar", 90, 20)


def test_a_missing_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    with ShardReader(tmp_path) as reader, pytest.raises(FileNotFoundError, match=r"gone\.tar"):
        reader.read("gone.tar", 0, 1)


def test_a_closed_reader_has_closed_its_files_and_reads_no_more(tmp_path: Path) -> None:
    before = Process().num_fds()
    for name in "abc":
        (tmp_path / name).write_bytes(b"x")
    with ShardReader(tmp_path) as reader:
        for name in "abcabc":
            reader.read(name, 0, 1)
        assert Process().num_fds() == before + 3
    assert Process().num_fds() == before
    with pytest.raises(ValueError, match="closed"):
        reader.read("a", 0, 1)


def test_a_shard_is_not_closed_under_a_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    reader, pread, before = ShardReader(tmp_path), os.pread, Process().num_fds()

    def close_first(descriptor: int, size: int, offset: int) -> bytes:
        reader.close()
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", close_first)
    assert reader.read("a", 1, 2) == b"bc"
    assert Process().num_fds() == before


def test_threads_share_a_reader_that_keeps_few_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_OPEN_SHARDS", 2)
    before = Process().num_fds()
    for number in range(16):
        (tmp_path / f"{number}").write_bytes(bytes([number]) * 1000)
    wanted = [(f"{number * 7 % 16}", number % 900) for number in range(4000)]
    with ShardReader(tmp_path) as reader, ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda place: reader.read(place[0], place[1], 100), wanted)
        for (shard, _), data in zip(wanted, results, strict=True):
            assert data == bytes([int(shard)]) * 100
        assert Process().num_fds() <= before + 8
    assert Process().num_fds() == before
