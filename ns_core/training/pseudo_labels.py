"""What the student is trained towards, by row of the selection.

In: the soft labels of `selection.parquet`, or those of the input `labels`, in which a better teacher labels the same
images anew (paper, section 3.1; the official code's `reassign`). Out: `Targets`.

Labels are kept as they are stored: 81 million of 1,000 classes are 162 GB in fp16 and would be 324 GB as targets.
More than `MEMORY_BYTES` of them lie in a file in `context.cache`, which the processes of a machine share; it is there
for the next attempt where one is cut off, and gone when the student is done.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from ns_core.config import StudentConfig
from ns_core.data.index import joined_text
from ns_core.data.pseudo_labels import LABEL_FILES, check_teacher, label_file, spread_rest
from ns_core.data.row_groups import batches
from ns_core.data.rows import OneHot, Targets
from ns_core.errors import StageFailed, UserError
from ns_core.stage import StageContext, Stopped, log
from ns_core.training.label_records import Records, most_probable, record_of, recorded, soft_columns
from ns_core.training.losses import pseudo_targets

SELECTION = "selection.parquet"
MEMORY_BYTES = 2 << 30
"""Up to a million images with all of 1,000 classes; each process holds its own."""
_BATCH = 1 << 14
"""Rows of the selection that are read at a time: 33 MB of 1,000 classes."""
_ALONE = 1 << 15
"""Numbers that torch works on without calling other threads for help, which loader threads must not do."""

_STATE = np.dtype([("unread", np.int64), ("filled", np.bool_)])
"""What follows the labels in their file."""

_Reader = Callable[[pa.Table], NDArray[Any]]
"""A table with the columns of `SOFT` -> what is kept of each row."""


class Selected(NamedTuple):
    """The images of a selection, as far as their labels go."""

    shard_names: tuple[str, ...]
    shard_codes: NDArray[np.int32]
    keys: pa.Array
    """One array of text (`index.joined_text`)."""

    def members(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Each shard with the numbers of its rows, ascending."""
        order = np.argsort(self.shard_codes, kind="stable")
        ends = np.cumsum(np.bincount(self.shard_codes, minlength=len(self.shard_names)))
        return zip(self.shard_names, np.split(order, ends[:-1]), strict=True)


