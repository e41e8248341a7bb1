"""Pools of any size as tables: a dataset's index and the labels of its pool, written without a loop over images."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ns_core.data.index import CLASSES, CORRUPT_FILE, DROPPED_FILE, INDEX, SCHEMA, write_classes
from ns_core.data.pseudo_labels import label_file
from tests.factories import left_out, look_alikes
from tests.shard_builders import image_bytes

IMAGE_BYTES = 1000


def write_dataset(folder: Path, images: pa.Table, classes: int, shard_images: int) -> Path:
    """A dataset of a pool alone, without shards. `images`: columns key and sha256 (64 hexadecimal digits)."""
    folder.mkdir(parents=True, exist_ok=True)
    count = images.num_rows
    place, shard = np.arange(count) % shard_images, np.arange(count) // shard_images
    shards = pa.array([shard_name(number) for number in range(-(-count // shard_images))], pa.string())
    same = pa.array(np.full(count, 32, np.int32))
    columns = {
        "key": images["key"],
        "split": pa.repeat("pool", count),
        "shard": shards.take(pa.array(shard)),
        "offset": pa.array(512 + 1536 * place),
        "size": pa.array(np.full(count, IMAGE_BYTES)),
        "label": pa.nulls(count, pa.int32()),
        "width": same,
        "height": same,
        "sha256": images["sha256"],
        "path": images["key"],
    }
    pq.write_table(pa.table(columns).cast(SCHEMA), folder / INDEX, row_group_size=1 << 16)
    write_classes(folder / CLASSES, [f"class {label}" for label in range(classes)])
    left_out(folder / CORRUPT_FILE)
    left_out(folder / DROPPED_FILE)
    look_alikes(folder, {})
    return folder


def write_labels(folder: Path, images: pa.Table, shard_images: int, first: int = 0) -> Path:
    """Label files of the same images, those of the first shard on. `images`: all columns of a label table."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(-(-images.num_rows // shard_images)):
        rows = images.slice(number * shard_images, shard_images)
        pq.write_table(
            rows, folder / label_file(shard_name(first + number)), compression="zstd", use_dictionary=["reason"]
        )
    return folder


def write_shards(folder: Path, count: int, shard_images: int) -> pa.Table:
    """The shards of a dataset of so many images, beside its index or before it; their keys and sha256.

    No tar files, but with images where the index has them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digests = list[str]()
    for start in range(0, count, shard_images):
        images = [image_bytes(number, IMAGE_BYTES) for number in range(start, min(start + shard_images, count))]
        digests += [hashlib.sha256(data).hexdigest() for data in images]
        members = b"".join(bytes(512) + data + bytes(1024 - IMAGE_BYTES) for data in images)
        (folder / shard_name(start // shard_images)).write_bytes(members)
    return pa.table({"key": [f"image-{number:06d}" for number in range(count)], "sha256": digests})


def labelled(images: pa.Table, top1: NDArray[np.int32], confidence: NDArray[np.float32], width: int) -> pa.Table:
    """All columns of a label table: these predictions, margins that rise with confidence, and zeros as soft labels."""
    count = images.num_rows
    soft = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(count * width, np.float16)), width)
    return pa.table(
        {
            "key": images["key"],
            "sha256": images["sha256"],
            "reason": pa.nulls(count, pa.string()),
            "top1": pa.array(top1, pa.int32()),
            "confidence": confidence,
            "calibrated": confidence,
            "margin": confidence * np.float32(9),
            "probabilities": soft,
        }
    )


def change_labels(labels: Path, number: int, change: Callable[[pa.Table], pa.Table]) -> Path:
    """Another table in one of the label files."""
    file = sorted(labels.iterdir())[number]
    pq.write_table(change(pq.read_table(file)), file)
    return file


def shard_name(number: int) -> str:
    """Of a shard of such a pool."""
    return f"pool-{number:06d}.tar"
