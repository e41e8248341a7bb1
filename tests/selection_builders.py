"""A dataset with a pool of small pictures, and a selection of it as filter-and-balance leaves one, built by hand."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from ns_core.data.index import CLASSES, INDEX, write_classes, write_index
from ns_core.data.shards import ShardImage, ShardWriter

THRESHOLD, PER_CLASS, MAX_COPIES = 0.6, 40, 3
SETTINGS = {"threshold": THRESHOLD, "per_class": PER_CLASS, "max_copies": MAX_COPIES, "confidence": "raw"}
OUTCOMES = ("kept", "below_threshold", "class_full", "duplicate")
CORRUPT, LEAKS = 3, 2
"""Images of the pool that have no confidence."""


@dataclass(frozen=True)
class Built:
    """Where it lies, and the truth about every image of the pool that has a confidence, by number."""

    dataset: Path
    selection: Path
    top1: NDArray[np.int32]
    confidence: NDArray[np.float32]
    outcome: NDArray[np.int8]
    """Of `OUTCOMES`."""
    copies: NDArray[np.int32]
    result: dict[str, Any]

    def shade(self, number: int) -> tuple[int, int, int]:
        """The colour that image `number` has all over: no two have the same."""
        return number % 256, number // 256, 7


def built(folder: Path, images: int, names: list[str], row_group: int = 50) -> Built:
    """Classes of Zipf frequency, the last with no image kept. `row_group`: rows of the files' row groups."""
    random = np.random.default_rng(0)
    weights = 1 / np.arange(1, len(names) + 1)
    top1 = random.choice(len(names), images, p=weights / weights.sum()).astype(np.int32)
    confidence = random.beta(4, 1, images).astype(np.float32)
    confidence[top1 == len(names) - 1] *= np.float32(0.5)
    outcome = _outcomes(top1, confidence, random)
    kept = np.bincount(top1[outcome == 0], minlength=len(names))
    repeats = np.clip(PER_CLASS // np.maximum(kept, 1), 1, MAX_COPIES)
    copies = np.where(outcome == 0, repeats[top1], 0).astype(np.int32)
    made = Built(folder / "dataset", folder / "selection", top1, confidence, outcome, copies, {})
    rows = _dataset(made, names)
    made.selection.mkdir(parents=True)
    table = pa.table({**rows, "top1": top1, "confidence": confidence})
    _write(made, table, row_group)
    made.result.update(_classes(made, names))
    return made


def _outcomes(
    top1: NDArray[np.int32], confidence: NDArray[np.float32], random: np.random.Generator
) -> NDArray[np.int8]:
    outcome = np.zeros(len(top1), np.int8)
    outcome[random.random(len(top1)) < 0.05] = 3
    outcome[confidence < np.float32(THRESHOLD)] = 1
    for label in np.unique(top1):
        mine = np.flatnonzero((top1 == label) & (outcome == 0))
        outcome[mine[np.argsort(-confidence[mine], kind="stable")][PER_CLASS:]] = 2
    return outcome


def _dataset(made: Built, names: list[str]) -> dict[str, Any]:
    """Writes shards of 40 pictures and the index; the columns key, shard, offset, size and sha256."""
    made.dataset.mkdir(parents=True)
    rows = []
    for part in range(0, len(made.top1), 40):
        with ShardWriter(made.dataset, "pool", part // 40, 1 << 30) as writer:
            for number in range(part, min(part + 40, len(made.top1))):
                buffer = BytesIO()
                Image.new("RGB", (20, 10), made.shade(number)).save(buffer, "png")
                data = buffer.getvalue()
                key, digest = f"image-{number:06d}", hashlib.sha256(data).hexdigest()
                rows.append(writer.add(ShardImage(key, "png", data, None, 20, 10, digest, f"{key}.png")))
    write_index(made.dataset / INDEX, rows)
    write_classes(made.dataset / CLASSES, names)
    return {name: [row[name] for row in rows] for name in ("key", "shard", "offset", "size", "sha256")}


def _write(made: Built, table: pa.Table, row_group: int) -> None:
    kept = made.outcome == 0
    soft = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2 * int(kept.sum()), np.float16)), 2)
    selected = table.filter(pa.array(kept)).append_column("probabilities", soft)
    selected = selected.append_column("copies", pa.array(made.copies[kept]))
    pq.write_table(selected, made.selection / "selection.parquet", row_group_size=row_group)
    dropped = table.filter(pa.array(~kept)).select(["key", "sha256", "top1", "confidence"])
    dropped = dropped.append_column("reason", pa.array([OUTCOMES[code] for code in made.outcome[~kept]]))
    reasons = ["corrupt"] * CORRUPT + ["leak"] * LEAKS
    unlabelled = {"key": [f"gone-{number}" for number in range(len(reasons))], "reason": reasons}
    empty = {name: pa.nulls(len(reasons), dropped.schema.field(name).type) for name in ("sha256", "top1", "confidence")}
    more = pa.table({**unlabelled, **empty}).select(dropped.column_names)
    everything = pa.concat_tables([more.slice(0, 2), dropped, more.slice(2)])
    pq.write_table(everything, made.selection / "dropped.parquet", row_group_size=row_group)


def _classes(made: Built, names: list[str]) -> dict[str, Any]:
    """Writes `classes.parquet`; the result document."""
    counts = np.zeros((len(OUTCOMES), len(names)), np.int64)
    np.add.at(counts, (made.outcome, made.top1), 1)
    rows = np.bincount(made.top1, weights=made.copies, minlength=len(names)).astype(np.int64)
    chosen = [made.confidence[(made.top1 == label) & (made.outcome == 0)] for label in range(len(names))]
    table = {
        "label": pa.array(range(len(names)), pa.int32()),
        "name": names,
        "pool": counts.sum(axis=0),
        "eligible": counts.sum(axis=0) - counts[1],
        "rows": rows,
        **dict(zip(OUTCOMES, counts, strict=True)),
        "cut_confidence": pa.array([float(one.min()) if len(one) else None for one in chosen], pa.float32()),
        "mean_confidence": [float(one.mean()) if len(one) else None for one in chosen],
    }
    pq.write_table(pa.table(table), made.selection / "classes.parquet")
    dropped = {name: int(count) for name, count in zip(OUTCOMES[1:], counts[1:].sum(axis=1), strict=True)}
    kept, squares = int(counts[0].sum()), int((made.copies.astype(np.int64) ** 2).sum())
    return {
        "pool": len(made.top1) + CORRUPT,
        "came_in": len(made.top1) + CORRUPT + LEAKS,
        "kept": kept,
        "rows": int(rows.sum()),
        "dropped": {**dropped, "corrupt": CORRUPT, "leak": LEAKS},
        "duplication": int(rows.sum()) / kept,
        "effective_images": int(rows.sum()) ** 2 / squares,
    }
