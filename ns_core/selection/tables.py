"""The pool and its labels side by side, a shard at a time, joined by key and never by position.

In: a dataset's `index.parquet` and the label tables of infer-unlabeled (`data.pseudo_labels`), local or read from S3
by ranges. Out: one table a shard, in the order of the index. Memory holds a few shards, however large the pool is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ns_core.config import SelectConfig
from ns_core.data.index import INDEX
from ns_core.data.ordered import in_order
from ns_core.data.pseudo_labels import LABEL_FILES, SOFT, check_teacher, label_file
from ns_core.data.row_groups import batches
from ns_core.errors import StageFailed, UserError
from ns_core.stage import StageContext, Stopped

RULED = ("key", "sha256", "reason", "top1", "confidence", "margin")
"""Columns that the choice goes by; `confidence` is the raw or the calibrated one."""
INDEXED = ["key", "shard", "offset", "size", "sha256"]
_MINE = pc.field("split") == "pool"
_BATCH = 1 << 16
_SOFT_BATCH = 1 << 12
"""Rows at a time: 8 MB of 1,000 classes."""


class PoolShard(NamedTuple):
    """A shard of the pool."""

    number: int
    """0, 1, ... in the order of the index."""
    name: str
    rows: pa.Table
    """Its rows of the index: key, shard, offset, size, sha256."""


class Labels(NamedTuple):
    """What a label file says of a shard's images, one entry each, in the order of the index."""

    top1: NDArray[np.int32]
    """0 where the image could not be read; so are the two that follow."""
    confidence: NDArray[np.float32]
    """Raw or calibrated, as the choice goes by."""
    margin: NDArray[np.float32]
    place: NDArray[np.int64]
    """Row of the label file."""


def pool_size(dataset: Path) -> int:
    """Images of the pool, by the statistics of the row groups that hold one split alone."""
    images = 0
    with pq.ParquetFile(dataset / INDEX) as file:
        for group in range(file.num_row_groups):
            of_group = file.metadata.row_group(group)
            splits = of_group.column(file.schema_arrow.get_field_index("split")).statistics
            if splits is not None and splits.has_min_max and splits.min == splits.max:
                images += of_group.num_rows * (splits.min == "pool")
            else:
                images += file.read_row_group(group, columns=["split"]).filter(_MINE).num_rows
    return images


def pool_shards(dataset: Path) -> Iterator[PoolShard]:
    """The pool's shards, in the order of the index, where the rows of each stand together."""
    seen = set[str]()
    for name, runs in groupby(_runs(dataset / INDEX), key=itemgetter(0)):
        assert name not in seen, f"{dataset / INDEX}: the rows of {name} do not stand together"
        yield PoolShard(len(seen), name, pa.concat_tables(run for _, run in runs).combine_chunks())
        seen.add(name)


def _runs(index: Path) -> Iterator[tuple[str, pa.Table]]:
    """Consecutive rows of one shard, as far as they lie in one batch."""
    with pq.ParquetFile(index) as file:
        for batch in batches(file, _BATCH, ["split", *INDEXED]):
            table = pa.table(batch).filter(_MINE).select(INDEXED)
            runs = pc.run_end_encode(table["shard"].combine_chunks())
            start = 0
            for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
                yield name, table.slice(start, end - start)
                start = end


