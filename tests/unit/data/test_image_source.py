"""Pictures by row: what is kept in memory, what training gets, and what evaluation makes of a bad image."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image as Pillow

from ns_core.data.image_source import ImageSource, eval_batches
from ns_core.data.images import CorruptImage, decode
from ns_core.data.index import DatasetIndex
from ns_core.data.reading import ShardReader
from ns_core.data.remote_shard import ShortShard
from ns_core.data.rows import OneHot, Rows, rows_of
from ns_core.data.transforms import eval_view
from ns_core.errors import StageFailed


@pytest.fixture
def source(digits_folder: Path) -> Iterator[ImageSource]:
    with ShardReader(digits_folder) as reader:
        yield ImageSource(reader)


@pytest.fixture
def labelled(digits_folder: Path) -> Rows:
    """50 images."""
    split = DatasetIndex.load(digits_folder).split("labeled")
    return rows_of(split, OneHot(split.labels, 10))


def _one(folder: Path, data: bytes, size: int | None = None) -> Rows:
    """One image, alone in its shard."""
    (folder / "a.tar").write_bytes(data)
    place = (np.zeros(1, np.int32), np.zeros(1, np.int64), np.array([size or len(data)], np.int64))
    return Rows(("a.tar",), *place, pa.array(["the-key"], pa.large_string()), np.zeros((1, 2), np.float32))


def _jpeg() -> bytes:
    buffer = BytesIO()
    Pillow.new("RGB", (40, 30), "red").save(buffer, "JPEG")
    return buffer.getvalue()


class _CountingReader(ShardReader):
    """Counts reads; the first `together` of them wait for each other."""

    def __init__(self, folder: Path, together: int = 1) -> None:
        super().__init__(folder)
        self.reads, self._counting = 0, threading.Lock()
        self._barrier, self._together = threading.Barrier(together), together

    def read(self, shard: str, offset: int, size: int) -> bytes:
        with self._counting:
            self.reads += 1
            waits = self.reads <= self._together
        if waits:
            self._barrier.wait(timeout=60)
        return super().read(shard, offset, size)


def test_an_image_is_read_once_as_long_as_memory_has_room(digits_folder: Path, labelled: Rows) -> None:
    with _CountingReader(digits_folder) as reader:
        source = ImageSource(reader, limit=10 * 32 * 32 * 3)
        for row in (*range(50), *range(50)):
            source.image(labelled, row)
        assert reader.reads == 50 + 40


def test_two_threads_that_decode_one_image_take_the_room_of_one(digits_folder: Path, labelled: Rows) -> None:
    with _CountingReader(digits_folder, together=2) as reader:
        source = ImageSource(reader, limit=2 * 32 * 32 * 3)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda row: source.image(labelled, row), (0, 0)))
        for row in (1, 1, 0):
            source.image(labelled, row)
        assert reader.reads == 3


def test_a_jpeg_comes_to_training_as_bytes_and_any_other_image_decoded(
    source: ImageSource, labelled: Rows, tmp_path: Path
) -> None:
    assert isinstance(source.for_training(labelled, 0), np.ndarray)
    with ShardReader(tmp_path) as reader:
        assert ImageSource(reader).for_training(_one(tmp_path, _jpeg()), 0) == _jpeg()


def test_what_evaluation_has_decoded_does_not_change_what_training_gets(tmp_path: Path) -> None:
    rows = _one(tmp_path, _jpeg())
    with ShardReader(tmp_path) as reader:
        source = ImageSource(reader)
        assert np.array_equal(source.image(rows, 0), decode(_jpeg()))
        assert source.for_training(rows, 0) == _jpeg()


def test_a_bad_image_is_told_to_training_by_its_reason_and_ends_an_evaluation(tmp_path: Path) -> None:
    with ShardReader(tmp_path) as reader:
        source, rows = ImageSource(reader), _one(tmp_path, b"no picture")
        with pytest.raises(CorruptImage, match="not an image"):
            source.for_training(rows, 0)
        with pytest.raises(
            StageFailed, match=r"a\.tar: image the-key cannot be read \(not an image of a known format\)"
        ):
            source.image(rows, 0)


def test_a_shard_that_is_cut_short_is_told_to_training_and_ends_an_evaluation(tmp_path: Path) -> None:
    with ShardReader(tmp_path) as reader:
        source, rows = ImageSource(reader), _one(tmp_path, _jpeg(), size=10_000)
        with pytest.raises(ShortShard, match=r"a\.tar: truncated"):
            source.for_training(rows, 0)
        with pytest.raises(StageFailed, match=r"a\.tar: image the-key cannot be read .*truncated"):
            list(eval_batches(source, rows, (8, 1.0), 1))


def test_clean_views_come_in_the_order_of_the_rows_and_the_last_batch_is_short(
    source: ImageSource, labelled: Rows
) -> None:
    some = replace(labelled, offsets=labelled.offsets[:7])
    batches = list(eval_batches(source, some, (24, 0.9), 3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    expected = np.stack([eval_view(source.image(labelled, row), 24, 0.9) for row in range(7)])
    assert np.array_equal(np.concatenate(batches), expected)
