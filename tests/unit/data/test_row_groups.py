"""Row groups: the same file however the rows arrive, and groups of the size that was asked for."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ns_core.data.row_groups import RowGroups

ROWS = 150_000
NARROW = pa.table(
    {
        "key": [f"key-{number:06d}" for number in range(ROWS)],
        "shard": [f"shard-{number // 10_000}" for number in range(ROWS)],
        "copies": pa.array(np.arange(ROWS) % 7, pa.int32()),
    }
)


def _written(path: Path, table: pa.Table, at_once: int) -> Path:
    with RowGroups(path, table.schema) as file:
        for start in range(0, table.num_rows, at_once):
            file.add(table.slice(start, at_once))
    return path


def _groups(path: Path) -> list[int]:
    metadata = pq.read_metadata(path)
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


@pytest.mark.parametrize("at_once", [7_001, 65_536, 149_999])
def test_the_bytes_do_not_depend_on_how_the_rows_arrive(tmp_path: Path, at_once: int) -> None:
    whole = _written(tmp_path / "whole.parquet", NARROW, ROWS)
    assert _written(tmp_path / "parts.parquet", NARROW, at_once).read_bytes() == whole.read_bytes()
    assert pq.read_table(whole).equals(NARROW)
    assert _groups(whole) == [65_536, 65_536, ROWS - 2 * 65_536]


def test_wide_rows_make_groups_of_16_mb(tmp_path: Path) -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(40_000 * 1000, np.float16)), 1000)
    groups = _groups(_written(tmp_path / "wide.parquet", pa.table({"probabilities": lists}), 10_000))
    assert groups == [8_388] * 4 + [6_448]


def test_columns_may_come_in_any_order_and_no_rows_are_a_file_with_columns(tmp_path: Path) -> None:
    with RowGroups(tmp_path / "file.parquet", NARROW.schema) as file:
        file.add(NARROW.select(["copies", "key", "shard"]))
    assert pq.read_table(tmp_path / "file.parquet").equals(NARROW)
    _written(tmp_path / "none.parquet", NARROW.slice(0, 0), 1)
    assert pq.read_table(tmp_path / "none.parquet").equals(NARROW.slice(0, 0))
