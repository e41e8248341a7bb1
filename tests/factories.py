"""What tests of several stages build alike."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ns_core.config import Augmentation, ComputeConfig
from ns_core.data.index import (
    CLASSES,
    CORRUPT_FILE,
    DROPPED_FILE,
    DUPLICATES_FILE,
    INDEX,
    DatasetIndex,
    IndexRow,
    SplitIndex,
    write_classes,
    write_index,
)
from ns_core.data.pseudo_labels import label_file, label_table
from ns_core.resume import ResumeFolder
from ns_core.stage import StageContext
from ns_core.storage import open_storage


def stage_context(
    tmp_path: Path,
    inputs: Mapping[str, Path] | None = None,
    results: Mapping[str, Mapping[str, Any]] | None = None,
) -> StageContext:
    """A context whose output, scratch and store are new folders below `tmp_path`.

    A second call with the same `tmp_path` is the next attempt: an empty output, the same resume folder.
    """
    attempt = sum(1 for _ in tmp_path.glob("output-*"))
    output, scratch = tmp_path / f"output-{attempt}", tmp_path / f"scratch-{attempt}"
    output.mkdir(parents=True)
    scratch.mkdir()
    store = open_storage(str(tmp_path / "store"))
    return StageContext(
        inputs=inputs or {},
        results=results or {},
        output=output,
        resume=ResumeFolder(store, "stage/resume", scratch),
        compute=ComputeConfig(threads=2),
        fingerprint="0" * 64,
    )


def settled(context: StageContext) -> Path:
    """The output folder with the files that the stage left in its resume folder: all that is committed."""
    for name, file in context.adopted.items():
        (context.output / name).write_bytes(context.resume.read(file.saved, 0, file.size))
    return context.output


TINY: dict[str, Any] = {
    "image_size": 16,
    "crop_pct": 1.0,
    "batch_size": 8,
    "steps": 13,
    "epoch_steps": 5,
    "optimizer": "sgd",
    "schedule": "cosine",
    "lr": 0.05,
    "ema_decay": 0.9,
    "dropout": 0.2,
    "stochastic_depth": 0.2,
    "bn_momentum": 0.1,
    "bn_eps": 1e-5,
    "decay_biases": False,
    "augmentation": Augmentation(min_area=0.6, hflip=0.0, pad=2, randaugment_interpolation="bilinear"),
}
"""Of a training stage: two whole epochs and a short one, about 10 ms an update of `TINY_MODEL`."""
TINY_MODEL = "ns_efficientnet_xs"


def training_context(tmp_path: Path, **inputs: Path) -> StageContext:
    """A `stage_context` that computes with one thread, as small networks do best."""
    context = stage_context(tmp_path, inputs)
    context.compute = ComputeConfig(device="cpu", threads=1, loader_workers=1)
    return context


def pool_without_pictures(folder: Path, images: int, classes: int, shard_images: int = 25) -> Path:
    """A dataset folder whose index has `images` rows in the pool and one labelled row; no shards, nothing left out."""

    def row(number: int) -> IndexRow:
        key = f"image-{number:04d}"
        return IndexRow(
            key=key,
            split="pool" if number else "labeled",
            shard=f"pool-{number // shard_images:06d}.tar" if number else "labeled-000000.tar",
            offset=512 + 4096 * (number % shard_images),
            size=1000 + number,
            label=None if number else 0,
            width=32,
            height=32,
            sha256=hashlib.sha256(key.encode()).hexdigest(),
            path=f"{key}.png",
        )

    folder.mkdir(parents=True)
    write_index(folder / INDEX, map(row, range(images + 1)))
    write_classes(folder / CLASSES, [f"class {label}" for label in range(classes)])
    left_out(folder / CORRUPT_FILE)
    left_out(folder / DROPPED_FILE)
    look_alikes(folder, {})
    return folder


def left_out(path: Path, *images: tuple[str, str]) -> None:
    """`corrupt.parquet` or `dropped.parquet` of a dataset: (split, key) of each image."""
    rows = [{"split": split, "key": key, "path": f"{key}.png", "reason": "", "twin": ""} for split, key in images]
    fields = [(name, pa.string()) for name in ("split", "key", "path", "reason", "twin")]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), path)


def look_alikes(dataset: Path, group_of: Mapping[str, str]) -> None:
    """`duplicates.parquet` of a dataset: key -> group."""
    fields = [("key", pa.string()), ("group", pa.string())]
    rows = [{"key": key, "group": group} for key, group in group_of.items()]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), dataset / DUPLICATES_FILE)


def hashed_probabilities(keys: NDArray[np.object_], classes: int) -> NDArray[np.float32]:
    """float32[N,C] drawn from the hash of each key: the same on every machine and for every numpy."""
    digests = [hashlib.sha256(f"probability {key}".encode()).digest()[:classes] for key in keys]
    scores = np.array([list(digest) for digest in digests], np.int64) ** 4 + 1
    probabilities: NDArray[np.float32] = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def label_folder(
    folder: Path,
    dataset: Path,
    probabilities: NDArray[np.float32],
    temperature: float = 1.0,
    top_k: int = 0,
    unreadable: Mapping[str, str] = {},
) -> Path:
    """The pseudo-labels of a dataset's pool as infer-unlabeled leaves them.

    `probabilities`: float32[N,C], `unreadable`: key -> reason.
    """
    pool = DatasetIndex.load(dataset).split("pool")
    folder.mkdir(parents=True)
    for shard, members in pool.members():
        texts = pool.texts(shard)
        bad = {row: unreadable[key] for row, key in enumerate(texts["key"].to_pylist()) if key in unreadable}
        table = label_table(texts, np.log(probabilities[members]), temperature, top_k, unreadable=bad)
        pq.write_table(table, folder / label_file(shard))
    return folder


def selection_folder(
    folder: Path,
    pool: SplitIndex,
    rows: NDArray[np.int64],
    probabilities: NDArray[np.float16],
    copies: NDArray[np.int32],
) -> Path:
    """A selection artifact: these rows of the pool, with fp16[N,C] soft labels and as many copies."""
    table = pa.table(
        {
            "key": pool.keys[rows],
            "shard": [pool.shard_names[code] for code in pool.shard_codes[rows]],
            "offset": pool.offsets[rows],
            "size": pool.sizes[rows],
            "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(probabilities.ravel()), probabilities.shape[1]),
            "copies": copies,
        }
    )
    folder.mkdir()
    pq.write_table(table, folder / "selection.parquet")
    return folder
