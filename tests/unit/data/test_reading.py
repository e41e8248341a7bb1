"""Reading by shard, offset and size: from the dataset's folder, a person's own, and from a store."""

import gc
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import pytest
from psutil import Process

from ns_core.data import reading
from ns_core.data.patience import Patience
from ns_core.data.reading import ShardReader
from ns_core.data.remote_shard import RemoteShard, ShortShard
from ns_core.data.shard_cache import ShardCache
from ns_core.errors import UserError
from tests.scripted_s3 import ScriptedS3


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(tmp_path / "cache", 1000, Patience())


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
    monkeypatch.setattr(reading, "_OPEN_SHARDS", 2)
    gc.collect()  # or files that earlier tests left to it are closed in the middle of this one
    before = Process().num_fds()
    for number in range(16):
        (tmp_path / f"{number}").write_bytes(bytes([number]) * 1000)
    wanted = [(f"{number * 7 % 16}", number % 900) for number in range(4000)]
    with ShardReader(tmp_path) as reader, ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda place: reader.read(place[0], place[1], 100), wanted)
        for (shard, _), data in zip(wanted, results, strict=True):
            assert data == bytes([int(shard)]) * 100
        assert Process().num_fds() <= before + 8
    assert Process().num_fds() <= before


def test_shards_of_a_persons_own_are_found_below_their_field(tmp_path: Path) -> None:
    for name in ("dataset", "mine/2024", "pool"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "dataset" / "000.tar").write_bytes(b"ours")
    (tmp_path / "mine" / "2024" / "000.tar").write_bytes(b"mine")
    (tmp_path / "pool" / "000.tar").write_bytes(b"pool")
    places = {"labeled": str(tmp_path / "mine"), "unlabeled": (tmp_path / "pool").as_uri()}
    with ShardReader(tmp_path / "dataset", places) as reader:
        assert reader.read("000.tar", 0, 4) == b"ours"
        assert reader.read("labeled/2024/000.tar", 0, 4) == b"mine"
        assert reader.read("unlabeled/000.tar", 0, 4) == b"pool"
        assert reader.remote("labeled/2024/000.tar") is None
        with pytest.raises(FileNotFoundError, match=f"{tmp_path}/mine/gone.tar"):
            reader.read("labeled/gone.tar", 0, 1)


def test_a_field_without_a_place_is_a_persons_mistake(tmp_path: Path) -> None:
    with ShardReader(tmp_path) as reader, pytest.raises(UserError, match=r"set data\.holdout"):
        reader.read("holdout/000.tar", 0, 1)


def test_shards_in_a_store_are_read_from_copies_fetched_once(
    server: ScriptedS3, cache: ShardCache, tmp_path: Path
) -> None:
    server.objects["/bucket/run/attempt-1/pool-000000.tar"] = b"0123456789"
    server.objects["/bucket/mine/a/000.tar"] = b"abcdefghij"
    places = {"": "s3://bucket/run/attempt-1", "unlabeled": "s3://bucket/mine"}
    with ShardReader(tmp_path, places, cache) as reader:
        assert [reader.read("pool-000000.tar", first, 2) for first in (0, 8)] == [b"01", b"89"]
        assert reader.read("unlabeled/a/000.tar", 3, 3) == b"def"
        with pytest.raises(ShortShard, match=r"s3://bucket/mine/a/000\.tar: truncated, 1 of 2 bytes at offset 9"):
            reader.read("unlabeled/a/000.tar", 9, 2)
        with pytest.raises(UserError, match=r"s3://bucket/mine/gone\.tar is gone"):
            reader.read("unlabeled/gone.tar", 0, 1)
    server.objects.clear()
    again = ShardCache(tmp_path / "cache", 1000, Patience())
    with ShardReader(tmp_path, places, again) as reader:
        assert reader.read("pool-000000.tar", 4, 2) == b"45"


def test_a_dataset_that_was_prepared_anew_does_not_read_the_copies_of_the_one_before(
    server: ScriptedS3, cache: ShardCache, tmp_path: Path
) -> None:
    for attempt, data in enumerate((b"old", b"new")):
        server.objects["/bucket/mine/000.tar"] = data
        with ShardReader(tmp_path / f"attempt-{attempt}", {"labeled": "s3://bucket/mine"}, cache) as reader:
            assert reader.read("labeled/000.tar", 0, 3) == data


def test_what_the_record_says_of_the_datasets_own_shards_is_handed_on(tmp_path: Path, cache: ShardCache) -> None:
    recorded = {"000.tar": (10, "f" * 64)}
    with ShardReader(tmp_path, {"": "s3://bucket/run"}, cache, recorded) as reader:
        own, other = reader.remote("000.tar"), reader.remote("001.tar")
    assert isinstance(own, RemoteShard)
    assert isinstance(other, RemoteShard)
    assert (own.size, own.sha256, own.uri) == (10, "f" * 64, "s3://bucket/run/000.tar")
    assert (other.size, other.sha256) == (0, "")
    assert own.name != other.name


def test_shards_read_in_ranges_leave_no_copy(server: ScriptedS3, cache: ShardCache, tmp_path: Path) -> None:
    server.objects["/bucket/mine/000.tar"] = b"0123456789"
    with ShardReader(tmp_path, {"labeled": "s3://bucket/mine"}, cache) as reader:
        reader.read_in_ranges(["labeled/000.tar", "labeled/gone.tar"])
        assert reader.read("labeled/000.tar", 4, 3) == b"456"
        with pytest.raises(ShortShard, match=r"s3://bucket/mine/000\.tar: truncated, 2 of 3 bytes at offset 8"):
            reader.read("labeled/000.tar", 8, 3)
        with pytest.raises(UserError, match="is gone"):
            reader.read("labeled/gone.tar", 0, 1)
    assert not (tmp_path / "cache").exists()
