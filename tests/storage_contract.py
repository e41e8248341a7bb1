"""What every store promises, as tests: a back end's test class derives from `StorageContract`.

The derived class gives a `storage` fixture: an empty store, which other processes open by its URI.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from time import time

import pytest

from ns_core.errors import NotFound
from ns_core.storage import Storage, open_storage, probe

RACERS = 4
RACED_KEYS = [f"raced/{number}" for number in range(12)]
ESCAPES = ["../out", "a/../../out", "/etc/out", "a//b", "a/./b", "a/", "", "."]
USES: dict[str, Callable[[Storage, str, Path], object]] = {
    "put_file": lambda storage, key, file: storage.put_file(key, file),
    "take_file": lambda storage, key, file: storage.take_file(key, file),
    "put_bytes": lambda storage, key, file: storage.put_bytes(key, b""),
    "create": lambda storage, key, file: storage.create(key, b""),
    "read": lambda storage, key, file: storage.read(key),
    "read_range": lambda storage, key, file: storage.read_range(key, 0, 1),
    "fetch": lambda storage, key, file: storage.fetch(key, file),
    "size": lambda storage, key, file: storage.size(key),
    "copy_from": lambda storage, key, file: storage.copy(key, "target"),
    "copy_to": lambda storage, key, file: storage.copy("source", key),
    "move_from": lambda storage, key, file: storage.move(key, "target"),
    "move_to": lambda storage, key, file: storage.move("source", key),
    "delete": lambda storage, key, file: storage.delete(key),
    "local_path": lambda storage, key, file: storage.local_path(key),
}
READS = ["read", "read_range", "fetch", "copy_from", "move_from"]


def race(uri: str, name: bytes, start: Barrier, won: "SimpleQueue[dict[str, bytes]]") -> None:
    """One racer: a process of its own that tries to create every key and reports those it won."""
    storage = open_storage(uri)
    start.wait(60)
    won.put({key: name for key in RACED_KEYS if storage.create(key, name)})


class StorageContract:
    def test_what_is_put_is_read_back(self, storage: Storage) -> None:
        storage.put_bytes("stage/0123/.artifact.json", b"record")
        assert storage.read("stage/0123/.artifact.json") == b"record"
        assert storage.size("stage/0123/.artifact.json") == 6

    def test_an_empty_object_is_an_object(self, storage: Storage) -> None:
        storage.put_bytes("empty", b"")
        assert storage.read("empty") == b""
        assert storage.size("empty") == 0
        assert storage.read_range("empty", 0, 0) == b""

    def test_a_later_put_replaces_the_object(self, storage: Storage, tmp_path: Path) -> None:
        storage.put_bytes("key", b"a longer first object")
        storage.put_bytes("key", b"second")
        assert storage.read("key") == b"second"
        (tmp_path / "third").write_bytes(b"third")
        storage.put_file("key", tmp_path / "third")
        assert storage.read("key") == b"third"

    def test_put_file_leaves_its_source_alone(self, storage: Storage, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"shard")
        storage.put_file("key", source)
        source.write_bytes(b"other")
        assert storage.read("key") == b"shard"

    def test_a_file_that_is_taken_is_gone_and_its_object_replaces_what_was(
        self, storage: Storage, tmp_path: Path
    ) -> None:
        storage.put_bytes("a/b", b"old")
        source = tmp_path / "source"
        source.write_bytes(b"taken")
        storage.take_file("a/b", source)
        assert storage.read("a/b") == b"taken"
        assert not source.exists()

    def test_putting_a_file_that_is_not_there_leaves_the_object(self, storage: Storage, tmp_path: Path) -> None:
        storage.put_bytes("key", b"old")
        with pytest.raises(FileNotFoundError):
            storage.put_file("key", tmp_path / "nothing")
        assert storage.read("key") == b"old"

    def test_a_reader_beside_a_writer_sees_old_or_new(self, storage: Storage) -> None:
        versions = [bytes([letter]) * 300_000 for letter in b"abcdef"]

        def write() -> None:
            for data in versions * 3:
                storage.put_bytes("key", data)

        storage.put_bytes("key", versions[0])
        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(write)
            while not writer.done():
                assert storage.read("key") in versions
            writer.result()

    def test_the_first_create_wins_and_its_bytes_stay(self, storage: Storage) -> None:
        assert storage.create("a/key", b"first") is True
        assert storage.create("a/key", b"second") is False
        assert storage.read("a/key") == b"first"

    def test_create_yields_to_a_put_and_wins_again_after_a_delete(self, storage: Storage) -> None:
        storage.put_bytes("key", b"put")
        assert storage.create("key", b"created") is False
        storage.delete("key")
        assert storage.create("key", b"created") is True

    def test_processes_that_race_to_create_have_one_winner_a_key(self, storage: Storage) -> None:
        context = multiprocessing.get_context("spawn")
        start, won = context.Barrier(RACERS), context.SimpleQueue()
        racers = []
        for number in range(RACERS):
            arguments = (storage.uri, f"racer {number}".encode(), start, won)
            racers.append(context.Process(target=race, args=arguments))
            racers[-1].start()
        wins = [win for _ in racers for win in won.get().items()]
        for racer in racers:
            racer.join()
        assert sorted(key for key, _ in wins) == sorted(RACED_KEYS)
        assert {key: storage.read(key) for key in RACED_KEYS} == dict(wins)

    @pytest.mark.parametrize("use", READS)
    def test_reading_what_is_absent_is_not_found_and_leaves_nothing(
        self, storage: Storage, tmp_path: Path, use: str
    ) -> None:
        storage.put_bytes("folder/file", b"data")
        for key in ("absent", "folder", "folder/file/below"):
            with pytest.raises(NotFound):
                USES[use](storage, key, tmp_path / "fetched")
        assert list(tmp_path.glob("**/fetched*")) == []
        assert list(storage.list("")) == ["folder/file"]

    def test_a_version_tells_another_content_of_the_same_size(self, storage: Storage) -> None:
        assert storage.version("a") is None
        storage.put_bytes("a", b"one")
        first = storage.version("a")
        assert first == storage.version("a")
        assert first is not None
        assert first[0] == 3
        storage.put_bytes("a", b"two")
        assert storage.version("a") != first

    def test_size_of_what_is_absent_is_none(self, storage: Storage) -> None:
        storage.put_bytes("folder/file", b"data")
        for key in ("absent", "folder", "folder/file/below"):
            assert storage.size(key) is None

    def test_an_empty_range_of_what_is_absent_is_not_found(self, storage: Storage) -> None:
        with pytest.raises(NotFound):
            storage.read_range("absent", 0, 0)

    def test_a_range_has_exactly_the_bytes_asked_for(self, storage: Storage) -> None:
        storage.put_bytes("key", bytes(range(100)))
        assert storage.read_range("key", 0, 1) == bytes([0])
        assert storage.read_range("key", 40, 20) == bytes(range(40, 60))
        assert storage.read_range("key", 90, 10) == bytes(range(90, 100))
        assert storage.read_range("key", 50, 0) == b""

    @pytest.mark.parametrize(("offset", "length"), [(90, 11), (100, 1), (500, 5)])
    def test_a_range_beyond_the_end_is_an_error_and_never_short(
        self, storage: Storage, offset: int, length: int
    ) -> None:
        storage.put_bytes("key", bytes(100))
        with pytest.raises(OSError, match="key"):
            storage.read_range("key", offset, length)

    def test_fetch_brings_the_object_into_a_file(self, storage: Storage, tmp_path: Path) -> None:
        storage.put_bytes("key", b"new")
        target = tmp_path / "cache" / "file"
        storage.fetch("key", target)
        assert target.read_bytes() == b"new"
        assert list(target.parent.iterdir()) == [target]

    def test_fetch_spares_readers_of_the_old_file(self, storage: Storage, tmp_path: Path) -> None:
        storage.put_bytes("key", b"new")
        target = tmp_path / "file"
        target.write_bytes(b"an older and longer file")
        with target.open("rb") as reader:
            storage.fetch("key", target)
            assert reader.read() == b"an older and longer file"
        assert target.read_bytes() == b"new"

    def test_a_fetch_of_nothing_leaves_the_file(self, storage: Storage, tmp_path: Path) -> None:
        target = tmp_path / "file"
        target.write_bytes(b"old")
        with pytest.raises(NotFound):
            storage.fetch("absent", target)
        assert target.read_bytes() == b"old"
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["file"]

    def test_list_gives_the_keys_of_a_prefix_in_order(self, storage: Storage) -> None:
        keys = ["a-b", "a.b", "a/.artifact.json", "a/b/c", "a/bc", "ab", "b"]
        for key in reversed(keys):
            storage.put_bytes(key, b"")
        assert list(storage.list("")) == keys
        assert list(storage.list("a/")) == ["a/.artifact.json", "a/b/c", "a/bc"]
        assert list(storage.list("a/b")) == ["a/b/c", "a/bc"]
        assert list(storage.list("a")) == keys[:-1]
        assert list(storage.list("nothing/here")) == []

    def test_objects_are_those_of_the_listing_with_sizes_and_the_time_of_the_last_put(self, storage: Storage) -> None:
        for key in ("a/b", "a-b", "c"):
            storage.put_bytes(key, key.encode())
        storage.put_bytes("a/b", b"longer than before")
        assert {(one.key, one.size) for one in storage.objects("")} == {("a/b", 18), ("a-b", 3), ("c", 1)}
        assert [one.key for one in storage.objects("a/")] == ["a/b"]
        assert all(abs(one.modified - time()) < 60 for one in storage.objects(""))

    def test_an_untouched_store_is_empty(self, storage: Storage) -> None:
        assert list(storage.list("")) == []
        assert list(storage.objects("")) == []

    def test_a_copy_is_another_object_over_what_is_there(self, storage: Storage) -> None:
        storage.put_bytes("a/source", b"moved")
        storage.put_bytes("b/target", b"old")
        for _ in range(2):
            storage.copy("a/source", "b/target")
            assert (storage.read("a/source"), storage.read("b/target")) == (b"moved", b"moved")
        storage.put_bytes("a/source", b"changed later")
        assert storage.read("b/target") == b"moved"
        storage.delete("a/source")
        assert storage.read("b/target") == b"moved"
        assert list(storage.list("")) == ["b/target"]

    def test_move_renames_over_what_is_there(self, storage: Storage) -> None:
        storage.put_bytes("a/source", b"new")
        storage.put_bytes("b/target", b"old")
        storage.move("a/source", "b/target")
        assert storage.read("b/target") == b"new"
        assert list(storage.list("")) == ["b/target"]
        storage.move("b/target", "new/folder/target")
        assert list(storage.list("")) == ["new/folder/target"]

    def test_delete_removes_one_object_and_forgives_none(self, storage: Storage) -> None:
        storage.put_bytes("a/b", b"")
        storage.put_bytes("a/c", b"")
        storage.delete("a/b")
        storage.delete("a/b")
        storage.delete("a")
        storage.delete("a/c/d")
        assert list(storage.list("")) == ["a/c"]

    def test_delete_tree_removes_a_folder_and_nothing_beside_it(self, storage: Storage) -> None:
        for key in ("a/b/1", "a/b/c/2", "a/bc", "a/b-", "b/1"):
            storage.put_bytes(key, b"")
        storage.delete_tree("a/b/")
        assert list(storage.list("")) == ["a/b-", "a/bc", "b/1"]
        storage.delete_tree("a/b/")

    @pytest.mark.parametrize("prefix", ["", "/", "a", "../", "a/../"])
    def test_delete_tree_takes_nothing_but_a_folder(self, storage: Storage, prefix: str) -> None:
        storage.put_bytes("a/b", b"")
        with pytest.raises(ValueError, match=r"no folder|no key"):
            storage.delete_tree(prefix)
        assert list(storage.list("")) == ["a/b"]

    @pytest.mark.parametrize("use", USES)
    def test_a_key_that_leaves_the_store_or_is_taken_is_refused(
        self, storage: Storage, tmp_path: Path, use: str
    ) -> None:
        file = tmp_path / "file"
        file.write_bytes(b"")
        for key in (*ESCAPES, ".tmp-taken", "a/.tmp-taken"):
            with pytest.raises(ValueError, match="is no key"):
                USES[use](storage, key, file)

    @pytest.mark.parametrize("prefix", ["../", "a/../../b", "/etc/"])
    def test_a_listing_never_leaves_the_store(self, storage: Storage, prefix: str) -> None:
        with pytest.raises(ValueError, match="is no prefix"):
            storage.list(prefix)
        with pytest.raises(ValueError, match="is no prefix"):
            list(storage.objects(prefix))

    def test_another_process_finds_the_same_store_by_its_uri(self, storage: Storage) -> None:
        storage.put_bytes("key", b"data")
        again = open_storage(storage.uri)
        assert again.uri == storage.uri
        assert again.read("key") == b"data"

    def test_a_good_store_passes_the_probe_and_stays_clean(self, storage: Storage) -> None:
        probe(storage)
        assert list(storage.list("")) == []
