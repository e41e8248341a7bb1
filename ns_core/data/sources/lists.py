"""Lists of images in CSV or Parquet files, read and checked.

In: a file with the columns `path`, `label` and perhaps `split`. Out: a `Listing`, its rows by path; every
mistake in it is one `UserError` with the line (CSV, from 1, the header is the first) or the row (Parquet, from 0).
"""

import os
from array import array
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from ns_core.data.folders import printable, told
from ns_core.data.index import Split
from ns_core.errors import UserError, nearest

WORDS: dict[str, Split] = {
    "labeled": "labeled",
    "train": "labeled",
    "holdout": "holdout",
    "val": "holdout",
    "test": "test",
    "pool": "pool",
    "unlabeled": "pool",
}
"""What may stand in the column `split`."""
_TEXT = {"path": pa.string(), "label": pa.string(), "split": pa.string()}


@dataclass(frozen=True)
class Listing:
    """The rows of one list, by the bytes of their paths."""

    field: str
    """Of `DataConfig`, which names the list."""
    file: Path
    paths: list[str]
    """Below the folder of the list, with `/`; absolute where they lie elsewhere."""
    labels: list[str]
    """As written; empty for a list of unlabelled images."""
    splits: list[str]
    """As written; empty when the list has no such column."""
    rows: "array[int]"
    """Where each stood, from 0."""

    def place(self, n: int) -> str:
        """Of entry `n`, for a person."""
        return _place(self.field, self.file, self.rows[n])


def read_list(field: str, file: Path, labelled: bool) -> Listing:
    """The list that `data.{field}` names, paths normalised. `labelled`: it has labels.

    Raises `UserError` for a file that cannot be read, a column that is missing, an empty path or label, an unknown
    word in `split` or a path that is there twice.
    """
    table = _table(field, file)
    wanted = ("path", "label") if labelled else ("path",)
    if missing := [name for name in wanted if name not in table.column_names]:
        hint = nearest(missing[0], table.column_names)
        raise UserError(
            f"data.{field}: {file} has no column '{missing[0]}'{hint}: its columns are "
            f"{', '.join(table.column_names)}; name one of them '{missing[0]}'"
        )
    if not table.num_rows:
        raise UserError(f"data.{field}: {file} has no rows: fill it, or correct the path")
    paths = _text(field, file, table, "path")
    labels = _text(field, file, table, "label") if labelled else []
    splits = _text(field, file, table, "split") if field == "labeled" and "split" in table.column_names else []
    del table
    _check_splits(field, file, splits)
    _check_labels(field, file, labels, splits)
    rows = _by_path(field, file, paths)
    return Listing(
        field=field,
        file=file,
        paths=[paths[row] for row in rows],
        labels=[labels[row] for row in rows] if labels else [],
        splits=[splits[row] for row in rows] if splits else [],
        rows=array("q", rows),
    )


def _by_path(field: str, file: Path, paths: list[str]) -> list[int]:
    """Rows by the bytes of their paths, which are normalised in place."""
    root = os.path.abspath(file.parent)
    for row, path in enumerate(paths):
        if not path:
            raise UserError(f"{_place(field, file, row)}: the path is empty; fill it in")
        paths[row] = _below(root, path)
    rows = sorted(range(len(paths)), key=lambda row: os.fsencode(paths[row]))
    for before, row in pairwise(rows):
        if paths[before] == paths[row]:
            first, again = sorted((before, row))
            raise UserError(
                f"{_place(field, file, again)}: {printable(paths[row])} is there twice, first in "
                f"{_place(field, file, first).rpartition(', ')[2]}; remove one"
            )
    return rows


def _table(field: str, file: Path) -> pa.Table:
    kind = file.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise UserError(f"data.{field}: {file} is neither .csv nor .parquet: give a list in one of the two")
    if not file.is_file():
        raise UserError(f"data.{field}: {file} does not exist (seen from {Path.cwd()}): correct the path")
    try:
        with told(file):
            if kind == ".parquet":
                return pq.read_table(file)
            # One thread: only then an error names the row.
            return pa.csv.read_csv(
                file,
                read_options=pa.csv.ReadOptions(use_threads=False),
                convert_options=pa.csv.ConvertOptions(column_types=_TEXT),
            )
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"data.{field}: {file} cannot be read: {said}; mend the file") from None


def _text(field: str, file: Path, table: pa.Table, name: str) -> list[str]:
    """A column of text or integers as text, equal ones the same object; null is empty."""
    column = table[name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(kind):
        return [""] * len(column)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise UserError(f"data.{field}: {file}: column '{name}' holds {kind}; make it text or integers")
    encoded = pc.dictionary_encode(pc.fill_null(pc.cast(column, pa.string()), "")).combine_chunks()
    values = encoded.dictionary.to_pylist()
    return [values[code] for code in encoded.indices.to_pylist()]


def _below(root: str, path: str) -> str:
    """`path`, normalised and relative to `root` if it lies there."""
    clean = os.path.normpath(path)
    return clean.removeprefix(f"{root}/") if clean.startswith("/") else clean


def _check_splits(field: str, file: Path, splits: list[str]) -> None:
    for row, word in enumerate(splits):
        if word not in WORDS:
            raise UserError(
                f"{_place(field, file, row)}: split '{word}'{nearest(word, WORDS)} is none of {', '.join(WORDS)}"
            )


def _check_labels(field: str, file: Path, labels: list[str], splits: list[str]) -> None:
    for row, label in enumerate(labels):
        if not label.strip() and not (splits and WORDS[splits[row]] == "pool"):
            raise UserError(f"{_place(field, file, row)}: the label is empty; fill it in, or write the split 'pool'")


def _place(field: str, file: Path, row: int) -> str:
    if file.suffix.lower() == ".parquet":
        return f"data.{field}: {file}, row {row}"
    # Blank lines are no rows. Values have no line breaks: pyarrow refuses them unless told otherwise.
    with file.open("rb") as stream:
        filled = (number for number, line in enumerate(stream, start=1) if line.strip(b"\r\n"))
        line = next(number for n, number in enumerate(filled) if n == row + 1)
    return f"data.{field}: {file}, line {line}"
