"""Which images are labelled: those of the dataset's pool, or of a selection that another teacher labels anew.

In: a Parquet table with columns key, sha256, shard, offset and size; `index.parquet` or `selection.parquet`. Out: the
rows of one shard at a time. Memory holds 16 bytes an image, and text of one shard alone.

The text of a shard is read from the row groups that mention it. In an index these are a few; in the manifest of a
selection that was written out, shuffled, all of them: such a table is sorted once, into a temporary file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ns_core.config import ComputeConfig, InferConfig
from ns_core.data.index import INDEX, Split, coded, joined_text
from ns_core.data.rows import Rows
from ns_core.errors import UserError
from ns_core.selection.statements import connect, listed

SELECTION = "selection.parquet"
_SORTED = 1 << 18
"""Rows from which on a table whose shards are mixed is sorted: four row groups."""
_ROW_GROUP = 1 << 14


class Worklist:
    """Images by shard; within one, in the order of their table, or of their offsets where that had to be sorted."""

    def __init__(self, path: Path, split: Split | None, compute: ComputeConfig) -> None:
        """`split`: of an index, the rows that count."""
        if self._read(path, split) and len(self) >= _SORTED:
            self._scratch = TemporaryDirectory(prefix="ns-worklist-")
            self._read(_sorted(path, split, Path(self._scratch.name), compute), None)

    @classmethod
    def of(cls, inputs: Mapping[str, Path], compute: ComputeConfig) -> Self:
        """The images of the input `selection`, or without one of the dataset's pool.

        Raises `UserError` when there are none.
        """
        if "selection" in inputs:
            return cls(inputs["selection"] / SELECTION, None, compute)
        found = cls(inputs["dataset"] / INDEX, "pool", compute)
        if not found.shards:
            raise UserError(
                f"{InferConfig.STAGE}: the dataset has no pool, so that there is nothing to label: set data.unlabeled, "
                "or a lower data.labels_per_class, and prepare it again"
            )
        return found

    def _read(self, path: Path, split: Split | None) -> bool:
        """Takes in a table; whether its shards are mixed."""
        self._path, self._mine = path, None if split is None else pc.field("split") == split
        columns = ["shard", "offset", "size"]
        table = pq.read_table(path, columns=columns, filters=self._mine, read_dictionary=["shard"])
        self.shards, codes = coded(table["shard"])
        """Sorted; as the dataset's index names them (`data.reading`)."""
        order = np.argsort(codes, kind="stable")
        self._offsets: NDArray[np.int64] = table["offset"].to_numpy()[order]
        self._sizes: NDArray[np.int64] = table["size"].to_numpy()[order]
        ends = np.cumsum(np.bincount(codes, minlength=len(self.shards))).tolist()
        self._slices = {
            shard: slice(first, end) for shard, first, end in zip(self.shards, [0, *ends], ends, strict=False)
        }
        return int(np.count_nonzero(np.diff(codes))) >= len(self.shards)

    def __len__(self) -> int:
        return len(self._offsets)

    def count(self, shard: str) -> int:
        """Images of a shard."""
        mine = self._slices[shard]
        return int(mine.stop - mine.start)

    def texts(self, shard: str) -> pa.Table:
        """Columns key and sha256 of a shard's images.

        Reads the row groups that mention the shard and no others.
        """
        here = pc.field("shard") == shard
        wanted = here if self._mine is None else self._mine & here
        return pq.read_table(self._path, columns=["key", "sha256"], filters=wanted)

    def rows(self, shard: str, texts: pa.Table) -> Rows:
        """The same images as rows to be read, without targets. `texts`: what `texts(shard)` gave."""
        mine = self._slices[shard]
        return Rows(
            shard_names=(shard,),
            shard_codes=np.zeros(texts.num_rows, np.int32),
            offsets=self._offsets[mine],
            sizes=self._sizes[mine],
            keys=joined_text(texts["key"]),
            targets=np.zeros((texts.num_rows, 0), np.float32),
        )


def _sorted(path: Path, split: Split | None, folder: Path, compute: ComputeConfig) -> Path:
    """A copy of the table's columns in `folder`, shard after shard."""
    target = folder / "sorted.parquet"
    mine = "" if split is None else f"WHERE split = '{split}'"
    memory = int(compute.memory_gigabytes * (1 << 30))
    with connect(memory, compute.threads or 1, folder) as connection:
        connection.execute("SET preserve_insertion_order = true")
        connection.execute(
            f'COPY (SELECT key, sha256, shard, "offset", size FROM read_parquet({listed([path])}) {mine} '
            f'ORDER BY shard, "offset") TO {listed([target])[1:-1]} (FORMAT parquet, ROW_GROUP_SIZE {_ROW_GROUP})'
        )
    return target


def spread(shards: Sequence[str]) -> list[str]:
    """The same shards in an order whose beginning lies all over the list: first, middle, quarters, eighths, ...

    A pool may be sorted by class, as folders by class name are: its first shards would show a few classes.
    """
    digits = max(1, (len(shards) - 1).bit_length())
    return [shards[number] for number in sorted(range(len(shards)), key=lambda at: f"{at:0{digits}b}"[::-1])]
