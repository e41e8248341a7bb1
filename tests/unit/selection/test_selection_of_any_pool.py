"""filter-and-balance on random pools: what plain Python finds, and the same however the pool is cut and ordered."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from ns_core.config import SelectConfig
from ns_core.selection import filter_and_balance
from tests.factories import stage_context
from tests.pool_tables import write_dataset, write_labels

CLASSES = 3


@dataclass(frozen=True)
class Label:
    """A row of the label tables, without its key."""

    content: int
    readable: bool
    top1: int
    hundredths: int
    margin: int

    @property
    def confidence(self) -> float:
        return float(np.float32(self.hundredths / 100))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(bytes([self.content])).hexdigest()


Pool = dict[str, Label]
Chosen = dict[str, tuple[str, int]]
"""Key -> reason or "kept", and copies."""


def _alike(labels: list[Label]) -> list[Label]:
    """Images of equal bytes get equal labels, as one teacher gives them."""
    first = {label.content: label for label in reversed(labels)}
    return [first[label.content] for label in labels]


# Few values, so that ties are the rule, saturated confidences and equal bytes occur, and some classes are empty.
LABELS = st.builds(
    Label,
    content=st.integers(0, 90),
    readable=st.sampled_from([True] * 9 + [False]),
    top1=st.integers(0, CLASSES - 1),
    hundredths=st.sampled_from([10, 29, 30, 31, 60, 99, 100, 100]),
    margin=st.integers(0, 3),
)
POOLS = (
    st.lists(LABELS, min_size=1, max_size=120)
    .map(_alike)
    .map(lambda labels: {f"image-{number:04d}": label for number, label in enumerate(labels)})
)
CONFIGS = st.builds(
    SelectConfig,
    threshold=st.sampled_from([0.3, 0.6]),
    per_class=st.integers(1, 30),
    max_copies=st.integers(1, 4),
    seed=st.integers(0, 5),
    duplicates=st.sampled_from(["keep", "bytes"]),
)


def _expected(pool: Pool, config: SelectConfig) -> Chosen:
    chosen: Chosen = {}
    eligible = defaultdict(list)
    seen = set[str]()
    order = sorted(pool, key=lambda key: (-pool[key].hundredths, -pool[key].margin, pool[key].sha256, key))
    for key in order:
        label = pool[key]
        if not label.readable:
            chosen[key] = ("corrupt", 0)
        elif label.confidence < float(np.float32(config.threshold)):
            chosen[key] = ("below_threshold", 0)
        elif config.duplicates == "bytes" and label.sha256 in seen:
            chosen[key] = ("duplicate", 0)
        else:
            seen.add(label.sha256)
            eligible[label.top1].append(key)
    for keys in eligible.values():
        kept = keys[: config.per_class]
        whole, odd = divmod(config.per_class, len(kept))
        lots = sorted(kept, key=lambda key: (_lot(pool[key], config.seed), key))
        chosen |= dict.fromkeys(keys[config.per_class :], ("class_full", 0))
        chosen |= {key: ("kept", min(config.max_copies, whole + (key in lots[:odd]))) for key in kept}
    return chosen


def _lot(label: Label, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{label.sha256}".encode()).hexdigest()


def _table(pool: Pool, keys: list[str]) -> pa.Table:
    rows = [pool[key] for key in keys]

    def column(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([getattr(row, name) if row.readable else None for row in rows], kind)

    confidence = column("confidence", pa.float32())
    return pa.table(
        {
            "key": keys,
            "sha256": [row.sha256 for row in rows],
            "reason": pa.array([None if row.readable else "cut short" for row in rows], pa.string()),
            "top1": column("top1", pa.int32()),
            "confidence": confidence,
            "calibrated": confidence,
            "margin": column("margin", pa.float32()),
            "probabilities": pa.array([np.zeros(CLASSES, np.float16)] * len(rows), pa.list_(pa.float16(), CLASSES)),
        }
    )


def _selected(pool: Pool, config: SelectConfig, shard_images: int, keys: list[str]) -> tuple[Chosen, dict[str, Any]]:
    """What the stage makes of the pool, its images in this order, so many a shard; and its result."""
    with TemporaryDirectory() as folder:
        table = _table(pool, keys)
        dataset = write_dataset(Path(folder) / "dataset", table, CLASSES, shard_images)
        labels = write_labels(Path(folder) / "labels", table, shard_images)
        context = stage_context(Path(folder) / "stage", {"dataset": dataset, "pseudo_labels": labels})
        result = filter_and_balance.run(config, context)
        kept = pq.read_table(context.output / "selection.parquet").to_pylist()
        dropped = pq.read_table(context.output / "dropped.parquet").to_pylist()
    assert [row["key"] for row in kept] == [key for key in keys if key in {row["key"] for row in kept}]
    assert len(kept) + len(dropped) == len(pool)
    chosen = {row["key"]: ("kept", row["copies"]) for row in kept}
    return chosen | {row["key"]: (row["reason"], 0) for row in dropped}, result


@settings(max_examples=40, deadline=None)
@given(pool=POOLS, config=CONFIGS)
def test_the_stage_chooses_what_plain_python_does(pool: Pool, config: SelectConfig) -> None:
    expected = _expected(pool, config)
    if "kept" in {outcome for outcome, _ in expected.values()}:
        assert _selected(pool, config, 50, sorted(pool))[0] == expected


@settings(max_examples=12, deadline=None)
@given(pool=POOLS, config=CONFIGS, data=st.data())
def test_neither_the_cut_into_shards_nor_their_order_changes_the_choice(
    pool: Pool, config: SelectConfig, data: st.DataObject
) -> None:
    if "kept" not in {outcome for outcome, _ in _expected(pool, config).values()}:
        return
    first, document = _selected(pool, config, 50, sorted(pool))
    for shard_images in (7, 1000):
        keys = sorted(pool)
        shards = [keys[start : start + shard_images] for start in range(0, len(keys), shard_images)]
        order = data.draw(st.permutations(shards))
        again, same = _selected(pool, config, shard_images, [key for shard in order for key in shard])
        assert again == first
        assert same == document
