"""Copies of shards within a bound: fetched once, kept while needed, and right under any number of threads."""

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ns_core.data.patience import Patience
from ns_core.data.remote_shard import RemoteShard
from ns_core.data.shard_cache import ShardCache
from ns_core.errors import StageFailed, UserError
from ns_core.storage.local import LocalStorage

SIZE = 100
"""Bytes of each shard of `bucket`."""


class Bucket(LocalStorage):
    """As S3: its files cannot be opened in place. Keeps account of what is fetched, and lets it through at `gate`."""

    def __init__(self, root: Path, cache: Path) -> None:
        super().__init__(root)
        self.fetched: list[str] = []
        self.most = 0
        """Bytes in the cache's folder at the most, that of the file being fetched included."""
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Semaphore(0)
        self.errors: list[OSError | UserError] = []
        self._cache, self._counting = cache, threading.Lock()

    def local_path(self, key: str) -> Path | None:
        return None

    def fetch(self, key: str, path: Path) -> None:
        with self._counting:
            self.fetched.append(key)
            self.most = max(self.most, SIZE + sum(size(file) for file in self._cache.iterdir()))
            error = self.errors.pop() if self.errors else None
        self.asked.release()
        assert self.gate.wait(60)
        if error is not None:
            raise error
        super().fetch(key, path)


def size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def content(name: str) -> bytes:
    return random.Random(name).randbytes(SIZE)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    bucket = Bucket(tmp_path / "bucket", tmp_path / "cache")
    for name in "abcdefgh":
        bucket.put_bytes(name, content(name))
    return bucket


@pytest.fixture
def make(tmp_path: Path) -> Callable[[int], ShardCache]:
    """A cache of so many shards."""
    return lambda shards: ShardCache(tmp_path / "cache", shards * SIZE, Patience(deadline=0.0))


@pytest.fixture
def shards(bucket: Bucket) -> dict[str, RemoteShard]:
    return {
        name: RemoteShard(bucket, name, f"{name}.tar", SIZE, hashlib.sha256(content(name)).hexdigest())
        for name in "abcdefgh"
    }


def here(tmp_path: Path) -> set[str]:
    return {file.name.removesuffix(".tar") for file in (tmp_path / "cache").iterdir()}


def read_all(cache: ShardCache, shards: Sequence[RemoteShard]) -> None:
    for shard in shards:
        assert cache.read(shard, 10, 20) == content(shard.key)[10:30]


def settle() -> None:
    """Until nothing is fetched ahead any more."""
    for thread in threading.enumerate():
        if thread.name == "read-ahead":
            thread.join(60)


def test_the_longest_unused_copy_makes_room(
    make: Callable[[int], ShardCache], shards: dict[str, RemoteShard], bucket: Bucket, tmp_path: Path
) -> None:
    cache = make(2)
    read_all(cache, [shards[name] for name in "abac"])
    assert here(tmp_path) == {"a", "c"}
    read_all(cache, [shards[name] for name in "acb"])
    assert bucket.fetched == ["a", "b", "c", "b"]
    assert bucket.most == 2 * SIZE


def test_a_second_pass_reads_what_is_there_also_in_another_process(
    make: Callable[[int], ShardCache], shards: dict[str, RemoteShard], bucket: Bucket
) -> None:
    for cache in (first := make(8), first, make(8)):
        read_all(cache, list(shards.values()))
    assert sorted(bucket.fetched) == list("abcdefgh")


def test_threads_that_want_one_shard_fetch_it_once(
    make: Callable[[int], ShardCache], shards: dict[str, RemoteShard], bucket: Bucket
) -> None:
    bucket.gate.clear()
    cache = make(1)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(cache.read, shards["a"], offset, 10) for offset in range(8)]
        assert bucket.asked.acquire(timeout=60)
        bucket.gate.set()
        assert [answer.result() for answer in answers] == [content("a")[offset:][:10] for offset in range(8)]
    assert bucket.fetched == ["a"]


