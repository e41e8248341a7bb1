"""Training batches: our loader beside timm's and webdataset's, from the same JPEGs, with the same augmentation.

    python -m benchmarks.loader                about 8 minutes on 2 cores

4,800 JPEGs of 500 x 400 pixels become 224-pixel training batches of 64: random resized crop, flip, RandAugment
(two operations at magnitude 9). Each side has both cores: two loader processes for the peers, as their
documentation has it, two threads for ours. Nothing trains; batches are counted and dropped. A pass begins to
count after four batches, so that neither the start of processes nor what they made ahead is on anybody's account.

    timm          `create_loader` on an ImageFolder, with its prefetcher (the default) and without
    webdataset    the pipeline of its documentation, torchvision's transforms, from our shards
    ours          `JointLoader`, 16 labelled and 48 unlabelled images a batch, from the same shards, and from
                  shards whose images `prepare` shrank to a short side of 256

RandAugment applies both operations to each image (Cubuk et al. 2020), as ours does; timm is told so by `p1`. By
default it leaves out each with probability 0.5, which is less work: `timm_p05`, reported beside.

Then two parts on their own, in CPU seconds, on shards as img2dataset writes them (1,000 samples of jpg, txt and
json): fetching samples (index and `pread` in random order against webdataset's iteration) and indexing (`scan_tar`
against tarfile).

The last line of standard output is one JSON object.
"""

import json
import os
import tarfile
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: loader processes inherit it

import cv2
import numpy as np
import torch
import webdataset
from timm.data import create_dataset, create_loader
from torchvision import transforms

from benchmarks.measure import Variant, environment, medians, ratio, rounds
from benchmarks.photographs import write_photographs
from benchmarks.prepared import files_of, prepare
from ns_core.data.image_source import ImageSource
from ns_core.data.index import DatasetIndex
from ns_core.data.loader import JointLoader, Sampling
from ns_core.data.randaugment import RandAugment
from ns_core.data.reading import ShardReader
from ns_core.data.rows import OneHot, Shuffle, rows_of
from ns_core.data.tars import scan_tar
from ns_core.data.transforms import TrainView

LABELLED, UNLABELLED, CLASSES = 1200, 3600, 8
SIZE, BATCH, RATIO, WORKERS = 224, 64, 3, 2
ROUNDS = 5
TIMM_AUGMENT = "rand-m9-n2"
FLOORS = {
    "ours_over_timm": 3.0,
    "repacked_over_timm": 5.0,
    "ours_over_webdataset": 2.5,
    "fetch_over_webdataset": 6.0,
    "scan_over_tarfile": 8.0,
}


def main() -> None:
    """Makes the images and the shards, measures, prints."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory(prefix="loader-") as name:
        folder = Path(name)
        write_photographs(folder / "images" / "labeled", LABELLED, CLASSES, seed=1)
        write_photographs(folder / "images" / "unlabeled", UNLABELLED, CLASSES, seed=2)
        plain = ["data.shard_images=600", "data.near_duplicates=false", "data.test_fraction=0.02"]
        plain.append("data.holdout_fraction=0.02")
        dataset = files_of(prepare(folder / "images", folder / "home", *plain))
        repacked = files_of(prepare(folder / "images", folder / "home", *plain, "data.resize=256"))
        rates = rounds(_loaders(folder / "images", dataset, repacked), ROUNDS)
        parts = rounds(_parts(_foreign(folder / "foreign", folder / "images")), 2 * ROUNDS)
    ratios = {
        "ours_over_timm": ratio(rates["ours"], rates["timm"]),
        "ours_over_timm_without_prefetcher": ratio(rates["ours"], rates["timm_without_prefetcher"]),
        "ours_over_timm_p05": ratio(rates["ours"], rates["timm_p05"]),
        "repacked_over_timm": ratio(rates["repacked"], rates["timm"]),
        "repacked_over_timm_p05": ratio(rates["repacked"], rates["timm_p05"]),
        "ours_over_webdataset": ratio(rates["ours"], rates["webdataset"]),
        "fetch_over_webdataset": ratio(parts["fetch"], parts["webdataset_iterate"]),
        "scan_over_tarfile": ratio(parts["scan"], parts["tarfile"]),
    }
    figures = {"a_second": {**medians(rates), **medians(parts)}, "floors": FLOORS}
    packages = ("timm", "torch", "torchvision", "webdataset", "pillow", "opencv-python-headless", "simplejpeg")
    answer = {"benchmark": "loader", "ratios": ratios, "figures": figures, "environment": environment(*packages)}
    print(json.dumps(answer))


def _loaders(images: Path, dataset: Path, repacked: Path) -> dict[str, Variant]:
    return {
        "timm": lambda: _timed(_timm(images, f"{TIMM_AUGMENT}-p1", prefetcher=True)),
        "timm_p05": lambda: _timed(_timm(images, TIMM_AUGMENT, prefetcher=True)),
        "timm_without_prefetcher": lambda: _timed(_timm(images, f"{TIMM_AUGMENT}-p1", prefetcher=False)),
        "webdataset": lambda: _timed(_webdataset(dataset)),
        "ours": lambda: _timed(_ours(dataset)),
        "repacked": lambda: _timed(_ours(repacked)),
    }


def _timed(batches: Iterable[int]) -> tuple[int, float]:
    """Images after the first batches, and the seconds they took."""
    sizes = iter(batches)
    for _ in range(2 * WORKERS):
        next(sizes)
    started = time.perf_counter()
    count = sum(sizes)
    return count, time.perf_counter() - started


def _timm(images: Path, augment: str, prefetcher: bool) -> Iterator[int]:
    """timm's loader as its train script makes it: crops interpolated bilinearly or bicubically at random."""
    loader = create_loader(
        create_dataset("folder", root=str(images), is_training=True),
        input_size=(3, SIZE, SIZE),
        batch_size=BATCH,
        is_training=True,
        auto_augment=augment,
        color_jitter=0.0,
        interpolation="random",
        num_workers=WORKERS,
        device=torch.device("cpu"),
        use_prefetcher=prefetcher,
        persistent_workers=False,
    )
    return (len(batch) for batch, _ in loader)


