"""The files of a selection, written a shard of the pool at a time in the order of the index.

In: the pool's labels and what was chosen of them. Out: `selection.parquet`, `dropped.parquet` and `classes.parquet`,
as `filter_and_balance` describes them; or the kept images alone, as columns, for shards of their own.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ns_core.data.index import CORRUPT_FILE, DROPPED_FILE, SCHEMA, joined_text
from ns_core.data.ordered import in_order
from ns_core.data.reading import SELECTED
from ns_core.data.row_groups import RowGroups, batches
from ns_core.selection.copying import Images
from ns_core.selection.engine import CORRUPT, KEPT, REASONS, Outcomes, Selection
from ns_core.selection.materialize import Layout, shard_name
from ns_core.selection.tables import INDEXED, Labels, LabelTables, PoolShard
from ns_core.selection.totals import LEAK, Totals

MANIFEST, DROPPED, CLASSES = "selection.parquet", "dropped.parquet", "classes.parquet"
_BATCH = 1 << 16
_PLACED = ["offset", "size", "key"]
_LABELLED = pa.schema([("top1", pa.int32()), ("confidence", pa.float32()), ("margin", pa.float32())])
_DROPPED_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("top1", pa.int32()),
        pa.field("confidence", pa.float32()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


class _Part(NamedTuple):
    """A shard of the pool, divided."""

    labels: Labels
    outcomes: Outcomes
    """In the order of the index."""
    selected: pa.Table
    dropped: pa.Table


def write(
    tables: LabelTables,
    selection: Selection,
    layout: Layout | None,
    output: Path,
    totals: Totals,
    tell: Callable[[int], None],
) -> None:
    """Writes the files into `output` and counts into `totals`; `tell` is called with the images done so far.

    `layout`: of shards of the selection's own, its rows in the order of the manifest. Raises `Stopped` after SIGTERM.
    """
    fields = [*(SCHEMA.field(name) for name in INDEXED), *_LABELLED, *tables.soft_schema]
    schema = pa.schema([*fields, pa.field("copies", pa.int32(), nullable=False)])
    kept = done = 0
    with RowGroups(output / MANIFEST, schema) as manifest, RowGroups(output / DROPPED, _DROPPED_SCHEMA) as left_out:
        for part in in_order(partial(_divided, tables, selection), tables.shards(), tables.threads):
            rows = slice(kept, kept + part.selected.num_rows)
            manifest.add(part.selected if layout is None else _moved(part.selected, layout, rows))
            left_out.add(part.dropped)
            totals.add(part.labels.top1, part.labels.confidence, *part.outcomes)
            kept, done = rows.stop, done + len(part.labels.top1)
            tell(done)
        for reason, keys in _left_out_before(tables.dataset):
            left_out.add(_key_alone(keys, reason))
            totals.left_out(reason, len(keys))
    pq.write_table(totals.table(), output / CLASSES, compression="zstd")


def kept_images(tables: LabelTables, selection: Selection) -> Images:
    """Where the images of the manifest lie in the pool, in its order; raises `Stopped` after SIGTERM."""
    names, codes, kept = list[str](), [np.empty(0, np.int32)], [SCHEMA.empty_table().select(_PLACED)]
    for shard in tables.shards():
        outcome = selection.of(shard.number).outcome[tables.of(shard).place]
        rows = shard.rows.select(_PLACED).filter(pa.array(outcome == KEPT))
        codes.append(np.full(rows.num_rows, len(names), np.int32))
        names.append(shard.name)
        kept.append(rows)
    table = pa.concat_tables(kept)
    return Images(
        shard_names=tuple(names),
        shard_codes=np.concatenate(codes),
        offsets=table["offset"].to_numpy(),
        sizes=table["size"].to_numpy(),
        keys=joined_text(table["key"]),
    )


def _divided(tables: LabelTables, selection: Selection, shard: PoolShard) -> _Part:
    """Reads the labels of a shard, the soft ones where something of it was kept; runs on several threads."""
    labels, outcomes = tables.of(shard), selection.of(shard.number)
    outcome, copies = outcomes.outcome[labels.place], outcomes.copies[labels.place]
    kept, unreadable = outcome == KEPT, outcome == CORRUPT
    rows = shard.rows
    for field, values in zip(_LABELLED, labels, strict=False):
        rows = rows.append_column(field, pa.array(values, field.type, mask=unreadable))
    selected, soft = rows.filter(pa.array(kept)), tables.soft(shard, labels.place[kept])
    for field in soft.schema:
        selected = selected.append_column(field, soft[field.name])
    selected = selected.append_column("copies", pa.array(copies[kept]))
    reasons = pa.array(REASONS).take(pa.array(outcome[~kept]))
    dropped = rows.filter(pa.array(~kept)).append_column("reason", reasons)
    return _Part(labels, Outcomes(outcome, copies), selected, dropped)


def _moved(selected: pa.Table, layout: Layout, rows: slice) -> pa.Table:
    """With the places of the shards that were written out."""
    numbers, which = np.unique(layout.shards[rows], return_inverse=True)
    shards = pa.array([f"{SELECTED}/{shard_name(number)}" for number in numbers.tolist()], pa.string())
    moved = selected.set_column(selected.column_names.index("shard"), "shard", shards.take(pa.array(which)))
    return moved.set_column(moved.column_names.index("offset"), "offset", pa.array(layout.offsets(rows)))


def _left_out_before(dataset: Path) -> Iterator[tuple[str, pa.Array]]:
    """The keys of images that prepare-dataset kept out of the pool, with the reason."""
    for file, reason in ((CORRUPT_FILE, REASONS[CORRUPT]), (DROPPED_FILE, LEAK)):
        with pq.ParquetFile(dataset / file) as rows:
            for batch in batches(rows, _BATCH, ["split", "key"]):
                yield reason, batch["key"].filter(pc.equal(batch["split"], "pool"))


def _key_alone(keys: pa.Array, reason: str) -> pa.Table:
    nothing = {field.name: pa.nulls(len(keys), field.type) for field in _DROPPED_SCHEMA}
    return pa.table({**nothing, "key": keys, "reason": pa.repeat(reason, len(keys))})
