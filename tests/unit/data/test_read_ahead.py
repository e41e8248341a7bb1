"""What is fetched before it is needed: windows of the joint stream, the next shard of an evaluation."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ns_core.data.image_source import ImageSource
from ns_core.data.loader import Batch, JointLoader, Sampling
from ns_core.data.patience import Patience
from ns_core.data.read_ahead import SequentialAhead
from ns_core.data.reading import ShardReader
from ns_core.data.remote_shard import RemoteShard
from ns_core.data.rows import Rows, Shuffle
from ns_core.data.shard_cache import ShardCache
from ns_core.errors import UserError
from ns_core.storage.local import LocalStorage
from tests.shard_builders import IMAGE_BYTES, Numbered, write_rows

SHARD = 10 * IMAGE_BYTES


class Bucket(LocalStorage):
    """As S3: its files cannot be opened in place. Counts requests."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fetched: list[str] = []
        self.ranges = 0
        self._counting = threading.Lock()

    def local_path(self, key: str) -> Path | None:
        return None

    def fetch(self, key: str, path: Path) -> None:
        with self._counting:
            self.fetched.append(key)
        super().fetch(key, path)

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        with self._counting:
            self.ranges += 1
        return super().read_range(key, offset, length)


class RemoteReader(ShardReader):
    """Every shard lies in `bucket`."""

    def __init__(self, bucket: Bucket, cache: ShardCache) -> None:
        super().__init__(Path("dataset"), {}, cache)
        self._bucket = bucket

    def remote(self, shard: str) -> RemoteShard | None:
        return RemoteShard(self._bucket, shard, shard, 0)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    (tmp_path / "bucket").mkdir()
    return Bucket(tmp_path / "bucket")


@pytest.fixture
def reader(bucket: Bucket, tmp_path: Path) -> Callable[[int], ShardReader]:
    """One whose cache holds so many shards."""
    return lambda shards: RemoteReader(bucket, ShardCache(tmp_path / "cache", shards * SHARD, Patience(deadline=0)))


def _joint(reader: ShardReader, labelled: Rows, pseudo: Rows, window: int) -> JointLoader:
    streams = [(labelled, 5), (pseudo, 15)]
    return JointLoader(ImageSource(reader), Numbered(), streams, Sampling(Shuffle(1, window)))


def _bytes(batches: list[Batch]) -> list[bytes]:
    return [batch.images.tobytes() + "".join(batch.keys).encode() for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
def test_with_windows_each_shard_is_fetched_once_a_pass_into_a_cache_that_holds_two_windows(
    reader: Callable[[int], ShardReader], bucket: Bucket, tmp_path: Path, workers: int
) -> None:
    """6 labelled shards and 18 pseudo ones of 40 images: 48 steps are a pass of both, 5 a window of the latter."""
    labelled, pseudo = (write_rows(tmp_path / "bucket", name, [40] * n) for name, n in (("l", 6), ("p", 18)))
    batches = list(_joint(reader(4 * 8), labelled, pseudo, 2).batches(0, 48, workers))
    local = _joint(ShardReader(tmp_path / "bucket"), labelled, pseudo, 2)
    assert _bytes(batches) == _bytes([local.batch(step) for step in range(48)])
    assert len(bucket.fetched) < 24 + 8, "the window after the last is fetched ahead, too"
    assert len(set(bucket.fetched[:20])) == 20
    assert bucket.ranges == 0


def test_the_window_after_the_one_that_is_read_is_fetched_meanwhile(
    reader: Callable[[int], ShardReader], bucket: Bucket, tmp_path: Path
) -> None:
    labelled, pseudo = (write_rows(tmp_path / "bucket", name, [10] * n) for name, n in (("l", 6), ("p", 18)))
    batches = _joint(reader(8), labelled, pseudo, 2).batches(0, 12, 0)
    next(batches)
    _settle()
    assert len(bucket.fetched) == 8, "all that fits: two windows of each stream, of which the batch needs one"
    batches.close()


def test_a_cache_that_just_holds_a_window_of_each_stream_serves(
    reader: Callable[[int], ShardReader], tmp_path: Path
) -> None:
    labelled, pseudo = (write_rows(tmp_path / "bucket", name, [10] * n) for name, n in (("l", 4), ("p", 12)))
    batches = list(_joint(reader(4), labelled, pseudo, 2).batches(0, 16, 2))
    local = _joint(ShardReader(tmp_path / "bucket"), labelled, pseudo, 2)
    assert _bytes(batches) == _bytes([local.batch(step) for step in range(16)])


def test_windows_that_the_cache_does_not_hold_are_a_persons_mistake(
    reader: Callable[[int], ShardReader], bucket: Bucket, tmp_path: Path
) -> None:
    labelled, pseudo = (write_rows(tmp_path / "bucket", name, [10] * n) for name, n in (("l", 4), ("p", 12)))
    batches = _joint(reader(3), labelled, pseudo, 2).batches(0, 16, 2)
    with pytest.raises(UserError, match=r"compute\.cache_gigabytes=.* window of 2 shards .*lower window_shards"):
        next(batches)
    assert bucket.fetched == []


def test_without_windows_a_data_set_that_fits_is_fetched_once_for_all_passes(
    reader: Callable[[int], ShardReader], bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labelled, pseudo = (write_rows(tmp_path / "bucket", name, [10] * n) for name, n in (("l", 2), ("p", 6)))
    list(_joint(reader(8), labelled, pseudo, 0).batches(0, 12, 2))
    assert sorted(bucket.fetched) == sorted((*labelled.shard_names, *pseudo.shard_names))
    assert (bucket.ranges, caplog.messages) == (0, [])


def test_without_windows_a_stream_that_does_not_fit_is_read_in_ranges_and_it_is_said(
    reader: Callable[[int], ShardReader], bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "noisy_student")
    labelled, pseudo = (write_rows(tmp_path / "bucket", name, [10] * n) for name, n in (("l", 2), ("p", 6)))
    batches = list(_joint(reader(4), labelled, pseudo, 0).batches(0, 4, 2))
    local = _joint(ShardReader(tmp_path / "bucket"), labelled, pseudo, 0)
    assert _bytes(batches) == _bytes([local.batch(step) for step in range(4)])
    assert sorted(bucket.fetched) == sorted(labelled.shard_names)
    assert bucket.ranges == 4 * 15
    (line,) = caplog.messages
    assert "each image is read by a request of its own; with window_shards (64, say)" in line


def test_in_order_a_shard_is_fetched_while_the_one_before_is_read(
    reader: Callable[[int], ShardReader], bucket: Bucket, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "bucket", "l", [10] * 4)
    order = rows.shard_codes.argsort(kind="stable")
    columns = (rows.shard_codes[order], rows.offsets[order], rows.sizes[order])
    with SequentialAhead(reader(2), Rows(rows.shard_names, *columns, rows.keys, rows.targets)) as ahead:
        for row, there in ((0, 2), (9, 2), (10, 3), (35, 4)):
            ahead.at(row)
            _settle()
            assert sorted(bucket.fetched) == list(rows.shard_names[:there])


def _settle() -> None:
    """Until nothing is fetched ahead any more."""
    for thread in threading.enumerate():
        if thread.name == "read-ahead":
            thread.join(60)
