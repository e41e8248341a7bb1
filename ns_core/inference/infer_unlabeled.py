"""infer-unlabeled: the noise-free teacher labels the pool (paper, algorithm 1, step 2).

Eval mode, EMA weights, clean central crop at the test resolution; asserted. One Parquet file for each
shard of the pool, rows in the shard's order, joined later by key and never by position. Each file is saved
as soon as it is whole, so a worker that comes after a killed one labels the missing shards only.
"""

import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import JsonValue

from ns_core.config import InferConfig
from ns_core.data.index import DatasetIndex, ShardReader, SplitIndex
from ns_core.data.rows import ImageSource, Rows, eval_batches, rows_of
from ns_core.models.checkpoint import load_checkpoint
from ns_core.models.predict import Predictor, assert_noise_free, choose_device, set_threads
from ns_core.stage import StageContext, Stopped, log


def run(config: InferConfig, context: StageContext) -> dict[str, JsonValue]:
    """Inputs: `dataset`, `teacher`. Files: `labels-{shard}.parquet` with the columns of `label_table`."""
    index = DatasetIndex.load(context.inputs["dataset"])
    pool = index.split("pool")
    network, card = load_checkpoint(context.inputs["teacher"])
    set_threads(context.compute.threads)
    predictor = Predictor(network, card, choose_device(context.compute.device))
    assert_noise_free(predictor)
    rows = rows_of(pool, np.zeros((len(pool), 0), np.float32))
    source = ImageSource(ShardReader(context.inputs["dataset"]), limit=0)
    saved, done, fresh, since = context.resume.names(), 0, 0, time.monotonic()
    if known := saved.intersection(map(label_file, pool.shard_names)):
        log.info("going on: %d of %d shards are labelled already", len(known), len(pool.shard_names))
    counts = np.zeros(index.num_classes, np.int64)
    for code, shard in enumerate(pool.shard_names):
        name, members = label_file(shard), np.flatnonzero(pool.shard_codes == code)
        if name not in saved:
            if context.stopping():
                raise Stopped
            part = _subset(rows, members)
            batches = eval_batches(source, part, (card.test_size, card.crop_pct), config.batch_size)
            probabilities = np.concatenate([predictor.probabilities(batch) for batch in batches])
            write = partial(pq.write_table, label_table(pool, members, probabilities), compression="zstd")
            context.resume.save(name, write)
            fresh += len(members)
        counts += _collect(context, name, index.num_classes)
        done += len(members)
        context.progress(done, len(pool), shard)
    log.info("labelled %d of %d images in %.1f s", fresh, done, time.monotonic() - since)
    return {"images": done, "shards": len(pool.shard_names), "predicted_per_class": [int(count) for count in counts]}


def label_file(shard: str) -> str:
    """Name of a shard's labels."""
    return f"labels-{Path(shard).stem}.parquet"


def label_table(pool: SplitIndex, members: NDArray[np.int64], probabilities: NDArray[np.float32]) -> pa.Table:
    """The labels of one shard.

    Columns: key, sha256 (of the image), top1 int32, confidence float32, margin float32 (first minus second
    probability), probabilities fp16[C] (error below 2.5e-4; readers normalise again).
    """
    ordered = np.sort(probabilities, axis=1)
    half = pa.array(probabilities.astype(np.float16).ravel())
    return pa.table(
        {
            "key": pa.array(pool.keys[members], pa.string()),
            "sha256": pa.array(pool.sha256[members], pa.string()),
            "top1": pa.array(probabilities.argmax(axis=1), pa.int32()),
            "confidence": pa.array(ordered[:, -1], pa.float32()),
            "margin": pa.array(ordered[:, -1] - ordered[:, -2], pa.float32()),
            "probabilities": pa.FixedSizeListArray.from_arrays(half, probabilities.shape[1]),
        }
    )


def _subset(rows: Rows, members: NDArray[np.int64]) -> Rows:
    return Rows(
        [rows.shards[row] for row in members],
        rows.offsets[members],
        rows.sizes[members],
        [rows.keys[row] for row in members],
        rows.targets[members],
    )


def _collect(context: StageContext, name: str, classes: int) -> NDArray[np.int64]:
    """Moves a saved file into the artifact; how often each class was predicted in it, int64[C]."""
    saved = context.resume.load(name)
    assert saved is not None, f"{name} was saved a moment ago"
    shutil.move(saved, context.output / name)
    top1 = pq.read_table(context.output / name, columns=["top1"])["top1"].to_numpy()
    counts: NDArray[np.int64] = np.bincount(top1, minlength=classes)
    return counts
