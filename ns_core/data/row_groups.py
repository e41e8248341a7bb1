"""Parquet files that are read and written a row group at a time, in memory for one, however long they are.

Written: tables of any size, cut at the same rows however these arrive, so that equal rows give equal bytes; 65,536
rows make a group, or about 16 MB where a row is wide.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

_MOST_ROWS, _BYTES = 1 << 16, 16 << 20
"""The writer takes ten times a group's bytes: Arrow copies lists out of their null flags and makes levels of them."""
_TEXT_BYTES = 64
_FEW_VALUES = ["shard", "reason", "top1", "copies"]
"""Columns that a dictionary makes small; keys, digests and probabilities hardly repeat."""


def batches(file: pq.ParquetFile, rows: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """All rows in their order, at most so many at a time.

    Asked for all row groups at once, `iter_batches` holds the bytes of each until the end (pyarrow 25): 164 MB for an
    index of 2 million images, against 26.
    """
    for group in range(file.num_row_groups):
        yield from file.iter_batches(rows, row_groups=[group], columns=columns)


class RowGroups:
    """A context manager: the file is complete once it has been left, unless by an error."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._rows = max(1, min(_MOST_ROWS, _BYTES // sum(_width(field.type) for field in schema)))
        few = [name for name in _FEW_VALUES if name in schema.names]
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=few)
        self._schema, self._held = schema, schema.empty_table()

    def add(self, table: pa.Table) -> None:
        """Appends rows; the columns of the schema in any order."""
        self._held = pa.concat_tables([self._held, table.select(self._schema.names).cast(self._schema)])
        while self._held.num_rows >= self._rows:
            self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        with self._writer:
            if error is None and self._held.num_rows:
                self._write()

    def _write(self) -> None:
        group = self._held.slice(0, self._rows).combine_chunks()
        self._writer.write_table(group, row_group_size=self._rows)
        self._held = self._held.slice(self._rows)
        pa.default_memory_pool().release_unused()  # of 2 million images, 0.59 GB at most instead of 0.64


def _width(kind: pa.DataType) -> int:
    """Bytes of a value, about."""
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _width(kind.value_type)
    return _TEXT_BYTES if pa.types.is_string(kind) else max(1, kind.bit_width // 8)