def test_a_copy_that_is_being_read_stays(
    make: Callable[[int], ShardCache],
    shards: dict[str, RemoteShard],
    bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, pread = make(1), os.pread
    reading, on = threading.Event(), threading.Event()

    def slowly(descriptor: int, size: int, offset: int) -> bytes:
        if not reading.is_set():
            reading.set()
            assert on.wait(60)
            assert here(tmp_path) == {"a"}
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.read, shards["a"], 0, 5)
        assert reading.wait(60)
        second = pool.submit(cache.read, shards["b"], 0, 5)
        on.set()
        assert (first.result(), second.result()) == (content("a")[:5], content("b")[:5])
    assert here(tmp_path) == {"b"}


def test_what_is_planned_is_fetched_in_order_as_far_as_the_bound_allows(
    make: Callable[[int], ShardCache], shards: dict[str, RemoteShard], bucket: Bucket, tmp_path: Path
) -> None:
    cache = make(3)
    read_all(cache, [shards[name] for name in "gh"])
    with cache.plan() as plan:
        plan.want([shards[name] for name in "abcdef"])
        settle()
        assert here(tmp_path) == {"a", "b", "c"}
        assert sorted(bucket.fetched[2:]) == ["a", "b", "c"]
        read_all(cache, [shards[name] for name in "abc"])
        assert len(bucket.fetched) == 5, "nothing was lost before its turn"
        plan.want([shards[name] for name in "cdef"])
        settle()
        assert here(tmp_path) == {"c", "d", "e"}
    assert bucket.most <= 3 * SIZE


def test_a_shard_that_nobody_planned_takes_the_place_of_what_is_needed_last(
    make: Callable[[int], ShardCache], shards: dict[str, RemoteShard], tmp_path: Path
) -> None:
    cache = make(3)
    with cache.plan() as plan:
        plan.want([shards[name] for name in "bca"])
        settle()
        read_all(cache, [shards["h"]])
        assert here(tmp_path) == {"b", "c", "h"}


def test_the_plans_of_two_readers_are_both_kept(
    make: Callable[[int], ShardCache], shards: dict[str, RemoteShard], tmp_path: Path
) -> None:
    cache = make(4)
    with cache.plan() as first, cache.plan() as second:
        first.want([shards[name] for name in "abcd"])
        second.want([shards[name] for name in "gh"])
        settle()
        assert {"a", "g", "b", "h"} <= here(tmp_path)


def test_a_reader_is_served_even_where_the_plans_fill_the_cache(
    make: Callable[[int], ShardCache], shards: dict[str, RemoteShard]
) -> None:
    cache = make(1)
    with cache.plan() as plan:
        plan.want([shards["a"], shards["b"]])
        settle()
        read_all(cache, [shards[name] for name in "bacb"])


def test_a_copy_that_another_process_removed_is_fetched_again(
    make: Callable[[int], ShardCache], shards: dict[str, RemoteShard], bucket: Bucket, tmp_path: Path
) -> None:
    cache = make(2)
    read_all(cache, [shards["a"]])
    (tmp_path / "cache" / "a.tar").unlink()
    read_all(cache, [shards["a"]])
    assert bucket.fetched == ["a", "a"]


def test_two_processes_keep_to_the_bound_together(
    make: Callable[[int], ShardCache], shards: dict[str, RemoteShard], bucket: Bucket, tmp_path: Path
) -> None:
    one, other = make(3), make(3)
    read_all(one, [shards[name] for name in "abc"])
    read_all(other, [shards[name] for name in "de"])
    read_all(one, [shards["f"]])
    assert len(here(tmp_path)) == 3
    assert bucket.most == 3 * SIZE


@pytest.mark.parametrize("damage", [content("b"), content("a")[:-1], content("a") + b"x"])
def test_a_shard_that_is_not_the_recorded_one_is_refused_and_leaves_nothing(
    make: Callable[[int], ShardCache], shards: dict[str, RemoteShard], bucket: Bucket, tmp_path: Path, damage: bytes
) -> None:
    bucket.put_bytes("a", damage)
    with pytest.raises(StageFailed, match=f"{bucket.uri}/a holds other bytes than recorded: delete {bucket.uri} and"):
        make(2).read(shards["a"], 0, 1)
    assert here(tmp_path) == set()


