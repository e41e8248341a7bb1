"""An artifact is all of one attempt's files or nothing, whoever writes, dies or damages."""

import json
import logging
import multiprocessing
import shutil
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from ns_core import artifacts
from ns_core.artifacts import (
    Paths,
    commit,
    file_entry,
    find,
    load,
    materialize,
)
from ns_core.errors import StageFailed, UserError
from ns_core.localize import localize
from ns_core.storage import Storage, open_storage
from ns_core.storage.local import LocalStorage
from tests.artifact_builders import FILES, PATHS, committed, contents, flip, record, written

RACERS = 4


class LostReply(LocalStorage):
    """As S3 after a time-out: the create went through, its reply did not, and the retry was refused."""

    def create(self, key: str, data: bytes) -> bool:
        super().create(key, data)
        return False


class Full(LocalStorage):
    """A disk that takes one file and no more."""

    def put_file(self, key: str, path: Path) -> None:
        if list(self.list("")):
            raise OSError(28, "No space left on device", key)
        super().put_file(key, path)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "store"))


def computation(storage: Storage, folder: Path) -> Callable[[], None]:
    """What `materialize` is given: it commits `FILES`."""

    def compute() -> None:
        committed(storage, folder)

    return compute


def attempts(storage: Storage) -> set[str]:
    """Attempts that have files in the store."""
    return {key.split("/")[2] for key in storage.list(PATHS.folder + "/attempt-")}


def test_what_is_committed_is_found_and_localized(storage: Storage, tmp_path: Path) -> None:
    assert find(storage, PATHS) is None
    made = committed(storage, tmp_path / "output")
    assert find(storage, PATHS) == made
    assert made.files == {name: file_entry(tmp_path / "output" / name) for name in FILES}
    assert contents(localize(storage, made, tmp_path / "cache")) == FILES
    assert not (tmp_path / "cache").exists(), "a local store's files are used where they lie"


def test_a_file_entry_is_size_and_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    entry = file_entry(tmp_path / "file")
    assert entry.size == 3
    assert entry.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_output_that_lies_in_the_store_is_committed_in_place(storage: Storage) -> None:
    fresh = record()
    output = storage.local_path(fresh.prefix)
    assert output is not None
    made = commit(storage, fresh, written(output))
    assert find(storage, PATHS) == made
    assert contents(output) == FILES


def test_the_record_is_written_last(tmp_path: Path) -> None:
    class Watching(LocalStorage):
        def create(self, key: str, data: bytes) -> bool:
            assert set(json.loads(data)["files"]) == set(FILES)
            assert {key.split("/", 3)[-1] for key in self.list("")} == set(FILES), "all files are there already"
            return super().create(key, data)

    committed(Watching(tmp_path / "store"), tmp_path / "output")


def test_files_without_a_record_are_no_artifact_and_are_never_read(storage: Storage, tmp_path: Path) -> None:
    stray = storage.local_path(PATHS.attempt("dead"))
    assert stray is not None
    written(stray, {"model.json": b"half of"})
    assert find(storage, PATHS) is None
    made, cached = materialize(storage, PATHS, computation(storage, tmp_path / "output"))
    assert not cached
    assert contents(localize(storage, made, tmp_path / "cache")) == FILES


