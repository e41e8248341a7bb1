"""A file of a bucket reads as one on a disk, and costs the bytes that are wanted."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ns_core.errors import NotFound
from ns_core.storage.ranged import RemoteFiles
from tests.local_bucket import LocalBucket

DATA = np.random.default_rng(0).bytes(700_001)
"""More than two buffers."""
ROWS, CLASSES = 20_000, 400

_places = st.integers(0, len(DATA) + 10)
_steps = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 400_000)),
    st.tuples(st.just("start"), _places),
    st.tuples(st.just("end"), _places),
    st.tuples(st.just("on"), st.integers(0, 300_000)),
)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> LocalBucket:
    """Holds `folder/data`, and 16 MB of pseudo-labels as `folder/labels.parquet`."""
    bucket = LocalBucket(tmp_path_factory.mktemp("ranged") / "store")
    bucket.put_bytes("folder/data", DATA)
    soft = np.random.default_rng(1).random(ROWS * CLASSES).astype(np.float16)
    columns = {
        "top1": np.arange(ROWS, dtype=np.int32) % CLASSES,
        "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(soft), CLASSES),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    bucket.put_bytes("folder/labels.parquet", buffer.getvalue())
    return bucket


def opened(bucket: LocalBucket, name: str) -> BinaryIO:
    size = bucket.size(f"folder/{name}")
    assert size is not None
    return RemoteFiles(bucket, "folder", {name: size}).open(name)


def taken(file: BinaryIO, step: tuple[str, int]) -> bytes | int:
    """The outcome of a step."""
    how, number = step
    if how == "read":
        return file.read(number)
    if how == "on":
        return file.seek(number, io.SEEK_CUR)
    return file.seek(number) if how == "start" else file.seek(-min(number, len(DATA)), io.SEEK_END)


@given(steps=st.lists(_steps, max_size=12))
def test_reading_and_seeking_are_as_in_memory(bucket: LocalBucket, steps: list[tuple[str, int]]) -> None:
    with opened(bucket, "data") as file:
        memory = io.BytesIO(DATA)
        for step in steps:
            assert taken(file, step) == taken(memory, step)
            assert file.tell() == memory.tell()


def test_the_end_of_the_file_is_the_end(bucket: LocalBucket) -> None:
    with opened(bucket, "data") as file:
        assert file.read() == DATA
        assert file.read() == b""
        asked = len(bucket.ranges)
        file.seek(10**9)
        assert file.read(5) == b""
        assert len(bucket.ranges) == asked, "nothing is asked for that is not there"


def test_of_a_table_a_column_costs_its_own_bytes(bucket: LocalBucket) -> None:
    size = bucket.size("folder/labels.parquet")
    assert size is not None
    bucket.ranges.clear()
    with opened(bucket, "labels.parquet") as file:
        table = pq.read_table(file, columns=["top1"])
    assert table["top1"].to_numpy().tolist() == [row % CLASSES for row in range(ROWS)]
    assert sum(bucket.ranges) < size / 20
    with opened(bucket, "labels.parquet") as file:
        assert pq.read_table(file).equals(pq.read_table(io.BytesIO(bucket.read("folder/labels.parquet"))))


def test_a_file_that_is_gone_or_shorter_than_recorded_is_no_empty_file(bucket: LocalBucket, tmp_path: Path) -> None:
    files = RemoteFiles(bucket, "folder", {"data": len(DATA) + 1, "lost": 3})
    with files.open("lost") as lost, pytest.raises(NotFound):
        lost.read()
    with files.open("data") as short, pytest.raises(OSError, match="were asked for"):
        short.read()
