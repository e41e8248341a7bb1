"""Images of which one may stay: of equal bytes, or of a group of twins.

In: the view `eligible` (`selection.statements`). Out: those that go. The best of a group stays
(confidence, margin, then the smaller content hash, the smaller key), of whatever classes they are.
"""

from pathlib import Path
from typing import Literal

import duckdb

from ns_core.selection.statements import Drawn, any_row, drawn_rows, leave_out_lost, listed

Twins = Path | Literal["bytes"] | None
"""Which images are one: those of equal bytes; these and the groups of a Parquet file (key, group), in which a key
stands once; or none."""


def drop_duplicates(connection: duckdb.DuckDBPyConnection, twins: Twins) -> Drawn:
    """The rows that go, in batches; then leaves them out of the views.

    Bytes are compared by content hash. Most hashes occur once: a first pass finds 64-bit hashes of them that occur
    more often, and only rows with one of these, or in a group, are sorted. Images of equal bytes are in one group as
    soon as one of them is.
    """
    connection.execute("CREATE TEMP TABLE lost (row BIGINT, top1 INTEGER)")
    if twins is None:
        return
    connection.execute(
        "CREATE TEMP TABLE repeated AS SELECT digest FROM (SELECT hash(sha256) AS digest FROM eligible) "
        "GROUP BY digest HAVING count(*) > 1"
    )
    if twins == "bytes":
        if not any_row(connection, "FROM repeated"):
            return
        images = "SELECT *, sha256 AS image FROM eligible WHERE hash(sha256) IN (FROM repeated)"
    else:
        images = f"""
            SELECT e.*, coalesce('group ' || min(t."group") OVER (PARTITION BY sha256), sha256) AS image
            FROM eligible AS e LEFT JOIN read_parquet({listed([twins])}, hive_partitioning = false) AS t USING (key)
            WHERE t."group" IS NOT NULL OR hash(sha256) IN (FROM repeated)"""
    connection.execute(f"""
        INSERT INTO lost SELECT row, top1 FROM ({images})
        QUALIFY row_number() OVER (PARTITION BY image ORDER BY confidence DESC, margin DESC, sha256, key) > 1""")
    if any_row(connection, "FROM lost"):
        yield from drawn_rows(connection, "SELECT row, top1 FROM lost")
        leave_out_lost(connection)