def test_a_commit_that_breaks_off_leaves_no_artifact(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        committed(Full(tmp_path / "store"), tmp_path / "output")
    assert len(attempts(storage)) == 1
    assert find(storage, PATHS) is None
    assert contents(localize(storage, committed(storage, tmp_path / "output"), tmp_path)) == FILES


def test_an_artifact_that_is_there_is_not_computed_again(storage: Storage, tmp_path: Path) -> None:
    made = committed(storage, tmp_path / "output")
    assert materialize(storage, PATHS, lambda: pytest.fail("it was there")) == (made, True)


def test_a_computation_that_commits_nothing_has_failed(storage: Storage) -> None:
    with pytest.raises(StageFailed, match=f"train-teacher: .*without committing {PATHS.folder}"):
        materialize(storage, PATHS, lambda: None)


HARM: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "file gone": (lambda weights, record: weights.unlink(), "weights/model.safetensors is gone"),
    "file truncated": (
        lambda weights, record: weights.write_bytes(weights.read_bytes()[:-1]),
        "weights/model.safetensors has 10239 bytes instead of 10240",
    ),
    "byte flipped": (lambda weights, record: flip(weights), "weights/model.safetensors has another sha256"),
    "attempt gone": (lambda weights, record: shutil.rmtree(weights.parents[1]), "is gone"),
    "record truncated": (lambda weights, record: record.write_bytes(record.read_bytes()[:-9]), "cannot be read"),
    "record empty": (lambda weights, record: record.write_bytes(b""), "cannot be read"),
    "record not text": (lambda weights, record: record.write_bytes(b"\xff\x00"), "cannot be read"),
    "record of another shape": (lambda weights, record: record.write_text('{"type": "teacher"}'), "cannot be read"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_artifact_is_set_aside_and_computed_again(
    storage: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    made = committed(storage, tmp_path / "output")
    weights = storage.local_path(f"{made.prefix}/weights/model.safetensors")
    standing = storage.local_path(PATHS.record)
    assert weights is not None
    assert standing is not None
    act, words = HARM[harm]
    act(weights, standing)
    harmed = standing.read_bytes()
    with caplog.at_level(logging.WARNING):
        assert find(storage, PATHS) is None
    (line,) = caplog.messages
    assert words in line
    assert line.startswith(f"{PATHS.folder} is damaged (")
    assert "set aside" in line
    assert not standing.exists()
    (aside,) = standing.parent.glob(".artifact.json.damaged-*")
    assert aside.read_bytes() == harmed, "renamed, not changed"
    again, cached = materialize(storage, PATHS, computation(storage, tmp_path / "output"))
    assert not cached
    assert again.attempt != made.attempt
    assert contents(localize(storage, again, tmp_path)) == FILES
    assert find(storage, PATHS) == again


def test_two_that_find_the_same_damage_both_see_nothing(storage: Storage, tmp_path: Path) -> None:
    class Overtaken(LocalStorage):
        def move(self, source: str, target: str) -> None:
            super().move(source, target + "-by-another")
            super().move(source, target)

    made = committed(storage, tmp_path / "output")
    storage.delete(f"{made.prefix}/model.json")
    assert find(Overtaken(tmp_path / "store"), PATHS) is None
    assert find(storage, PATHS) is None


def test_above_the_limit_presence_and_sizes_are_what_is_checked(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = committed(storage, tmp_path / "output")
    weights = storage.local_path(f"{made.prefix}/weights/model.safetensors")
    assert weights is not None
    flip(weights)
    monkeypatch.setattr(artifacts, "DIGEST_LIMIT", sum(len(data) for data in FILES.values()) - 1)
    assert find(storage, PATHS) == made
    weights.write_bytes(b"short")
    assert find(storage, PATHS) is None


def test_fingerprints_that_share_a_folder_are_told_apart(storage: Storage, tmp_path: Path) -> None:
    made = committed(storage, tmp_path / "output")
    other = Paths(PATHS.stage, PATHS.fingerprint[:12] + "d" * 52)
    assert other.folder == PATHS.folder
    for use in (
        lambda: find(storage, other),
        lambda: materialize(storage, other, lambda: None),
        lambda: commit(storage, record(other), tmp_path / "output"),
    ):
        with pytest.raises(UserError, match=r"c{52}, wanted 0123456789abd{52}: .*clash; use another --store"):
            use()
    assert find(storage, PATHS) == made


def test_the_slower_of_two_commits_gets_the_winners_record_and_removes_its_files(
    storage: Storage, tmp_path: Path
) -> None:
    first = committed(storage, tmp_path / "first")
    second = committed(storage, tmp_path / "second", {"model.json": b"another"})
    assert second == first == find(storage, PATHS)
    assert attempts(storage) == {f"attempt-{first.attempt}"}
    assert contents(localize(storage, second, tmp_path)) == FILES


def test_a_create_whose_reply_was_lost_keeps_its_files(tmp_path: Path) -> None:
    storage = LostReply(tmp_path / "store")
    fresh = record()
    made = commit(storage, fresh, written(tmp_path / "output"))
    assert made.attempt == fresh.attempt
    assert find(storage, PATHS) == made
    assert contents(localize(storage, made, tmp_path)) == FILES


def race(uri: str, name: bytes, all_lack_it: Barrier, ended: "SimpleQueue[tuple[str, bool]]") -> None:
    """One racer: a process that finds nothing, as all do, computes files of its own and commits them."""
    storage = open_storage(uri)

    def compute() -> None:
        fresh = record()
        output = storage.local_path(fresh.prefix)
        assert output is not None
        written(output, {f"{number}.bin": name * 1000 for number in range(3)})
        all_lack_it.wait(60)
        commit(storage, fresh, output)

    made, cached = materialize(storage, PATHS, compute)
    ended.put((made.attempt, cached))


def test_processes_that_race_for_one_fingerprint_end_with_one_whole_artifact(storage: Storage, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    all_lack_it, ended = context.Barrier(RACERS), context.SimpleQueue()
    racers = [
        context.Process(target=race, args=(storage.uri, f"racer {number}".encode(), all_lack_it, ended))
        for number in range(RACERS)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0] * RACERS
    winners = {ended.get() for _ in racers}
    standing = find(storage, PATHS)
    assert standing is not None
    assert winners == {(standing.attempt, False)}
    assert attempts(storage) == {f"attempt-{standing.attempt}"}, "the losers' files are gone"
    held = contents(localize(storage, standing, tmp_path))
    assert sorted(held) == ["0.bin", "1.bin", "2.bin"]
    assert len(set(held.values())) == 1, "never a mix of two"


def test_a_record_is_one_line_of_canonical_json(storage: Storage, tmp_path: Path) -> None:
    made = committed(storage, tmp_path / "output")
    text = storage.read(PATHS.record).decode("ascii")
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert load(storage, PATHS) == made