@dataclass(frozen=True)
class SoftTargets:
    """Soft labels as they are stored, of which float32 targets are made when they are asked for.

    A row costs 0.3 us at 10 classes and 5 us at 1,000 (2.3 ns a class for the logarithm), where the target itself at
    hand takes 0.02 and 0.07 us and its image some 500; by torch, as numpy gives other last digits.
    """

    records: Records
    classes: int
    temperature: float

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        targets = np.empty((len(rows), self.classes), np.float32)
        step = max(1, _ALONE // self.classes)
        for first in range(0, len(rows), step):
            whole = self._whole(self.records[rows[first : first + step]])
            targets[first : first + step] = pseudo_targets(whole, "soft", self.temperature).numpy()
        return targets

    def _whole(self, records: Records) -> torch.Tensor:
        """float32[N,C]: what `data.pseudo_labels.dense` makes of the same rows."""
        stored = np.ascontiguousarray(records["probabilities"]).astype(np.float32)
        if "classes" in (records.dtype.names or ()):
            stored = spread_rest(stored, records["classes"], records["kept_mass"], self.classes)
        return torch.from_numpy(stored)


def targets_of(selected: Selected, config: StudentConfig, context: StageContext, classes: int) -> tuple[Targets, int]:
    """The targets of the images of the input `selection`, and how many of them the input `labels` could not label:
    those keep what the selection says.

    Label smoothing goes on hard pseudo-labels only (official code). Raises `StageFailed` unless `labels`, where there
    are any, are of exactly the selected images, content hash included; `UserError` where the disk is full; `Stopped`
    after SIGTERM.
    """
    source = _Source(selected, context)
    if config.labels == "hard":
        best = np.empty(len(selected.keys), np.int32)
        unread = source.read(best, most_probable)
        return OneHot(best, classes, config.label_smoothing), unread
    records, unread = _kept(source, len(selected.keys), context)
    return SoftTargets(records, classes, config.temperature), unread


def forget(context: StageContext) -> None:
    """Removes the file of the labels, if there is one. A process that still reads it keeps its own hold of it."""
    _file(context).unlink(missing_ok=True)


class _Source:
    """The tables that have the labels."""

    def __init__(self, selected: Selected, context: StageContext) -> None:
        self._selected, self._context = selected, context
        with context.open("selection", SELECTION) as file:
            self.schema = soft_columns(pq.read_schema(file))

    def read(self, kept: NDArray[Any], of: _Reader) -> int:
        """Fills `kept`, row by row of the selection; how many rows `labels` has no label of."""
        if "labels" not in self._context.inputs:
            self._take(kept, of, None)
            return 0
        unreadable = self._relabel(kept, of)
        count = int(unreadable.sum())
        if count:
            log.warning("%d of %d images could not be labelled anew and keep their labels", count, len(kept))
            self._take(kept, of, unreadable)
        return count

    def _take(self, kept: NDArray[Any], of: _Reader, wanted: NDArray[np.bool_] | None) -> None:
        """The selection's own labels, of all rows or of the wanted ones."""
        first = 0
        for table in self._batches(self.schema.names):
            rows = np.arange(first, first + table.num_rows)
            first += table.num_rows
            if wanted is not None:
                table = table.filter(pa.array(wanted[rows]))
                rows = rows[wanted[rows]]
            if len(rows):
                kept[rows] = of(table)

    def _relabel(self, kept: NDArray[Any], of: _Reader) -> NDArray[np.bool_]:
        """The labels of the input `labels`; bool[N], which images could not be read."""
        files = {label_file(shard): shard for shard in self._selected.shard_names}
        there = set(self._context.files("labels", LABEL_FILES))
        if odd := sorted(files.keys() ^ there):
            what = "are missing" if odd[0] in files else "are of no shard that was selected from"
            raise StageFailed(f"the teacher's labels are not those of the selection: {odd[0]} {what}")
        marks = np.concatenate([_marks(table["sha256"]) for table in self._batches(["sha256"])])
        unreadable = np.zeros(len(kept), np.bool_)
        for shard, members in self._selected.members():
            if self._context.stopping():
                raise Stopped
            table = self._labels(label_file(shard))
            places = self._places(shard, members, table, marks)
            read = pc.is_null(table["reason"]).to_numpy()
            kept[places[read]] = of(table.filter(pa.array(read)))
            unreadable[places[~read]] = True
        return unreadable

    def _labels(self, name: str) -> pa.Table:
        with self._context.open("labels", name) as file, pq.ParquetFile(file) as table:
            here = table.schema_arrow
            check_teacher(name, here, self._context.fingerprints.get("labels/teacher"))
            if record_of(soft_columns(here)) != record_of(self.schema):
                raise StageFailed(f"{name} and the selection keep soft labels in different forms: set one infer.top_k")
            return table.read(["key", "sha256", "reason", *self.schema.names])

    def _places(
        self, shard: str, members: NDArray[np.int64], labels: pa.Table, marks: NDArray[np.uint64]
    ) -> NDArray[np.int64]:
        """int64[rows of `labels`]: the row of the selection that each is of."""
        keys = self._selected.keys.take(pa.array(members))
        found = pc.index_in(joined_text(labels["key"]), value_set=keys)
        if found.null_count or labels.num_rows != len(members) or len(found.unique()) != len(members):
            raise StageFailed(
                f"the teacher's labels of {shard} are {labels.num_rows}, and not of exactly the {len(members)} images "
                "that were selected from it"
            )
        places: NDArray[np.int64] = members[found.to_numpy()]
        if not np.array_equal(_marks(labels["sha256"]), marks[places]):
            raise StageFailed(f"the teacher's labels of {shard} are of other bytes than were selected")
        return places

    def _batches(self, columns: list[str]) -> Iterator[pa.Table]:
        """Of the selection, in its order."""
        with self._context.open("selection", SELECTION) as file, pq.ParquetFile(file) as table:
            for batch in batches(table, _BATCH, columns):
                if self._context.stopping():
                    raise Stopped
                yield pa.Table.from_batches([batch])


def _kept(source: _Source, rows: int, context: StageContext) -> tuple[Records, int]:
    """The soft labels, in memory or in a file, and how many of them `labels` does not have."""
    record = record_of(source.schema)
    size = rows * record.itemsize

    def fill(records: Records) -> int:
        return source.read(records, lambda table: recorded(table, record))

    if size <= MEMORY_BYTES:
        records = np.empty(rows, record)
        return records, fill(records)
    path = _file(context)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the processes of this machine find what the first of them filled
        try:
            os.posix_fallocate(file.fileno(), 0, size + _STATE.itemsize)  # else a full disk is a SIGBUS later
        except OSError as error:
            path.unlink(missing_ok=True)
            raise UserError(
                f"{path.parent}: no room for {size / 1e9:.1f} GB of soft labels ({error.strerror}): free some, set "
                "NS_CACHE to a folder of a larger disk, or infer.top_k"
            ) from error
        mapped = np.memmap(file, record, "r+", shape=rows)
        state = np.memmap(file, _STATE, "r+", offset=size, shape=())
        if not state["filled"]:
            log.info("the soft labels of %d images go into a file of %.1f GB: %s", rows, size / 1e9, path)
            state["unread"] = fill(mapped)
            mapped.flush()
            state["filled"] = True
            state.flush()
        return np.asarray(mapped), int(state["unread"])


def _file(context: StageContext) -> Path:
    return context.cache / "pseudo-labels" / context.fingerprint


def _marks(sha256: pa.ChunkedArray) -> NDArray[np.uint64]:
    """uint64[N]: the first 64 bits of each content hash."""
    return np.frombuffer(bytes.fromhex("".join(sha256.to_pylist())), np.uint64)[::4].copy()
