"""infer-unlabeled: the noise-free teacher labels the pool (paper, algorithm 1, step 2).

Eval mode, EMA weights, clean central crop at the test resolution; asserted. One Parquet file for each
shard of the pool, rows in the shard's order, joined later by key and never by position. Each file is saved
as soon as it is whole, so a worker that comes after a killed one labels the missing shards only.
"""

import shutil
import time
from collections import deque
from functools import partial
from itertools import islice

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import JsonValue

from ns_core.config import InferConfig
from ns_core.data.dataset import Images
from ns_core.data.image_source import eval_batches
from ns_core.data.index import SplitIndex, joined_text
from ns_core.data.pseudo_labels import label_file, label_table
from ns_core.data.read_ahead import ShardsAhead
from ns_core.data.rows import Rows
from ns_core.models.checkpoint import load_checkpoint
from ns_core.models.predict import Predictor, assert_noise_free, at_once, choose_device, set_threads
from ns_core.stage import StageContext, Stopped, log

_SHARDS_AHEAD = 2
"""The one that is labelled and the next."""


def run(config: InferConfig, context: StageContext) -> dict[str, JsonValue]:
    """Inputs: `dataset`, `teacher`. Files: `labels-{shard}.parquet` with the columns of `label_table`."""
    images = Images.open(context, pixels=0)
    pool = images.index.split("pool")
    network, card = load_checkpoint(context.inputs["teacher"])
    set_threads(context.compute.threads)
    predictor = Predictor(network, card, choose_device(context.compute.device))
    assert_noise_free(predictor)
    saved, done, since = context.resume.names(), 0, time.monotonic()
    missing = deque(shard for shard in pool.shard_names if label_file(shard) not in saved)
    if len(missing) < len(pool.shard_names):
        known = len(pool.shard_names) - len(missing)
        log.info("going on: %d of %d shards are labelled already", known, len(pool.shard_names))
    fresh, counts = 0, np.zeros(images.index.num_classes, np.int64)
    batch = at_once(config.batch_size, card.test_size)
    with ShardsAhead(images.source.reader) as ahead:
        for shard, members in pool.members():
            name = label_file(shard)
            if name not in saved:
                if context.stopping():
                    raise Stopped
                ahead.want(list(islice(missing, _SHARDS_AHEAD)))
                missing.popleft()
                rows = _shard_rows(pool, shard, members)
                batches = eval_batches(images.source, rows, (card.test_size, card.crop_pct), batch)
                logits = np.concatenate([predictor.logits(batch) for batch in batches])
                write = partial(pq.write_table, label_table(pool.texts(shard), logits), compression="zstd")
                context.resume.save(name, write)
                fresh += len(members)
            counts += _collect(context, name, images.index.num_classes)
            done += len(members)
            context.progress(done, len(pool), shard)
    log.info("labelled %d of %d images in %.1f s", fresh, done, time.monotonic() - since)
    return {"images": done, "shards": len(pool.shard_names), "predicted_per_class": [int(count) for count in counts]}


def _shard_rows(pool: SplitIndex, shard: str, members: NDArray[np.int64]) -> Rows:
    return Rows(
        shard_names=(shard,),
        shard_codes=np.zeros(len(members), np.int32),
        offsets=pool.offsets[members],
        sizes=pool.sizes[members],
        keys=joined_text(pool.texts(shard)["key"]),
        targets=np.zeros((len(members), 0), np.float32),
    )


def _collect(context: StageContext, name: str, classes: int) -> NDArray[np.int64]:
    """Moves a saved file into the artifact; how often each class was predicted in it, int64[C]."""
    saved = context.resume.load(name)
    assert saved is not None, f"{name} was saved a moment ago"
    shutil.move(saved, context.output / name)
    top1 = pq.read_table(context.output / name, columns=["top1"])["top1"].to_numpy()
    counts: NDArray[np.int64] = np.bincount(top1, minlength=classes)
    return counts