def test_a_persons_own_shard_is_as_large_as_the_store_says(
    make: Callable[[int], ShardCache], bucket: Bucket, tmp_path: Path
) -> None:
    cache = make(2)
    read_all(cache, [RemoteShard(bucket, name, name, size=30) for name in "abc"])
    assert here(tmp_path) == {"b", "c"}


def test_a_shard_larger_than_the_bound_names_the_setting(tmp_path: Path, shards: dict[str, RemoteShard]) -> None:
    cache = ShardCache(tmp_path / "cache", SIZE - 1, Patience())
    with pytest.raises(UserError, match=r"compute\.cache_gigabytes=.* raise it"):
        cache.read(shards["a"], 0, 1)


def test_a_failure_reaches_all_who_wait_and_the_next_reader_tries_again(
    make: Callable[[int], ShardCache], shards: dict[str, RemoteShard], bucket: Bucket
) -> None:
    bucket.errors.append(UserError("no access"))
    bucket.gate.clear()
    cache = make(1)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(cache.read, shards["a"], 0, 10) for _ in range(4)]
        assert bucket.asked.acquire(timeout=60)
        while cache._flights["a.tar"].readers < 4:
            time.sleep(0)
        bucket.gate.set()
        assert [str(answer.exception()) for answer in answers] == ["no access"] * 4
    read_all(cache, [shards["a"]])
    assert bucket.fetched == ["a", "a"]


def test_a_failure_ahead_is_left_to_whoever_needs_the_shard(
    make: Callable[[int], ShardCache], shards: dict[str, RemoteShard], bucket: Bucket
) -> None:
    bucket.errors += [OSError("reset by peer")] * 2
    cache = make(3)
    with cache.plan() as plan:
        plan.want([shards["a"]])
        settle()
        assert bucket.fetched == ["a"], "it is not tried again and again"
        with pytest.raises(StageFailed, match="no answer for 0 s: reset by peer"):
            cache.read(shards["a"], 0, 1)
        read_all(cache, [shards["a"]])


def test_half_copies_of_processes_that_are_gone_are_cleared_away(
    make: Callable[[int], ShardCache], shards: dict[str, RemoteShard], tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    for name, age in ((".old", 7200), (".tmp-old", 7200), (".new", 60)):
        file = tmp_path / "cache" / name
        file.write_bytes(b"half")
        os.utime(file, (time.time() - age,) * 2)
    read_all(make(2), [shards["a"]])
    assert here(tmp_path) == {"a", ".new"}


def test_many_threads_with_plans_of_their_own_read_right_bytes_within_the_bound(
    make: Callable[[int], ShardCache], shards: dict[str, RemoteShard], bucket: Bucket
) -> None:
    cache = make(3)

    def work(seed: int) -> None:
        draw = random.Random(seed)
        with cache.plan() as plan:
            for _ in range(60):
                plan.want([shards[name] for name in draw.sample("abcdefgh", 4)])
                name, offset = draw.choice("abcdefgh"), draw.randrange(SIZE - 10)
                assert cache.read(shards[name], offset, 10) == content(name)[offset : offset + 10]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    settle()
    assert bucket.most <= 3 * SIZE


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "a person's own"])
def test_a_copy_that_a_crash_cut_short_is_fetched_again_whichever_shard_comes_first(
    make: Callable[[int], ShardCache],
    shards: dict[str, RemoteShard],
    bucket: Bucket,
    tmp_path: Path,
    recorded: bool,
) -> None:
    known = shards if recorded else {name: replace(shard, sha256="") for name, shard in shards.items()}
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "b.tar").write_bytes(content("b")[: SIZE // 2])
    read_all(make(4), [known[name] for name in "abab"])
    assert bucket.fetched == ["a", "b"]
    assert (tmp_path / "cache" / "b.tar").read_bytes() == content("b")
