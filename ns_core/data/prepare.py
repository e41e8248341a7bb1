"""prepare-dataset: a person's images become a dataset artifact.

In: what `data.sources` finds. Out: the shards of each split, `index.parquet`, `classes.json`; what was left out
and why, `corrupt.parquet` and `dropped.parquet` (both: split, key, path, reason, twin); look-alikes inside the
pool, `duplicates.parquet` (key, group); and the report for people, `hygiene.html`. The same images and settings
give the same bytes.

Leak guard: an image that is, or nearly is, one of the test split is kept there only, and one of the holdout
only there. The totals of kept, corrupt and leaked images add up to what came in.

Parts are saved as they are finished, shards first and the part's table last; an attempt that comes after a
killed one reads those tables and writes none of their shards again. Memory holds one part, and of the others
8 bytes an image of the pool and about 1.5 kB an image of the judged splits.
"""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import JsonValue

from ns_core.artifacts import file_entry
from ns_core.config import DataConfig
from ns_core.data.duplicates import group
from ns_core.data.hygiene import PAIRS, REPORT, report
from ns_core.data.index import (
    CLASSES,
    CORRUPT_FILE,
    DROPPED_FILE,
    DUPLICATES_FILE,
    INDEX,
    SCHEMA,
    SPLITS,
    Split,
    write_classes,
)
from ns_core.data.ingest import CORRUPT, JUDGED, KEPT, LEAK, PART_SCHEMA, Judged, ingest
from ns_core.data.ledger import Ledger
from ns_core.data.source import Part, Source
from ns_core.data.sources import open_source
from ns_core.errors import NotFound, StageFailed
from ns_core.resume import Adopted
from ns_core.stage import StageContext, Stopped, log

_ORDER: tuple[Split, ...] = (*JUDGED, "labeled", "pool")
"""What is judged on comes first: whatever equals it is then dropped from the splits that follow."""
_CLASS_NAMES = 1000
"""Names in the result document, which goes into every record and log; all are in `classes.json`."""
_GROUP_SCHEMA: pa.Schema = pa.schema(
    [pa.field("key", pa.string(), nullable=False), pa.field("group", pa.string(), nullable=False)]
)
_SHARDS = b"ns.shards"
"""Of a part's table: its shards as JSON, name -> [size, sha256]."""
_MOST_GROUPED = 20_000_000
"""Images of a pool that are compared with each other: some 90 bytes each."""
_LEFT_OUT = ["split", "key", "path", "reason", "twin"]


def run(config: DataConfig, context: StageContext) -> dict[str, JsonValue]:
    """Writes the dataset and returns its totals.

    Raises `UserError` for a mistake in the source or the settings, for more corrupt images than
    `max_corrupt_fraction`, and for a class or split that has no image left; `Stopped` after SIGTERM.
    """
    try:
        return _prepared(config, context)
    except NotFound as error:
        raise StageFailed(
            f"{error.args[0]} was cleared by a process that has finished this dataset: run the same command again"
        ) from error


def _prepared(config: DataConfig, context: StageContext) -> dict[str, JsonValue]:
    source = open_source(config)
    parts = _Parts(config, source, context)
    ledger = Ledger(config, source)
    for split in _ORDER:
        for table in parts.of(split):
            ledger.take(split, table)
        ledger.check_left(split)
    ledger.check_corrupt()
    _write_index(context.output / INDEX, parts)
    write_classes(context.output / CLASSES, source.class_names)
    _write_left_out(context.output / CORRUPT_FILE, parts, CORRUPT)
    _write_left_out(context.output / DROPPED_FILE, parts, LEAK)
    groups = _write_duplicates(context.output / DUPLICATES_FILE, parts)
    pairs = [row for row, _ in zip(parts.leaks(), range(PAIRS), strict=False)]
    twins = parts.pictures({pair["twin"] for pair in pairs})
    (context.output / REPORT).write_text(report(ledger, pairs, twins, groups), encoding="utf-8")
    counts = ledger.counts
    return {
        "classes": len(source.class_names),
        "class_names": list(source.class_names[:_CLASS_NAMES]),
        **{split: counts[split, KEPT] for split in SPLITS},
        "corrupt": ledger.total(CORRUPT),
        "leaks": ledger.total(LEAK),
        "near_leaks": ledger.near_leaks,
        "pool_groups": len(groups),
        "pool_look_alikes": sum(groups),
        "images": sum(counts.values()),
        "shards": len(parts.shards),
    }


