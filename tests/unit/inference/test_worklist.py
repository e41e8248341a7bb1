"""Whatever the order of a table, each shard has its rows and texts, in step."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ns_core.config import ComputeConfig
from ns_core.data.index import DatasetIndex
from ns_core.errors import UserError
from ns_core.inference import worklist
from ns_core.inference.worklist import Worklist, spread
from tests.factories import pool_without_pictures


def test_the_pool_of_an_index_is_listed_shard_by_shard(tmp_path: Path) -> None:
    folder = pool_without_pictures(tmp_path / "dataset", 120, 3)
    work, pool = Worklist.of({"dataset": folder}, ComputeConfig()), DatasetIndex.load(folder).split("pool")
    assert (work.shards, len(work)) == (pool.shard_names, len(pool))
    for shard, members in pool.members():
        texts = work.texts(shard)
        rows = work.rows(shard, texts)
        assert work.count(shard) == len(rows) == len(members)
        assert texts["sha256"].to_pylist() == pool.sha256[members].tolist()
        assert rows.keys.to_pylist() == pool.keys[members].tolist()
        expected = [(shard, int(pool.offsets[row]), int(pool.sizes[row])) for row in members]
        assert [rows.place(row) for row in range(len(rows))] == expected


@pytest.mark.parametrize("sorted_from", [10, 10_000])
def test_a_selection_in_any_order_keeps_keys_and_places_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sorted_from: int
) -> None:
    """Sorted once, or read as it lies."""
    monkeypatch.setattr(worklist, "_SORTED", sorted_from)
    monkeypatch.setattr(worklist, "_ROW_GROUP", 2048)
    rng = np.random.default_rng(0)
    places = {
        f"key-{number:03d}": (f"{'selected/' * (number % 2)}{number % 7}.tar", number * 512) for number in range(90)
    }
    keys = rng.permutation(sorted(places)).tolist()
    table = pa.table(
        {
            "key": keys,
            "sha256": [f"hash of {key}" for key in keys],
            "shard": [places[key][0] for key in keys],
            "offset": [places[key][1] for key in keys],
            "size": pa.array([100] * len(keys), pa.int64()),
            "copies": pa.array([3] * len(keys), pa.int32()),
        }
    )
    pq.write_table(table, tmp_path / "selection.parquet", row_group_size=16)
    work = Worklist.of({"dataset": tmp_path / "unused", "selection": tmp_path}, ComputeConfig(threads=2))
    found = {}
    for shard in work.shards:
        texts = work.texts(shard)
        rows = work.rows(shard, texts)
        assert texts["sha256"].to_pylist() == [f"hash of {key}" for key in texts["key"].to_pylist()]
        found.update({rows.key(row): rows.place(row)[:2] for row in range(len(rows))})
    assert found == places
    assert len(work) == 90


def test_a_dataset_without_a_pool_is_a_persons_mistake(tmp_path: Path) -> None:
    folder = pool_without_pictures(tmp_path / "dataset", 0, 3)
    with pytest.raises(UserError, match=r"nothing to label: set data\.unlabeled"):
        Worklist.of({"dataset": folder}, ComputeConfig())


def test_an_empty_selection_is_no_mistake(tmp_path: Path) -> None:
    schema = {"key": pa.string(), "sha256": pa.string(), "shard": pa.string(), "offset": pa.int64(), "size": pa.int64()}
    pq.write_table(pa.schema(list(schema.items())).empty_table(), tmp_path / "selection.parquet")
    work = Worklist.of({"selection": tmp_path}, ComputeConfig())
    assert (len(work), work.shards) == (0, ())


@given(st.integers(0, 70))
def test_a_spread_order_has_each_shard_once(count: int) -> None:
    shards = [f"{number:03d}" for number in range(count)]
    assert sorted(spread(shards)) == shards


@pytest.mark.parametrize("count", [16, 100, 1000, 30_000])
def test_the_first_sixteen_lie_all_over_the_list(count: int) -> None:
    first = sorted(int(shard) for shard in spread([str(number) for number in range(count)])[:16])
    widest = max(np.diff([*first, count]))
    assert first[0] == 0
    assert widest <= count / 16 * 2.1


def test_a_shuffled_table_is_sorted_so_that_a_shard_lies_in_few_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worklist, "_SORTED", 1)
    count, shards = 300_000, 40
    drawn = np.random.default_rng(0).permutation(count)
    table = pa.table(
        {
            "key": [f"it's {number}" for number in drawn],
            "sha256": [f"{number:08d}" for number in drawn],
            "shard": [f"selected/{number % shards:03d}.tar" for number in drawn],
            "offset": pa.array(drawn, pa.int64()),
            "size": pa.array([1] * count, pa.int64()),
        }
    )
    (tmp_path / "it's").mkdir()
    pq.write_table(table, tmp_path / "it's" / "selection.parquet", row_group_size=1 << 16)
    work = Worklist.of({"selection": tmp_path / "it's"}, ComputeConfig(threads=2, memory_gigabytes=0.5))
    file = pq.ParquetFile(work._path)
    columns = [file.metadata.row_group(group).column(2).statistics for group in range(file.num_row_groups)]
    mentions = [sum(one.min <= shard <= one.max for one in columns) for shard in work.shards]
    assert file.num_row_groups > 10
    assert max(mentions) <= 3
    texts = work.texts("selected/007.tar")
    assert texts["sha256"].to_pylist() == [f"{number:08d}" for number in range(7, count, shards)]
    folder = work._path.parent
    del file, work
    assert not folder.exists()
