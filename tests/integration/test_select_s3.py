"""filter-and-balance on labels in a real S3 server: the files of a local run, and of the labels only what is needed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ns_core import worker
from ns_core.artifacts import Paths, Record, commit
from ns_core.config import SelectConfig
from ns_core.launch.spec import InputReference
from ns_core.storage import open_storage
from ns_core.storage.s3 import S3Storage
from tests.artifact_builders import record
from tests.pool_tables import labelled, write_dataset, write_labels, write_shards
from tests.worker_specs import spec_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CLASSES, SHARD, SHARDS = 500, 1500, 6
CONFIG = SelectConfig(threshold=0.5, per_class=3, max_copies=3, seed=2)
INPUTS = {
    "dataset": InputReference(stage="prepare-dataset", fingerprint="a" * 64),
    "pseudo_labels": InputReference(stage="infer-unlabeled", fingerprint="b" * 64),
}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """The files of both inputs: of six shards only the third has images that the teacher is sure of."""
    count = SHARD * SHARDS
    random = np.random.default_rng(0)
    images = write_shards(tmp_path / "dataset", count, SHARD)
    sure = np.arange(count) // SHARD == 2
    confidence = np.where(sure, 0.5 + random.random(count) / 2, random.random(count) / 2).astype(np.float32)
    labels = labelled(images, random.integers(0, CLASSES, count).astype(np.int32), confidence, CLASSES)
    for name in ("probabilities", "embedding"):
        values = pa.FixedSizeListArray.from_arrays(pa.array(random.random(count * CLASSES).astype(np.float16)), CLASSES)
        place = labels.schema.get_field_index(name)
        labels = labels.append_column(name, values) if place < 0 else labels.set_column(place, name, values)
    return {
        "dataset": write_dataset(tmp_path / "dataset", images, CLASSES, SHARD),
        "pseudo_labels": write_labels(tmp_path / "labels", labels, SHARD),
    }


def _selected(store: str, folders: dict[str, Path], config: SelectConfig) -> Record:
    """The artifact that a worker makes in a store that holds both inputs."""
    for name, reference in INPUTS.items():
        commit(open_storage(store), record(Paths(reference.stage, reference.fingerprint)), folders[name])
    made = worker.run(spec_of(config, store, INPUTS, {}), lambda: False)
    assert made is not None
    return made


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes that are read from S3 by the range, by key."""
    counts = dict[str, int]()

    def counting(read: Callable[[S3Storage, str, int, int], bytes]) -> Callable[[S3Storage, str, int, int], bytes]:
        def counted(storage: S3Storage, key: str, offset: int, length: int) -> bytes:
            counts[key] = counts.get(key, 0) + length
            return read(storage, key, offset, length)

        return counted

    monkeypatch.setattr(S3Storage, "read_range", counting(S3Storage.read_range))
    return counts


@pytest.mark.parametrize("change", [{}, {"confidence": "calibrated"}, {"materialize": True, "shard_megabytes": 1}])
def test_labels_in_a_bucket_give_the_files_that_local_ones_give(
    folders: dict[str, Path],
    s3_store_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
) -> None:
    monkeypatch.setenv("NS_CACHE", str(tmp_path / "cache"))
    config = CONFIG.model_copy(update=change)
    local, remote = (_selected(store, folders, config) for store in (str(tmp_path / "store"), s3_store_uri))
    assert remote.files == local.files
    assert remote.result == local.result
    assert int(str(remote.result["kept"])) > 500
    assert any(name.endswith(".tar") for name in remote.files) == config.materialize


def test_of_labels_in_a_bucket_only_columns_are_fetched_that_are_needed_and_only_where_something_is_kept(
    folders: dict[str, Path],
    s3_store_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fetched: dict[str, int],
) -> None:
    monkeypatch.setenv("NS_CACHE", str(tmp_path / "cache"))
    _selected(s3_store_uri, folders, CONFIG)
    sizes = [file.stat().st_size for file in sorted(folders["pseudo_labels"].iterdir())]
    of_labels = [fetched[key] for key in sorted(fetched) if "/labels-" in key]
    assert len(of_labels) == SHARDS == len(sizes)
    for number, (read, size) in enumerate(zip(of_labels, sizes, strict=True)):
        assert read < (0.8 if number == 2 else 0.3) * size, (number, read, size)
    assert not list((tmp_path / "cache").rglob("labels-*"))