def _webdataset(dataset: Path) -> Iterator[int]:
    shards = sorted(str(path) for split in ("labeled", "pool") for path in dataset.glob(f"{split}-*.tar"))
    noisy = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.RandAugment(2, 9),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    stream = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000).decode("pil").to_tuple("jpg")
    stream = stream.map_tuple(noisy).batched(BATCH, partial=False)
    loader = webdataset.WebLoader(stream, batch_size=None, num_workers=WORKERS)
    return (len(batch) for (batch,) in loader)


def _ours(dataset: Path) -> Iterator[int]:
    index = DatasetIndex.load(dataset)
    labelled, pool = index.split("labeled"), index.split("pool")
    streams = [
        (rows_of(labelled, OneHot(labelled.labels, CLASSES, 0.1)), BATCH // (1 + RATIO)),
        (rows_of(pool, OneHot(np.zeros(len(pool), np.int32), CLASSES)), BATCH - BATCH // (1 + RATIO)),
    ]
    view = TrainView(SIZE, 0.08, 1.0, 0.5, 0, RandAugment(2, 9, "nearest"))
    loader = JointLoader(ImageSource(ShardReader(dataset), 0), view, streams, Sampling(Shuffle(0)))
    steps = (LABELLED + UNLABELLED) // BATCH
    return (len(batch.images) for batch in loader.batches(0, steps, WORKERS))


def _foreign(folder: Path, images: Path) -> list[Path]:
    """Shards as img2dataset writes them: 1,000 samples each of jpg, txt and json."""
    folder.mkdir()
    shards = []
    files = iter(sorted(images.rglob("*.jpg")))
    for number in range((LABELLED + UNLABELLED) // 1000):
        shards.append(folder / f"{number:05d}.tar")
        with webdataset.TarWriter(str(shards[-1]), encoder=False) as writer:
            for sample in range(1000):
                key = f"{number:05d}{sample:04d}"
                about = json.dumps({"key": key, "caption": "a photograph", "status": "success"}).encode()
                writer.write({"__key__": key, "jpg": next(files).read_bytes(), "json": about, "txt": b"a photograph"})
    return shards


def _parts(shards: list[Path]) -> dict[str, Variant]:
    places = []
    for shard in shards:
        with shard.open("rb") as stream:
            members = scan_tar(stream, shard.name)
        columns = zip(*members, strict=True)
        places += [(shard.name, offset, size) for name, offset, size in columns if name.endswith(".jpg")]
    reader, order = ShardReader(shards[0].parent), np.random.default_rng(0).permutation(len(places)).tolist()

    def fetch() -> None:
        for row in order:
            reader.read(*places[row])

    def iterate() -> None:
        for _ in webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False):
            pass

    def scan() -> None:
        for shard in shards:
            with shard.open("rb") as stream:
                scan_tar(stream, shard.name)

    def list_members() -> None:
        for shard in shards:
            with tarfile.open(shard) as tar:
                tar.getmembers()

    works = {"fetch": fetch, "webdataset_iterate": iterate, "scan": scan, "tarfile": list_members}
    return {name: _cpu(work, len(places)) for name, work in works.items()}


def _cpu(work: Any, samples: int, repeats: int = 3) -> Variant:
    """Samples a CPU second of this process."""

    def variant() -> tuple[int, float]:
        work()
        started = time.process_time()
        for _ in islice(iter(int, 1), repeats):
            work()
        return repeats * samples, time.process_time() - started

    return variant


if __name__ == "__main__":
    main()