class LabelTables:
    """The label files of a pool."""

    def __init__(self, config: SelectConfig, context: StageContext, classes: int, scratch: Path) -> None:
        """`classes`: of the dataset. `scratch`: for copies of the columns `RULED`, of files that cannot be used as
        they lie."""
        self._context, self._classes, self._scratch = context, classes, scratch
        self.dataset = context.inputs["dataset"]
        self.images = pool_size(self.dataset)
        """Of the pool."""
        self.threads = 8 if "pseudo_labels" in context.remote else 2
        """That read at a time; those that read from S3 wait most of it. Each holds a shard or two."""
        self._confidence = "confidence" if config.confidence == "raw" else "calibrated"
        self._there = frozenset(context.files("pseudo_labels", LABEL_FILES))
        self.folder = context.inputs["pseudo_labels"]
        """What messages name."""
        self.ruled = list[Path]()
        """For each shard, by number, a Parquet file with the columns `RULED`; once they were checked."""
        self.soft_schema = pa.schema([])
        """Of the columns `SOFT`; once they were checked."""

    def check(self, tell: Callable[[int], None]) -> None:
        """One pass over all labels, before anything is chosen.

        `tell` is called with the images checked so far. Raises `StageFailed` unless the labels are those of exactly
        the pool's images, content hash included; `UserError` where they know other classes than the dataset's;
        `Stopped` after SIGTERM.
        """
        inexactly = f"{self.folder} does not label exactly the {self.images} images of the pool"
        unused, done = set(self._there), 0
        for shard, schema in in_order(self._checked, self.shards(), self.threads):
            name = label_file(shard.name)
            if schema is None:
                raise StageFailed(f"{inexactly}: {name} is missing, or has other keys than {shard.name}")
            self._check_schema(name, schema)
            unused.remove(name)
            self.ruled.append(self._ruled(shard))
            done += shard.rows.num_rows
            tell(done)
        if unused:
            raise StageFailed(f"{inexactly}: {min(unused)} belongs to no shard of it")

    def shards(self) -> Iterator[PoolShard]:
        """Those of the pool; raises `Stopped` after SIGTERM."""
        for shard in pool_shards(self.dataset):
            if self._context.stopping():
                raise Stopped
            yield shard

    def of(self, shard: PoolShard) -> Labels:
        """Of a shard that was checked."""
        table = _read(self.ruled[shard.number], ["key", "top1", "confidence", "margin"])
        place = _places(shard.rows["key"], table["key"])
        assert place is not None, f"the labels of {shard.name} changed since they were checked"
        top1, confidence, margin = (pc.fill_null(table[name], 0).to_numpy()[place] for name in table.column_names[1:])
        return Labels(top1, confidence, margin, place)

    def soft(self, shard: PoolShard, place: NDArray[np.int64]) -> pa.Table:
        """The columns `SOFT` of these rows of a shard's label file, in that order; of other columns not a byte."""
        wanted = np.sort(place)
        tables, start = [self.soft_schema.empty_table()], 0
        if len(place):
            with self._opened(label_file(shard.name)) as file:
                for batch in batches(file, _SOFT_BATCH, self.soft_schema.names):
                    first, end = np.searchsorted(wanted, (start, start + len(batch)))
                    tables.append(pa.table(batch.take(pa.array(wanted[first:end] - start))))
                    start += len(batch)
        found = pa.concat_tables(tables).select(self.soft_schema.names)
        return found if np.array_equal(wanted, place) else found.take(pa.array(np.searchsorted(wanted, place)))

    def highest(self) -> float:
        """The highest confidence of all."""
        return float(max(pc.max(_read(file, ["confidence"])["confidence"]).as_py() or 0.0 for file in self.ruled))

    def _checked(self, shard: PoolShard) -> tuple[PoolShard, pa.Schema | None]:
        """The schema of the shard's label file; None if there is no such file, or it is one of other images."""
        name = label_file(shard.name)
        if name not in self._there:
            return shard, None
        columns = [self._confidence if column == "confidence" else column for column in RULED]
        with self._opened(name) as file:
            schema, table = file.schema_arrow, file.read(columns).select(columns).rename_columns(RULED)
        place = _places(shard.rows["key"], table["key"])
        if place is None:
            return shard, None
        if not shard.rows["sha256"].equals(table["sha256"].take(pa.array(place))):
            raise StageFailed(f"{self.folder} labels other bytes than the pool holds: {name}")
        highest = pc.max(table["top1"]).as_py()
        if highest is not None and highest >= self._classes:
            raise self._other_classes(name, f"one numbered {highest}")
        if self._ruled(shard).parent == self._scratch:
            pq.write_table(table, self._ruled(shard), compression="lz4", use_dictionary=["reason"])
        return shard, schema

    def _check_schema(self, name: str, schema: pa.Schema) -> None:
        """Of all files the same, and of as many classes as the dataset's."""
        check_teacher(f"{self.folder}/{name}", schema, self._context.fingerprints.get("pseudo_labels/teacher"))
        soft = pa.schema([schema.field(column) for column in SOFT if column in schema.names])
        width = soft.field("probabilities").type.list_size
        if width > self._classes or ("classes" not in soft.names and width < self._classes):
            raise self._other_classes(name, str(width))
        if not self.ruled:
            self.soft_schema = soft
        if soft != self.soft_schema:
            raise StageFailed(f"{self.folder}/{name} has other soft labels than the file before: label the pool again")

    def _other_classes(self, name: str, which: str) -> UserError:
        return UserError(
            f"{self.folder}/{name} knows other classes than the dataset: {which}, and the dataset has {self._classes}; "
            "label the pool with a teacher that was trained on this dataset"
        )

    def _ruled(self, shard: PoolShard) -> Path:
        name = label_file(shard.name)
        remote = self._context.remote.get("pseudo_labels")
        if self._confidence == "confidence" and (remote is None or name not in remote.sizes):
            return self.folder / name
        return self._scratch / f"ruled-{shard.number:06d}.parquet"

    @contextmanager
    def _opened(self, name: str) -> Iterator[pq.ParquetFile]:
        with self._context.open("pseudo_labels", name) as stream, pq.ParquetFile(stream) as file:
            yield file


def _read(file: Path, columns: list[str]) -> pa.Table:
    with pq.ParquetFile(file) as table:
        return table.read(columns, use_threads=False).select(columns)


def _places(keys: pa.ChunkedArray, found: pa.ChunkedArray) -> NDArray[np.int64] | None:
    """Where each of `keys`, all different, stands in `found`; None unless they are the same keys."""
    if len(keys) != len(found):
        return None
    if keys.equals(found):
        return np.arange(len(keys))
    places = pc.index_in(keys, value_set=found)
    return None if places.null_count else places.to_numpy().astype(np.int64)
