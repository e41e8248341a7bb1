"""filter-and-balance: pseudo-label table -> selection, with a reason for every image left out.

Files: `selection.parquet` (one row a kept image: where it lies, its soft label, its copies) and
`dropped.parquet` (key, sha256, top1, confidence, reason). Images are not copied: the selection is a
manifest over the dataset's immutable shards.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import JsonValue

from ns_core.config import SelectConfig
from ns_core.data.index import DatasetIndex
from ns_core.errors import StageFailed, UserError
from ns_core.selection.balance import KEPT, REASONS, Choice, choose
from ns_core.stage import StageContext, log

HISTOGRAM_BINS = 20


def run(config: SelectConfig, context: StageContext) -> dict[str, JsonValue]:
    """Inputs: `dataset`, `pseudo_labels`."""
    index = DatasetIndex.load(context.inputs["dataset"])
    table = _joined(context.inputs["dataset"], context.inputs["pseudo_labels"])
    top1, confidence = table["top1"].to_numpy(), table["confidence"].to_numpy()
    sha256 = np.asarray(table["sha256"].to_numpy(), dtype=object)
    quota = (config.per_class, config.max_copies)
    choice = choose(top1, confidence, sha256, config.threshold, quota, config.seed)
    if not choice.copies.any():
        raise UserError(
            f"select.threshold={config.threshold} keeps none of the {table.num_rows} pseudo-labels: the teacher's "
            f"highest confidence is {confidence.max():.3f}; lower the threshold or train the teacher longer"
        )
    kept = choice.outcome == KEPT
    selection = table.filter(pa.array(kept)).append_column("copies", pa.array(choice.copies[kept], pa.int32()))
    pq.write_table(selection, context.output / "selection.parquet", compression="zstd")
    dropped = table.filter(pa.array(~kept)).select(["key", "sha256", "top1", "confidence"])
    reasons = [REASONS[code] for code in choice.outcome[~kept]]
    pq.write_table(
        dropped.append_column("reason", pa.array(reasons, pa.string())),
        context.output / "dropped.parquet",
        compression="zstd",
    )
    context.progress(table.num_rows, table.num_rows, f"{int(kept.sum())} kept")
    return _summary(top1, confidence, choice, index.class_names)


def _joined(dataset: Path, labels: Path) -> pa.Table:
    """The pool's index rows with their pseudo-labels, joined by key, in the order of the index.

    Raises `StageFailed` unless both hold the same images, content hash included.
    """
    rows = pq.read_table(dataset / "index.parquet", filters=pc.field("split") == "pool")
    files = sorted(labels.glob("labels-*.parquet"))
    scores = pa.concat_tables([pq.read_table(file) for file in files])
    position = {key: place for place, key in enumerate(scores["key"].to_pylist())}
    keys = rows["key"].to_pylist()
    if len(position) != scores.num_rows or position.keys() != set(keys):
        raise StageFailed(f"{labels} does not label exactly the {len(keys)} images of the pool")
    scores = scores.take(pa.array([position[key] for key in keys], pa.int64()))
    if scores["sha256"].to_pylist() != rows["sha256"].to_pylist():
        raise StageFailed(f"{labels} labels other bytes than the pool holds")
    joined = rows.select(["key", "shard", "offset", "size", "sha256"])
    for column in ("top1", "confidence", "margin", "probabilities"):
        joined = joined.append_column(column, scores[column])
    return joined


def _summary(
    top1: NDArray[np.int32], confidence: NDArray[np.float32], choice: Choice, class_names: tuple[str, ...]
) -> dict[str, JsonValue]:
    kept = choice.outcome == KEPT
    dropped = {name: int((choice.outcome == code).sum()) for code, name in REASONS.items()}
    assert int(kept.sum()) + sum(dropped.values()) == len(top1), "every image is kept or has a reason"
    per_class = np.bincount(top1[kept], minlength=len(class_names))
    if missing := [name for name, count in zip(class_names, per_class, strict=True) if count == 0]:
        log.warning("no pseudo-labelled image of %d classes: %s", len(missing), ", ".join(missing[:10]))
    return {
        "pool": len(top1),
        "kept": int(kept.sum()),
        "rows": int(choice.copies.sum()),
        "dropped": dict(dropped),
        "kept_per_class": per_class.tolist(),
        "rows_per_class": np.bincount(top1, weights=choice.copies, minlength=len(class_names)).astype(int).tolist(),
        "mean_confidence": float(confidence[kept].mean()),
        "histogram": np.histogram(confidence, HISTOGRAM_BINS, (0.0, 1.0))[0].tolist(),
    }
