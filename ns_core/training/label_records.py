"""Soft labels of the tables of `data.pseudo_labels` as numpy records, bit for bit.

In: tables with those of the columns `SOFT` that a recipe asked for. Out: one record a row with them as fields, so that
a row of a file is in one place; or the most probable class alone.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ns_core.data.pseudo_labels import SOFT

Records = NDArray[Any]
"""Soft labels by row."""


def soft_columns(schema: pa.Schema) -> pa.Schema:
    """The columns of a table that hold its soft labels."""
    return pa.schema([schema.field(name) for name in SOFT if name in schema.names])


def record_of(schema: pa.Schema) -> np.dtype[np.void]:
    """A row of these columns as one record, so that in a file it is one place."""
    fields = []
    for field in schema:
        width, kind = ((field.type.list_size,), field.type.value_type) if _is_list(field) else ((), field.type)
        fields.append((field.name, kind.to_pandas_dtype(), width))
    return np.dtype(fields)


def _is_list(field: pa.Field) -> bool:
    return bool(pa.types.is_fixed_size_list(field.type))


def recorded(table: pa.Table, record: np.dtype[np.void]) -> Records:
    """The soft labels of a table's rows, each of which has one."""
    records = np.empty(table.num_rows, record)
    for field in table.schema:
        if field.name in SOFT:
            records[field.name] = _numbers(table, field.name)
    return records


def most_probable(table: pa.Table) -> NDArray[np.int32]:
    """int32[rows]. The bits of numbers of one sign are ordered as they are: 0.14 us a row of 1,000
    classes, where comparing fp16 takes 3.5."""
    if "classes" in table.column_names:
        best = _numbers(table, "classes")[:, 0]
    else:
        best = _numbers(table, "probabilities").view(np.uint16).argmax(axis=1)
    return np.asarray(best, np.int32)


def _numbers(table: pa.Table, name: str) -> NDArray[Any]:
    """A column without nulls: [N], or [N,W] of lists."""
    column = table[name].combine_chunks()
    if not _is_list(table.schema.field(name)):
        return np.asarray(column.to_numpy())
    return np.asarray(column.flatten().to_numpy()).reshape(len(column), -1)
