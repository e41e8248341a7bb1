"""One pass over a selection, against a plain look at the truth it was built from."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ns_core.data.index import INDEX
from ns_core.evaluation.reports import selection_survey
from ns_core.evaluation.reports.selection_survey import BINS, EXAMPLES, JUDGED, LEAST_SURE, SUREST, Survey, survey
from ns_core.storage.ranged import RemoteFiles
from tests.local_bucket import LocalBucket
from tests.selection_builders import OUTCOMES, Built, built

NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"]
SHOWN = [0, 2, 6, 7]
"""The commonest class, one below the quota that is repeated, and the last, of which nothing is kept, among them."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return built(tmp_path_factory.mktemp("pool"), 400, NAMES)


def surveyed(pool: Built, shown: list[int] = SHOWN) -> Survey:
    selection, dropped = (pool.selection / f"{name}.parquet" for name in ("selection", "dropped"))
    files = (partial(path.open, "rb") for path in (selection, dropped, pool.dataset / INDEX))
    return survey(*files, len(NAMES), shown)


def numbers(pool: Built, found: Survey) -> dict[tuple[int, str], list[int]]:
    """(class, group) -> the images shown, by number, in their order."""
    rows = pq.read_table(pool.dataset / INDEX).to_pylist()
    places = {(row["shard"], row["offset"], row["size"]): number for number, row in enumerate(rows)}
    shown: dict[tuple[int, str], list[int]] = {}
    for one in found.examples:
        number = places[tuple(one.place)]
        assert one.confidence == pool.confidence[number]
        shown.setdefault((one.top1, one.group), []).append(number)
    return shown


def wanted(pool: Built, label: int, group: str) -> list[int]:
    """The images of a group by sorting them all."""
    code = OUTCOMES.index(group) if group in OUTCOMES else 0
    mine = np.flatnonzero((pool.top1 == label) & (pool.outcome == code))
    order = list(mine[np.argsort(-pool.confidence[mine], kind="stable")])
    if group == LEAST_SURE:
        return order[EXAMPLES[SUREST] :][-EXAMPLES[group] :]
    return order[: EXAMPLES[group]]


def test_examples_are_those_that_sorting_everything_gives(pool: Built) -> None:
    truth = {(label, group): wanted(pool, label, group) for label in SHOWN for group in EXAMPLES}
    found = numbers(pool, surveyed(pool))
    assert found == {place: images for place, images in truth.items() if images}
    assert {group for _, group in found} == set(EXAMPLES)


@pytest.mark.parametrize("row_group", [3, 1000])
def test_the_size_of_row_groups_changes_nothing(pool: Built, tmp_path: Path, row_group: int) -> None:
    whole, again = surveyed(pool), surveyed(built(tmp_path, 400, NAMES, row_group))
    assert list(again.examples) == list(whole.examples)
    assert (again.copies == whole.copies).all()
    assert all((again.histograms[name] == whole.histograms[name]).all() for name in whole.histograms)


def test_every_confidence_is_in_one_histogram_under_its_outcome(pool: Built) -> None:
    found = surveyed(pool, [])
    assert found.examples == []
    for code, name in enumerate(OUTCOMES):
        mine = pool.confidence[pool.outcome == code]
        assert found.histograms[name].tolist() == np.histogram(mine, BINS, (0, 1))[0].tolist()
    assert set(found.histograms) == set(OUTCOMES)


def test_certainty_falls_into_the_last_bin() -> None:
    assert selection_survey._binned(np.array([0, 1, 1], np.float32))[[0, -1]].tolist() == [1, 2]


def test_copies_are_counted(pool: Built) -> None:
    kept = pool.copies[pool.outcome == 0]
    assert surveyed(pool).copies.tolist() == np.bincount(kept).tolist()
    assert len(surveyed(pool).copies) > 2, "some are repeated"


def test_an_image_is_not_shown_as_surest_and_least_sure(pool: Built) -> None:
    found = numbers(pool, surveyed(pool, list(range(len(NAMES)))))
    for label in range(len(NAMES)):
        assert not set(found.get((label, SUREST), [])) & set(found.get((label, LEAST_SURE), []))


def test_soft_labels_are_not_read(tmp_path: Path) -> None:
    pool = built(tmp_path, 100, NAMES)
    file = pool.selection / "selection.parquet"
    table, random = pq.read_table(file), np.random.default_rng(0)
    wide = [random.bytes(20_000) for _ in range(table.num_rows)]
    pq.write_table(table.append_column("soft", [wide]), file, use_dictionary=False, compression="zstd")
    before = surveyed(pool)
    with pq.ParquetFile(file) as parquet:
        soft = parquet.metadata.row_group(0).column(parquet.schema_arrow.get_field_index("soft"))
    with file.open("r+b") as stream:
        stream.seek(soft.data_page_offset)
        stream.write(bytes(soft.total_compressed_size // 2))
    with pytest.raises(OSError, match="page header"):
        pq.read_table(file)
    assert list(surveyed(pool).examples) == list(before.examples)


def test_files_in_a_bucket_are_read_by_the_range(tmp_path: Path, pool: Built) -> None:
    bucket = LocalBucket(tmp_path / "bucket")
    paths = [pool.selection / "selection.parquet", pool.selection / "dropped.parquet", pool.dataset / INDEX]
    for path in paths:
        bucket.put_file(f"files/{path.name}", path)
    remote = RemoteFiles(bucket, "files", {path.name: path.stat().st_size for path in paths})
    found = survey(*(partial(remote.open, path.name) for path in paths), len(NAMES), SHOWN)
    assert list(found.examples) == list(surveyed(pool).examples)
    assert bucket.fetched == 0
    assert bucket.ranges


def test_a_selection_that_dropped_nothing_and_one_class(tmp_path: Path) -> None:
    pool = built(tmp_path, 30, ["ant", "bee"])
    table = pq.read_table(pool.selection / "dropped.parquet")
    pq.write_table(table.slice(0, 0), pool.selection / "dropped.parquet")
    found = surveyed(pool, [0])
    assert not any(found.histograms[reason].any() for reason in JUDGED)
    assert {one.group for one in found.examples} <= {SUREST, LEAST_SURE}
