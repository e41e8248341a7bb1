"""One look at a whole selection: how sure the teacher was of what was kept and dropped, and examples of both.

In: `selection.parquet` and `dropped.parquet` of a selection, `index.parquet` of its dataset, each as a file that
can be sought: one in S3 is read by the range, of a selection its narrow columns and never a soft label. Out: a
`Survey`. Rows pass by a few row groups at a time; what is held does not grow with the pool.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ns_core.data.ordered import in_order

KEPT = "kept"
JUDGED = ("below_threshold", "class_full", "duplicate")
"""Why an image that has a confidence was left out; one that could not be read or leaked has none."""
BINS = 50
"""Of the histograms, over confidences 0 to 1."""
SUREST, LEAST_SURE = "surest kept", "least sure kept"
EXAMPLES = {SUREST: 5, LEAST_SURE: 5, **dict.fromkeys(JUDGED, 4)}
"""Examples a class, by group: those kept from either end, and of the dropped ones the surest."""
_THREADS = 8
"""Row groups that are read at a time: in S3 each takes a request or two, 10,000 in all for 300 million images."""

Open = Callable[[], BinaryIO]


class Place(NamedTuple):
    """Where the bytes of an image lie."""

    shard: str
    offset: int
    size: int


class Example(NamedTuple):
    """An image of the pool."""

    top1: int
    group: str
    """Of `EXAMPLES`."""
    confidence: float
    place: Place


@dataclass(frozen=True)
class Survey:
    """What one pass over a selection found."""

    histograms: Mapping[str, NDArray[np.int64]]
    """`KEPT` and each of `JUDGED` -> int64[BINS], images by confidence."""
    copies: NDArray[np.int64]
    """int64[M+1]: kept images by the number of times the student sees them."""
    examples: Sequence[Example]
    """By class, then in the order of `EXAMPLES`, the surest first in each group."""


def survey(selection: Open, dropped: Open, index: Open, classes: int, shown: Sequence[int]) -> Survey:
    """Reads the selection once. `classes`: how many there are. `shown`: those that examples are wanted of.

    The places of dropped images are looked up in the dataset's index by their keys.
    """
    histograms = {name: np.zeros(BINS, np.int64) for name in (KEPT, *JUDGED)}
    best = {name: _Best(shown, classes, count) for name, count in EXAMPLES.items()}
    copies = np.zeros(1, np.int64)
    chosen, left_out = _RowGroups(selection), _RowGroups(dropped)
    for rows, batch in chosen.all(["top1", "confidence", "copies"]):
        top1, confidence = batch["top1"].to_numpy(), batch["confidence"].to_numpy()
        histograms[KEPT] += _binned(confidence)
        best[SUREST].offer(top1, confidence, rows)
        best[LEAST_SURE].offer(top1, -confidence, rows)
        more = np.bincount(batch["copies"].to_numpy(), minlength=len(copies))
        more[: len(copies)] += copies
        copies = more
    for rows, batch in left_out.all(["top1", "confidence", "reason"]):
        for reason in JUDGED:
            mine = pc.equal(batch["reason"], reason).to_numpy(zero_copy_only=False)
            top1, confidence = (batch[name].filter(pa.array(mine)).to_numpy() for name in ("top1", "confidence"))
            histograms[reason] += _binned(confidence)
            best[reason].offer(top1, confidence, rows[mine])
    best[LEAST_SURE].forget(best[SUREST].rows)
    place = ["shard", "offset", "size"]
    kept = {name: chosen.rows(best[name].rows, place).to_pylist() for name in (SUREST, LEAST_SURE)}
    keys = {reason: left_out.rows(best[reason].rows, ["key"])["key"].to_pylist() for reason in JUDGED}
    found = _indexed(_RowGroups(index), [key for group in keys.values() for key in group])
    places = {name: [Place(**row) for row in rows] for name, rows in kept.items()}
    places |= {reason: [found[key] for key in group] for reason, group in keys.items()}
    return Survey(histograms, copies, _in_order(best, places))


class _Best:
    """The rows of each class with the highest scores, the first of equal ones; rows must come ascending."""

    def __init__(self, shown: Sequence[int], classes: int, count: int) -> None:
        self._count = count
        self._floor = np.full(classes, np.inf)
        """What a class's rows must exceed: the lowest score that is held, once there are `count`."""
        self._floor[list(shown)] = -np.inf
        self.top1, self.scores = np.empty(0, np.int32), np.empty(0, np.float32)
        self.rows = np.empty(0, np.int64)

    def offer(self, top1: NDArray[np.int32], scores: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """Takes in more rows: after the first batches hardly any pass the floor, so little is sorted."""
        better = scores > self._floor[top1]
        if not better.any():
            return
        top1 = np.concatenate([self.top1, top1[better]])
        scores = np.concatenate([self.scores, scores[better]])
        rows = np.concatenate([self.rows, rows[better]])
        order = np.lexsort((rows, -scores, top1))
        rank = np.arange(len(order)) - np.searchsorted(top1[order], top1[order])
        best, last = order[rank < self._count], order[rank == self._count - 1]
        self.top1, self.scores, self.rows = top1[best], scores[best], rows[best]
        self._floor[top1[last]] = scores[last]

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Drops these rows, which are shown already."""
        held = ~np.isin(self.rows, rows)
        self.top1, self.scores, self.rows = self.top1[held], self.scores[held], self.rows[held]


def _binned(confidence: NDArray[np.float32]) -> NDArray[np.int64]:
    """int64[BINS]. A confidence of 1 falls into the last bin."""
    return np.bincount(np.minimum((confidence * np.float32(BINS)).astype(np.int64), BINS - 1), minlength=BINS)


class _RowGroups:
    """A Parquet file by its row groups, which several threads read, each through a stream of its own."""

    def __init__(self, file: Open) -> None:
        self._open = file
        with file() as stream:
            self.metadata = pq.read_metadata(stream)
        sizes = [self.metadata.row_group(group).num_rows for group in range(self.metadata.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._schema = self.metadata.schema.to_arrow_schema()

    def all(self, columns: list[str]) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        """The columns a row group at a time, with the numbers of the rows."""
        for group, table in self.some(range(self.metadata.num_row_groups), columns):
            yield np.arange(self._starts[group], self._starts[group + 1]), table

    def some(self, groups: Sequence[int], columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
        """The columns of these row groups, each with its number."""

        def read(group: int) -> pa.Table:
            with self._open() as stream:
                file = pq.ParquetFile(stream, metadata=self.metadata, pre_buffer=False)
                return file.read_row_group(group, columns=columns, use_threads=False)

        yield from zip(groups, in_order(read, groups, _THREADS), strict=True)

    def rows(self, rows: NDArray[np.int64], columns: list[str]) -> pa.Table:
        """These rows, in this order: only the row groups that hold one are read."""
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        parts, order = [self._schema.empty_table().select(columns)], [np.empty(0, np.int64)]
        for group, table in self.some(np.unique(groups).tolist(), columns):
            members = np.flatnonzero(groups == group)
            parts.append(table.take(pa.array(rows[members] - self._starts[group])))
            order.append(members)
        return pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(order))))


def _indexed(index: _RowGroups, keys: Sequence[str]) -> dict[str, Place]:
    """Where the pool's images with these keys lie.

    Reads the keys of a row group only where its least and greatest leave room for a wanted one, and goes on to the
    places only where there is one: 300 million keys would be 9 GB of text.
    """
    wanted, found = pa.array(sorted(set(keys)), pa.string()), dict[str, Place]()
    groups = [group for group in range(index.metadata.num_row_groups) if _may_hold(index.metadata, group, wanted)]
    hits = {}
    for group, table in index.some(groups, ["key", "split"]):
        mine = pc.and_(pc.is_in(table["key"], wanted), pc.equal(table["split"], "pool"))
        if pc.any(mine).as_py():
            hits[group] = mine
    for group, table in index.some(list(hits), ["key", "shard", "offset", "size"]):
        for row in table.filter(hits[group]).to_pylist():
            found[row["key"]] = Place(row["shard"], row["offset"], row["size"])
    assert len(found) == len(wanted), "a selection names images of its dataset's pool"
    return found


def _may_hold(metadata: pq.FileMetaData, group: int, wanted: pa.Array) -> bool:
    """Whether one of the keys lies between the least and the greatest of a row group."""
    bounds = metadata.row_group(group).column(metadata.schema.names.index("key")).statistics
    if bounds is None or not bounds.has_min_max:
        return True
    between = pc.and_(pc.greater_equal(wanted, bounds.min), pc.less_equal(wanted, bounds.max))
    return bool(pc.any(between).as_py())


def _in_order(best: Mapping[str, _Best], places: Mapping[str, Sequence[Place]]) -> list[Example]:
    groups = list(EXAMPLES)
    examples = [
        Example(int(label), name, abs(float(score)), place)
        for name, held in best.items()
        for label, score, place in zip(held.top1, held.scores, places[name], strict=True)
    ]
    return sorted(examples, key=lambda one: (one.top1, groups.index(one.group), -one.confidence))
