"""Which rows of a class are drawn: those of equal confidence and margin that the quota still takes, or those that
stand once more than the others.

In: the view `eligible` (`selection.statements`) and, by class, how many are to be drawn. Out: batches of rows. A row's
lot is a number of 64 bits, the smaller the better: of its content hash among equals, of a seeded hash of it for the
copies. Whole digests and keys decide where lots are equal, and are read only then.
"""

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ns_core.selection.counts import Integers, reached
from ns_core.selection.statements import Drawn, any_row, drawn_rows, number

_BIN_BITS = 12
"""Lots are counted by their first bits; a class of 130,000 has 32 rows in the bin where it is cut."""


def draw(connection: duckdb.DuckDBPyConnection, among: pa.Table, goal: Integers, seed: int) -> Drawn:
    """The first `goal` (by class) of each class in `among`.

    `among`: columns top1, confidence, margin, copies. Where `copies`, one of all rows of the class, for a copy;
    otherwise of those with exactly this confidence and margin, the smallest content hash first.
    """
    seeded = f"sha256('{seed}:' || sha256)"
    connection.register("among", among)
    connection.execute(f"""
        CREATE TEMP TABLE lots AS
        SELECT e.row, e.top1, CASE WHEN a.copies THEN {number(seeded)} ELSE {number("sha256")} END AS lot
        FROM eligible AS e JOIN among AS a USING (top1)
        WHERE a.copies OR (e.confidence = a.confidence AND e.margin = a.margin)""")
    connection.register("edges", _edges(connection, goal))
    yield from drawn_rows(
        connection, f"SELECT row, top1 FROM lots JOIN edges USING (top1) WHERE lot >> {64 - _BIN_BITS} < bin"
    )
    connection.execute(f"""
        CREATE TEMP TABLE placed AS
        SELECT row, lots.top1, edges.places - rank() OVER by_lot + 1 AS remaining,
            count(*) OVER (by_lot RANGE CURRENT ROW) AS equals
        FROM lots JOIN edges USING (top1) WHERE lot >> {64 - _BIN_BITS} = bin
        WINDOW by_lot AS (PARTITION BY lots.top1 ORDER BY lot)""")
    yield from drawn_rows(connection, "SELECT row, top1 FROM placed WHERE remaining >= equals")
    if any_row(connection, "FROM placed WHERE remaining BETWEEN 1 AND equals - 1"):
        yield from drawn_rows(
            connection,
            f"""
            SELECT row, e.top1 FROM eligible AS e JOIN placed AS p USING (row) JOIN among AS a ON a.top1 = e.top1
            WHERE p.remaining BETWEEN 1 AND p.equals - 1
            QUALIFY p.remaining >= row_number() OVER (
                PARTITION BY e.top1 ORDER BY CASE WHEN a.copies THEN {seeded} ELSE sha256 END, key)""",
        )


def draw_each(connection: duckdb.DuckDBPyConnection, among: pa.Table, seed: int) -> Drawn:
    """Each row for itself, as the official code does: drawn if its lot is below the class's `limit`.

    `among`: columns top1, confidence (the lowest of those that take part), limit (uint64, in parts of 2^64).
    """
    connection.register("among", among)
    lot = number(f"sha256('{seed}:' || sha256 || ':' || key)")
    yield from drawn_rows(
        connection,
        f"""
        SELECT row, e.top1 FROM eligible AS e JOIN among AS a USING (top1)
        WHERE e.confidence >= a.confidence AND {lot} < a."limit\"""",
    )


def _edges(connection: duckdb.DuckDBPyConnection, goal: Integers) -> pa.Table:
    """By class the bin of lots in which it is cut, and how many places are left in it."""
    found = connection.execute(
        f"SELECT top1, (lot >> {64 - _BIN_BITS})::BIGINT AS bin, count(*) AS rows FROM lots GROUP BY ALL ORDER BY ALL"
    ).fetchnumpy()
    top1: NDArray[np.int64] = found["top1"].astype(np.int64)
    place, before = reached(top1, found["rows"], goal)
    return pa.table({"top1": found["top1"][place], "bin": found["bin"][place], "places": goal[top1[place]] - before})
