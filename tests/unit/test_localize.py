"""A stage reads local files: the store's own, or copies that were checked."""

from pathlib import Path

import pytest

from ns_core.artifacts import Paths, Record, commit, find
from ns_core.errors import StageFailed
from ns_core.localize import left_in_store, localize
from ns_core.storage import Storage, open_storage
from tests.artifact_builders import FILES, PATHS, committed, contents, flip, record, written
from tests.local_bucket import LocalBucket


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "store"))


def test_files_of_a_bucket_are_copied_once_and_checked(storage: Storage, tmp_path: Path) -> None:
    made = committed(storage, tmp_path / "output")
    bucket = LocalBucket(tmp_path / "store")
    folder = localize(bucket, made, tmp_path / "cache")
    assert contents(folder) == FILES
    assert bucket.fetched == len(FILES)
    assert localize(bucket, made, tmp_path / "cache") == folder
    assert bucket.fetched == len(FILES)
    (folder / "model.json").write_bytes(b"short")
    assert contents(localize(bucket, made, tmp_path / "cache")) == FILES


def _dataset(storage: Storage, folder: Path) -> Record:
    """An artifact of prepare-dataset: two shards and what is small."""
    files = {"index.parquet": b"rows", "classes.json": b"[]", "pool-000000.tar": b"shard 0", "pool-000001.tar": b"1"}
    return commit(storage, record(Paths("prepare-dataset", "d" * 64)), written(folder, files))


def test_the_shards_of_a_dataset_stay_in_the_bucket(storage: Storage, tmp_path: Path) -> None:
    made = _dataset(storage, tmp_path / "output")
    bucket = LocalBucket(tmp_path / "store")
    folder = localize(bucket, made, tmp_path / "cache")
    assert contents(folder) == {"index.parquet": b"rows", "classes.json": b"[]"}
    shards = left_in_store(bucket, made)
    assert shards == {name: made.files[name] for name in ("pool-000000.tar", "pool-000001.tar")}


LARGE = {
    "infer-unlabeled": {"labels-pool-000000.parquet": b"labels 0", "labels-pool-000001.parquet": b"1"},
    "filter-and-balance": {"selected-000000.tar": b"selected 0", "selected-000001.tar": b"1"},
}
"""Of an artifact, by stage: what is read where it lies."""


@pytest.mark.parametrize("stage", LARGE)
def test_labels_and_selected_shards_stay_in_the_bucket(storage: Storage, tmp_path: Path, stage: str) -> None:
    small = {"selection.parquet": b"rows", "metrics.jsonl": b"{}"}
    files = written(tmp_path / "output", {**LARGE[stage], **small})
    made = commit(storage, record(Paths(stage, "e" * 64)), files)
    bucket = LocalBucket(tmp_path / "store")
    assert contents(localize(bucket, made, tmp_path / "cache")) == small
    assert bucket.fetched == len(small)
    assert left_in_store(bucket, made) == {name: made.files[name] for name in LARGE[stage]}
    assert left_in_store(storage, made) == {}
    assert contents(localize(storage, made, tmp_path / "cache")) == {**LARGE[stage], **small}


def test_a_dataset_in_a_local_store_has_no_left_in_store(storage: Storage, tmp_path: Path) -> None:
    made = _dataset(storage, tmp_path / "output")
    assert "pool-000000.tar" in contents(localize(storage, made, tmp_path / "cache"))
    assert left_in_store(storage, made) == {}


def test_a_tar_file_of_another_artifact_is_copied_like_any_other(storage: Storage, tmp_path: Path) -> None:
    made = committed(storage, tmp_path / "output", {"pictures.tar": b"tar"})
    bucket = LocalBucket(tmp_path / "store")
    assert contents(localize(bucket, made, tmp_path / "cache")) == {"pictures.tar": b"tar"}
    assert left_in_store(bucket, made) == {}


def test_a_copy_that_arrives_changed_is_refused_and_its_artifact_set_aside(
    storage: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = committed(storage, tmp_path / "output")
    weights = storage.local_path(f"{made.prefix}/weights/model.safetensors")
    assert weights is not None
    flip(weights)
    bucket = LocalBucket(tmp_path / "store")
    assert find(bucket, PATHS) == made, "in a bucket, looking compares sizes alone"
    with pytest.raises(StageFailed, match=f"{made.prefix} is damaged: run the same command again"):
        localize(bucket, made, tmp_path / "cache")
    assert "weights/model.safetensors arrived with another sha256" in caplog.text
    assert not [path for path in (tmp_path / "cache").rglob("*") if "safetensors" in path.name]
    assert find(bucket, PATHS) is None
    again = committed(bucket, tmp_path / "output")
    assert contents(localize(bucket, again, tmp_path / "cache")) == FILES


def test_a_copy_whose_check_was_cut_off_is_not_trusted(storage: Storage, tmp_path: Path) -> None:
    class CutOff(LocalBucket):
        def fetch(self, key: str, path: Path) -> None:
            super().fetch(key, path)
            flip(path)
            raise KeyboardInterrupt

    made = committed(storage, tmp_path / "output", {"model.json": b"trust me"})
    with pytest.raises(KeyboardInterrupt):
        localize(CutOff(tmp_path / "store"), made, tmp_path / "cache")
    folder = localize(LocalBucket(tmp_path / "store"), made, tmp_path / "cache")
    assert (folder / "model.json").read_bytes() == b"trust me"


def test_two_attempts_do_not_share_their_copies(storage: Storage, tmp_path: Path) -> None:
    first = committed(storage, tmp_path / "first", {"model.json": b"1"})
    localize(LocalBucket(tmp_path / "store"), first, tmp_path / "cache")
    storage.delete(PATHS.record)
    second = committed(storage, tmp_path / "second", {"model.json": b"2"})
    folder = localize(LocalBucket(tmp_path / "store"), second, tmp_path / "cache")
    assert contents(folder) == {"model.json": b"2"}