class _Parts:
    """The tables of all parts: ingested, or found where an earlier attempt saved them."""

    def __init__(self, config: DataConfig, source: Source, context: StageContext) -> None:
        self._config, self._source, self._context = config, source, context
        self._saved = context.resume.names()
        self._judged = Judged(config.near_duplicates)
        self._done, self._all = 0, sum(part.images for parts in source.parts.values() for part in parts)
        self._fetched: dict[str, Path] = {}
        self.shards: dict[str, Adopted] = {}
        """Name -> the saved file, of the shards that are ours."""

    def of(self, split: Split) -> Iterator[pa.Table]:
        """The tables of one split's parts, in order. Called once for each split, in `_ORDER`."""
        tables = list[pa.Table]()
        if known := [part for part in self._source.parts[split] if _name(part) in self._saved]:
            log.info("going on: %d of %d parts of %s are there", len(known), len(self._source.parts[split]), split)
        for part in self._source.parts[split]:
            if self._context.stopping():
                raise Stopped
            if _name(part) not in self._saved:
                self._ingest(part)
            table = self._load(_name(part))
            self._done += part.images
            self._context.progress(min(self._done, self._all), self._all, split)
            if split in JUDGED:
                tables.append(table)
            yield table
        for table in tables:
            self._judged.add(table)

    def again(self) -> Iterator[pa.Table]:
        """All tables once more, in `_ORDER`."""
        for split in _ORDER:
            for part in self._source.parts[split]:
                yield pq.read_table(self._fetched[_name(part)])

    def leaks(self) -> Iterator[dict[str, Any]]:
        """The rows of leaks whose picture was kept."""
        for table in self.again():
            yield from table.filter(pc.is_valid(table["picture"])).to_pylist()

    def pictures(self, keys: set[str]) -> dict[str, bytes]:
        """The bytes of images by key, as far as they lie in shards of ours."""
        found = {}
        for table in self.again():
            for row in table.filter(pc.is_in(table["key"], pa.array(sorted(keys), pa.string()))).to_pylist():
                if row["shard"] in self.shards:
                    found[row["key"]] = self._context.resume.read(row["shard"], row["offset"], row["size"])
        return found

    def _ingest(self, part: Part) -> None:
        """Saves the part's shards and then its table, which says what they hold."""
        context, shards = self._context, {}
        threads = context.compute.threads or os.cpu_count() or 1

        def tick(done: int) -> None:
            if context.stopping():
                raise Stopped
            context.progress(min(self._done + done, self._all - 1), self._all, part.split)

        table = ingest(part, self._config, self._judged, context.output, threads, tick)
        for file in sorted(context.output.glob("*.tar")):
            entry = file_entry(file)
            shards[file.name] = [entry.size, entry.sha256]
            context.resume.take(file.name, file)
        table = table.replace_schema_metadata({_SHARDS: json.dumps(shards)})
        context.resume.save(_name(part), partial(pq.write_table, table, compression="zstd"))

    def _load(self, name: str) -> pa.Table:
        """A saved table; its shards go into the artifact."""
        path = self._context.resume.load(name)
        if path is None:
            raise NotFound(name)
        self._fetched[name] = path
        table = pq.read_table(path)
        for shard, (size, sha256) in json.loads(table.schema.metadata[_SHARDS]).items():
            self.shards[shard] = self._context.adopted[shard] = Adopted(shard, size, sha256)
        return table


def _name(part: Part) -> str:
    return f"part-{part.split}-{part.number:06d}.parquet"


def _write_index(path: Path, parts: _Parts) -> None:
    """The rows of what was kept, part after part; keys ascend within a split, so none comes twice."""
    last = ("", "")
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for table in parts.again():
            kept = table.filter(pc.equal(table["state"], KEPT)).select(SCHEMA.names)
            for split, key in zip(kept["split"].to_pylist(), kept["key"].to_pylist(), strict=True):
                assert split != last[0] or key > last[1], (split, last[1], key)
                last = (split, key)
            writer.write_table(kept.replace_schema_metadata().cast(SCHEMA))


def _write_left_out(path: Path, parts: _Parts, state: str) -> None:
    schema = pa.schema([PART_SCHEMA.field(name) for name in _LEFT_OUT])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in parts.again():
            left_out = table.filter(pc.equal(table["state"], state)).select(_LEFT_OUT)
            writer.write_table(left_out.replace_schema_metadata().cast(schema))


def _write_duplicates(path: Path, parts: _Parts) -> list[int]:
    """Groups of the pool's images that look alike, each named by its first key; how large each is."""
    tables = [table for table in parts.again() if table.num_rows and table["split"][0].as_py() == "pool"]
    pool = pa.concat_tables([table.select(["key", "state", "hash", "mirrored"]) for table in tables])
    pool = pool.filter(pc.equal(pool["state"], KEPT))
    if pool.num_rows > _MOST_GROUPED:
        log.warning("look-alikes in the pool are not listed: %d images, over %d", pool.num_rows, _MOST_GROUPED)
        pool = pool.slice(0, 0)
    groups = group(np.minimum(pool["hash"].to_numpy(), pool["mirrored"].to_numpy()))
    first, sizes = np.unique(groups, return_counts=True)
    members = np.flatnonzero(np.isin(groups, first[sizes > 1]))
    members = members[np.argsort(groups[members], kind="stable")]
    columns = [pool["key"].take(pa.array(members)), pool["key"].take(pa.array(groups[members]))]
    pq.write_table(pa.table(columns, schema=_GROUP_SCHEMA), path, compression="zstd")
    return [int(size) for size in sizes[sizes > 1]]
