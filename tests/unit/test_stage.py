"""A stage reads the files of its inputs without knowing where they lie."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ns_core.stage import StageContext
from ns_core.storage.ranged import RemoteFiles
from tests.artifact_builders import written
from tests.factories import stage_context
from tests.local_bucket import LocalBucket

HERE = {"labels-c.parquet": b"c", "labels-a.parquet": b"a", "metrics.jsonl": b"{}"}
THERE = {"labels-b.parquet": b"bb", "labels-d.parquet": b"", "holdout.parquet": b"h"}


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    """Of its input `labels` some files are in its folder, others in a bucket; of `teacher` all are in its folder."""
    bucket = LocalBucket(tmp_path / "bucket")
    for name, data in THERE.items():
        bucket.put_bytes(f"labels/{name}", data)
    folders = {"labels": written(tmp_path / "labels", HERE), "teacher": written(tmp_path / "teacher", {"x": b"1"})}
    context = stage_context(tmp_path / "stage", folders)
    context.remote = {"labels": RemoteFiles(bucket, "labels", {name: len(data) for name, data in THERE.items()})}
    return context


def test_the_files_of_an_input_are_found_in_order_wherever_they_lie(context: StageContext) -> None:
    assert context.files("labels", "labels-*.parquet") == [f"labels-{letter}.parquet" for letter in "abcd"]
    assert context.files("labels", "*.jsonl") == ["metrics.jsonl"]
    assert context.files("labels", "*.tar") == []
    assert context.files("teacher", "*") == ["x"]


def test_each_is_opened_where_it_lies(context: StageContext) -> None:
    for name, data in {**HERE, **THERE}.items():
        with context.open("labels", name) as file:
            assert file.read() == data
            assert file.seek(0) == 0
            assert file.read(1) == data[:1]
    with context.open("teacher", "x") as file:
        assert file.read() == b"1"
    with pytest.raises(FileNotFoundError):
        context.open("labels", "labels-e.parquet")


def test_a_table_is_read_alike_from_a_folder_and_from_a_bucket(context: StageContext, tmp_path: Path) -> None:
    table = pa.table({"top1": [3, 1, 4]})
    pq.write_table(table, context.inputs["labels"] / "here.parquet")
    data = (context.inputs["labels"] / "here.parquet").read_bytes()
    LocalBucket(tmp_path / "bucket").put_bytes("labels/there.parquet", data)
    bucket = context.remote["labels"].storage
    context.remote = {"labels": RemoteFiles(bucket, "labels", {"there.parquet": len(data)})}
    for name in ("here.parquet", "there.parquet"):
        with context.open("labels", name) as file:
            assert pq.read_table(file).equals(table)
