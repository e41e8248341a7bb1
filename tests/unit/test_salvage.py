"""Of an artifact that was set aside, whole files alone are taken over."""

from pathlib import Path

import pytest

from ns_core.artifacts import FileEntry, Paths, Record, file_entry, find, set_aside
from ns_core.resume import Adopted
from ns_core.salvage import whole_files
from ns_core.storage import Storage, open_storage
from tests.artifact_builders import FILES, PATHS, committed, flip, record
from tests.local_bucket import LocalBucket

WEIGHTS = "weights/model.safetensors"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "store"))


def file_of(storage: Storage, made: Record, name: str) -> Path:
    path = storage.local_path(f"{made.prefix}/{name}")
    assert path is not None
    return path


def test_a_file_whose_bytes_changed_is_left_and_the_others_are_found(storage: Storage, tmp_path: Path) -> None:
    made = committed(storage, tmp_path / "output")
    flip(file_of(storage, made, WEIGHTS))
    assert find(storage, PATHS) is None
    found = whole_files(storage, PATHS)
    assert found.keys() == FILES.keys() - {WEIGHTS}
    entry = made.files["model.json"]
    assert found["model.json"] == Adopted("model.json", entry.size, entry.sha256, f"attempt-{made.attempt}")


def test_what_is_found_is_where_it_says_it_is(storage: Storage, tmp_path: Path) -> None:
    made = committed(storage, tmp_path / "output")
    set_aside(storage, PATHS, "for this test")
    for name, file in whole_files(storage, PATHS).items():
        path = storage.local_path(f"{PATHS.folder}/{file.folder}/{file.saved}")
        assert path is not None
        assert file_entry(path) == made.files[name]
        assert (file.size, file.sha256) == (made.files[name].size, made.files[name].sha256)


def test_a_file_that_is_gone_or_of_another_size_is_left(storage: Storage, tmp_path: Path) -> None:
    made = committed(storage, tmp_path / "output")
    file_of(storage, made, WEIGHTS).unlink()
    file_of(storage, made, "model.json").write_bytes(b"longer than it was")
    assert find(storage, PATHS) is None
    assert whole_files(storage, PATHS).keys() == {"empty"}


def test_what_one_damaged_attempt_lacks_another_has(storage: Storage, tmp_path: Path) -> None:
    attempts = {}
    for name in (WEIGHTS, "model.json"):
        made = committed(storage, tmp_path / name)
        flip(file_of(storage, made, name))
        assert find(storage, PATHS) is None
        attempts[name] = f"attempt-{made.attempt}"
    found = whole_files(storage, PATHS)
    assert found.keys() == FILES.keys()
    assert found["model.json"].folder == attempts[WEIGHTS]
    assert found[WEIGHTS].folder == attempts["model.json"]


def test_a_record_that_stands_has_nothing_to_salvage(storage: Storage, tmp_path: Path) -> None:
    assert whole_files(storage, PATHS) == {}
    committed(storage, tmp_path / "output")
    assert whole_files(storage, PATHS) == {}


def test_a_record_that_cannot_be_read_names_no_files(storage: Storage, tmp_path: Path) -> None:
    committed(storage, tmp_path / "output")
    set_aside(storage, PATHS, "for this test")
    storage.put_bytes(f"{PATHS.record}.damaged-{'0' * 12}", b'{"type": "teacher"')
    storage.put_bytes(f"{PATHS.record}.damaged-{'f' * 12}", b"\xff\xfe")
    assert whole_files(storage, PATHS).keys() == FILES.keys()


def test_files_of_another_fingerprint_in_the_same_folder_are_not_taken(storage: Storage, tmp_path: Path) -> None:
    other = Paths(PATHS.stage, PATHS.fingerprint[:12] + "d" * 52)
    made = committed(storage, tmp_path / "output")
    foreign = made.model_copy(update={"fingerprint": other.fingerprint})
    assert foreign.prefix == made.prefix
    storage.put_bytes(f"{PATHS.record}.damaged-{'0' * 12}", foreign.model_dump_json().encode())
    assert whole_files(storage, PATHS) == {}
    assert whole_files(storage, other).keys() == FILES.keys()


def test_a_record_whose_files_are_all_gone_gives_nothing(storage: Storage) -> None:
    lost = record().model_copy(update={"files": {"model.json": FileEntry(size=3, sha256="0" * 64)}})
    storage.put_bytes(f"{PATHS.record}.damaged-{'0' * 12}", lost.model_dump_json().encode())
    assert whole_files(storage, PATHS) == {}


def test_a_bucket_which_checks_its_own_bytes_is_trusted_by_size(storage: Storage, tmp_path: Path) -> None:
    made = committed(storage, tmp_path / "output")
    flip(file_of(storage, made, WEIGHTS))
    file_of(storage, made, "model.json").write_bytes(b"short")
    set_aside(storage, PATHS, "for this test")
    assert whole_files(LocalBucket(tmp_path / "store"), PATHS).keys() == FILES.keys() - {"model.json"}
