"""The joint stream from a real S3 server: the bytes of local files, also when the server dies or its answers break."""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from ns_core import worker
from ns_core.artifacts import Paths, find
from ns_core.data.image_source import ImageSource
from ns_core.data.loader import Batch, JointLoader, Sampling
from ns_core.data.patience import Patience
from ns_core.data.reading import ShardReader
from ns_core.data.rows import Rows, Shuffle
from ns_core.data.shard_cache import ShardCache
from ns_core.storage import open_storage
from tests.faulty_proxy import FAULTS, FaultyProxy
from tests.integration.conftest import lead_to
from tests.seaweedfs import BUCKET, SeaweedFS
from tests.shard_builders import Numbered, write_rows
from tests.worker_specs import digits_spec, teacher_spec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

IMAGES, IMAGE_BYTES = 30, 1000
LABELLED, PSEUDO, RATIO, BATCH = 8, 24, 3, 12
"""Shards of `IMAGES` images: 240 labelled and 720 pseudo-labelled ones, 20 steps a pass of both."""
STEPS = 20
OUTAGE_S = 10.0


@pytest.fixture
def rows(tmp_path: Path) -> list[Rows]:
    """The labelled and the pseudo stream, their shards below `tmp_path / "mine"`."""
    (tmp_path / "mine").mkdir()
    streams = []
    for name, count in (("labelled", LABELLED), ("pseudo", PSEUDO)):
        columns = write_rows(tmp_path / "mine", name, [IMAGES] * count, image_size=IMAGE_BYTES)
        streams.append(replace(columns, shard_names=tuple(f"unlabeled/{shard}" for shard in columns.shard_names)))
    return streams


@pytest.fixture
def local(rows: list[Rows], tmp_path: Path) -> list[bytes]:
    """A pass read from the local files."""
    return read(joint(rows, ShardReader(tmp_path, {"unlabeled": str(tmp_path / "mine")}), 2))


def joint(rows: list[Rows], reader: ShardReader, window: int) -> JointLoader:
    streams = list(zip(rows, (BATCH, BATCH * RATIO), strict=True))
    return JointLoader(ImageSource(reader), Numbered(), streams, Sampling(Shuffle(3, window)))


def read(loader: JointLoader) -> list[bytes]:
    return [told(batch) for batch in loader.batches(0, STEPS, 2)]


def told(batch: Batch) -> bytes:
    """Everything that a batch holds."""
    assert not batch.bad
    return json.dumps([batch.step, batch.keys]).encode() + batch.images.tobytes() + batch.targets.tobytes()


def uploaded(folder: Path, uri: str) -> str:
    storage = open_storage(uri)
    for file in folder.iterdir():
        storage.put_file(file.name, file)
    return uri


def remote(tmp_path: Path, uri: str, shards: int) -> ShardReader:
    """A reader whose cache holds so many shards."""
    cache = ShardCache(tmp_path / "cache", shards * IMAGES * IMAGE_BYTES, Patience(deadline=60.0))
    return ShardReader(tmp_path, {"unlabeled": uri}, cache)


def cached(tmp_path: Path) -> int:
    total = 0
    for file in (tmp_path / "cache").iterdir():
        with suppress(FileNotFoundError):  # renamed or removed a moment ago
            total += file.stat().st_size
    return total


def test_a_pass_through_a_cache_smaller_than_the_data_is_that_of_local_files(
    rows: list[Rows], local: list[bytes], s3_store_uri: str, tmp_path: Path
) -> None:
    """32 shards through room for 8, two windows of two shards of each stream."""
    uri = uploaded(tmp_path / "mine", s3_store_uri)
    seen = []
    for batch in joint(rows, remote(tmp_path, uri, 8), 2).batches(0, STEPS, 2):
        seen.append(told(batch))
        assert cached(tmp_path) <= 8 * IMAGES * IMAGE_BYTES
    assert seen == local


def test_a_server_that_is_killed_and_back_after_10_s_costs_time_and_no_byte(
    rows: list[Rows], local: list[bytes], mortal_s3: SeaweedFS, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "noisy_student")
    uri = uploaded(tmp_path / "mine", f"s3://{BUCKET}/run")
    seen, again = [], threading.Timer(OUTAGE_S, mortal_s3.start)
    for batch in joint(rows, remote(tmp_path, uri, 8), 2).batches(0, STEPS, 2):
        seen.append(told(batch))
        if batch.step == STEPS // 3:
            mortal_s3.kill()
            again.start()
    again.join()
    assert seen == local
    away, back = caplog.messages
    assert away.startswith(f"s3://{BUCKET}/run/")
    assert "trying again for up to 60 s" in away
    assert float(back.removeprefix("the server is back after ").removesuffix(" s")) >= OUTAGE_S / 2


@pytest.fixture
def proxy(s3_store_uri: str, s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """In front of the session's server; not in the way of clients until `lead_to`."""
    port = urlsplit(s3_server["AWS_ENDPOINT_URL_S3"]).port
    assert port is not None
    with FaultyProxy(port, seed=1, often=0.1) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


@pytest.mark.parametrize(("window", "shards"), [(2, 8), (0, 4)], ids=["whole shards", "ranges"])
def test_resets_503s_and_bodies_cut_short_cost_time_and_no_byte(
    rows: list[Rows],
    s3_store_uri: str,
    s3_server: dict[str, str],
    proxy: FaultyProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    window: int,
    shards: int,
) -> None:
    uri = uploaded(tmp_path / "mine", s3_store_uri)
    lead_to({**s3_server, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{proxy.server_port}"}, monkeypatch)
    local = joint(rows, ShardReader(tmp_path, {"unlabeled": str(tmp_path / "mine")}), window)
    steps = STEPS if window else 3
    seen = [told(batch) for batch in joint(rows, remote(tmp_path, uri, shards), window).batches(0, steps, 4)]
    assert seen == [told(local.batch(step)) for step in range(steps)]
    assert all(proxy.faults[fault] for fault in FAULTS), proxy.faults


def test_a_worker_trains_on_a_dataset_in_a_bucket_as_on_a_local_one(
    s3_store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shards are not among the input's files: they come through the cache, as they are needed."""
    monkeypatch.setenv("NS_CACHE", str(tmp_path / "cache"))
    weights = []
    for store in (str(tmp_path / "store"), s3_store_uri):
        dataset = digits_spec(store, holdout_images=50, shard_images=100)
        worker.run(dataset, lambda: False)
        record = worker.run(teacher_spec(dataset), lambda: False)
        assert record.result["bad_images"] == 0
        weights.append(record.files["model.safetensors"])
    assert weights[0] == weights[1]
    made = find(open_storage(s3_store_uri), Paths(dataset.stage, dataset.fingerprint))
    assert made is not None
    folder = tmp_path / "cache" / made.paths.folder / made.attempt
    assert (folder / "index.parquet").exists()
    assert not list(folder.glob("*.tar"))
    copies = {file.stat().st_size for file in (tmp_path / "cache" / "shards").iterdir()}
    shards = {name: entry.size for name, entry in made.files.items() if name.endswith(".tar")}
    assert copies == {size for name, size in shards.items() if name.startswith(("labeled", "holdout"))}
    assert np.sum(list(shards.values())) > sum(copies), "those of the pool are not needed and were not fetched"
