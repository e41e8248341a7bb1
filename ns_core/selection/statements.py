"""What the selection asks DuckDB: SQL over label tables that lie in Parquet files, in bounded memory, off the network.

In: Parquet files with the columns key, sha256, reason, top1, confidence, margin. A row is named by one integer, `row`:
its file's place in the list in the upper bits, its number in the file in the lower `ROW_BITS`. Out: text of statements.

A `code` tells a row's class and bin; bins of a class ascend with (confidence, margin), so that a count by code says in
which bin the class is to be cut. Below 1 the bins get finer towards 1, where teachers put most of their confidences,
and those of exactly 1 are told apart by margin. A bin's edge is a power of two times an integer: exact in float32.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

ROW_BITS = 40
CODES = 1 << 11
"""Codes of a class; code % CODES is the bin, and bin 0 holds the rows that nothing is chosen among."""
UNREAD, DAMAGED = -1, -2
"""Codes of rows that could not be read, and of rows that no teacher can have written."""
_TIERS, _STEPS, _BASE = 5, 252, 256
"""Tier t covers the confidences from 1 - 64^-t to 1 - 64^-(t+1) in 252 bins of 1/256 of 64^-t."""
_MARGINS, _PER_LOGIT = CODES - 1 - _TIERS * _STEPS, 8
"""Bins of confidence 1, an eighth of log-odds each; the last holds all larger margins."""
_BATCH = 1 << 16
Drawn = Iterator[tuple[NDArray[np.int64], NDArray[np.int32]]]
"""Batches of (row, class)."""


def connect(memory_bytes: int, threads: int, scratch: Path) -> duckdb.DuckDBPyConnection:
    """A database of its own that spills into `scratch` and neither fetches nor loads an extension."""
    offline = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    connection = duckdb.connect(
        config={
            **offline,
            "memory_limit": f"{memory_bytes >> 20}MiB",
            "threads": threads,
            "temp_directory": str(scratch),
            "preserve_insertion_order": False,
        }
    )
    # The bar appears after two seconds on standard output, where a stage speaks to its launcher.
    connection.execute("SET enable_progress_bar = false")
    return connection


def float32(value: float) -> str:
    """A literal of the float32 nearest to `value`, exactly."""
    return f"'{float(np.float32(value))!r}'::FLOAT"


def listed(files: Sequence[Path]) -> str:
    """The files as a DuckDB list."""
    return "[" + ", ".join("'" + str(file).replace("'", "''") + "'" for file in files) + "]"


def row_counts(connection: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> list[int]:
    """Rows of each file, as its footer says."""
    if not files:
        return []
    found = connection.execute(f"SELECT file_name, num_rows FROM parquet_file_metadata({listed(files)})").fetchall()
    rows = dict(found)
    return [rows[str(file)] for file in files]


def within(threshold: float, max_confidence: float, by_class: NDArray[np.float32] | None = None) -> str:
    """SQL: the confidence passes the threshold, and that of its class where `by_class` [C] has them, and is below the
    highest, of which 1 is none."""
    above = f"confidence >= {float32(threshold)}"
    if by_class is not None:
        listed_values = ", ".join(repr(float(one)) for one in by_class)
        above += f" AND confidence >= ('[{listed_values}]'::FLOAT[])[top1 + 1]"
    return above if max_confidence == 1 else f"{above} AND confidence < {float32(max_confidence)}"


def sampled(fraction: float, seed: int) -> str:
    """SQL: the image is in this share of the pool, above 0 and below 1; those of a smaller share are."""
    lot = number(f"sha256('pool:{seed}:' || sha256)")
    return f"{lot} < {math.ceil(Fraction(fraction) * 2**64)}::UBIGINT"


def define_views(connection: duckdb.DuckDBPyConnection, files: Sequence[Path], passes: str, bins: str) -> None:
    """Views `labels` (all rows, with `row` and `code`) and `eligible` (those that pass).

    `passes`: `within()`, and `sampled()` where a share is chosen from. `bins`: `fine_bins()` or `hundredths()`.
    Numbers are asked whether they are finite: DuckDB leaves out comparisons that hold for a file's least and greatest
    value, of which NaN is neither.
    """
    connection.execute(f"""
        CREATE TEMP VIEW labels AS
        SELECT key, sha256, top1, confidence, margin, (file_index::BIGINT << {ROW_BITS}) + file_row_number AS row,
            CASE WHEN reason IS NOT NULL THEN {UNREAD}
                WHEN isfinite(confidence + margin) AND top1 >= 0 AND margin >= 0 AND confidence >= 0 AND confidence <= 1
                THEN top1::BIGINT * {CODES} + CASE WHEN {passes} THEN 1 + {bins} ELSE 0 END
                ELSE {DAMAGED} END AS code,
            reason IS NULL AND {passes} AS passes
        FROM read_parquet({listed(files)}, file_row_number = true, hive_partitioning = false)""")
    connection.execute("CREATE TEMP VIEW eligible AS SELECT * FROM labels WHERE passes")


def leave_out_lost(connection: duckdb.DuckDBPyConnection) -> None:
    """From here on the rows of table `lost` stand neither in `labels` nor in `eligible`."""
    connection.execute("ALTER VIEW labels RENAME TO all_labels")
    connection.execute("CREATE TEMP VIEW labels AS SELECT * FROM all_labels ANTI JOIN lost USING (row)")
    connection.execute("CREATE OR REPLACE TEMP VIEW eligible AS SELECT * FROM labels WHERE passes")


def fine_bins() -> str:
    """SQL: the bin of a row that passes, 0 to CODES - 2, ascending with (confidence, margin)."""
    tiers = []
    for tier in range(_TIERS):
        scale = _BASE * 64**tier
        offset = scale - _BASE - tier * _STEPS  # the scaled lower edge, less the bins of lower tiers
        below = float32(1 - 64.0 ** -(tier + 1))
        tiers.append(f"WHEN confidence < {below} THEN floor(confidence * {float32(scale)})::BIGINT - {offset}")
    margin = f"least(floor(margin * {float32(_PER_LOGIT)}), {float32(_MARGINS - 1)})::INTEGER"
    return f"CASE {' '.join(tiers)} ELSE {_TIERS * _STEPS} + {margin} END"


def hundredths() -> str:
    """SQL: the official code's bin, 0 to 100: the largest i with i / 100, as float32, at most the confidence."""
    nearest = "round(confidence::DOUBLE * 100)"
    return f"({nearest}::INTEGER - (confidence < ({nearest} / 100)::FLOAT)::INTEGER)"


def number(digest: str) -> str:
    """SQL: the first 64 bits of a hexadecimal digest; ordered as the digests are, but for collisions."""
    return f"('0x' || left({digest}, 16))::UBIGINT"


def drawn_rows(connection: duckdb.DuckDBPyConnection, statement: str) -> Drawn:
    """The answer to a statement of two columns, row and class, as it is made: never whole in memory."""
    for batch in connection.sql(statement).to_arrow_reader(_BATCH):
        yield batch.column(0).to_numpy(), batch.column(1).to_numpy()


def any_row(connection: duckdb.DuckDBPyConnection, statement: str) -> bool:
    """Whether the answer has a row."""
    return bool(connection.execute(f"{statement} LIMIT 1").fetchall())
