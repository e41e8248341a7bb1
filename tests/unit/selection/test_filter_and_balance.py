"""filter-and-balance on a pool of 120 images: totals, reasons, the join by key, and what it refuses."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from ns_core.config import SelectConfig
from ns_core.data.index import DatasetIndex, SplitIndex
from ns_core.errors import StageFailed, UserError
from ns_core.selection import filter_and_balance
from ns_core.stage import StageContext
from tests.factories import hashed_probabilities, label_folder, pool_without_pictures, stage_context
from tests.golden.regenerate import current, recorded

IMAGES, CLASSES = 120, 4
CONFIG = SelectConfig(threshold=0.6, per_class=12, max_copies=3, seed=1)
"""Leaves some classes full and one short of images."""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return pool_without_pictures(tmp_path / "dataset", IMAGES, CLASSES)


@pytest.fixture
def pool(dataset: Path) -> SplitIndex:
    return DatasetIndex.load(dataset).split("pool")


@pytest.fixture
def probabilities(pool: SplitIndex) -> NDArray[np.float32]:
    """Class 3 is rare: two thirds of its images lean to class 0."""
    scores = hashed_probabilities(pool.keys, CLASSES)
    turned = (scores.argmax(axis=1) == 3) & (np.arange(IMAGES) % 3 > 0)
    scores[turned] = scores[turned][:, [3, 1, 2, 0]]
    return scores


@pytest.fixture
def labels(dataset: Path, probabilities: NDArray[np.float32], tmp_path: Path) -> Path:
    return label_folder(tmp_path / "labels", dataset, probabilities)


def _context(tmp_path: Path, dataset: Path, labels: Path) -> StageContext:
    return stage_context(tmp_path, {"dataset": dataset, "pseudo_labels": labels})


def _run(config: SelectConfig, context: StageContext) -> tuple[dict[str, Any], pa.Table, pa.Table]:
    """The result and both files."""
    result = filter_and_balance.run(config, context)
    return result, *(pq.read_table(context.output / f"{name}.parquet") for name in ("selection", "dropped"))


def _replace(labels: Path, table: pa.Table) -> None:
    """All labels in one file."""
    for file in labels.iterdir():
        file.unlink()
    pq.write_table(table, labels / "labels-all.parquet")


def _all(labels: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(file) for file in sorted(labels.iterdir())])


def test_every_image_of_the_pool_is_selected_or_dropped_for_a_reason_and_the_totals_add_up(
    dataset: Path, labels: Path, pool: SplitIndex, tmp_path: Path
) -> None:
    result, selection, dropped = _run(CONFIG, _context(tmp_path, dataset, labels))
    keys = selection["key"].to_pylist() + dropped["key"].to_pylist()
    assert Counter(keys) == Counter(pool.keys)
    assert result["pool"] == IMAGES == result["kept"] + sum(result["dropped"].values())
    assert Counter(dropped["reason"].to_pylist()) == result["dropped"]
    assert set(result["dropped"]) == {"below_threshold", "class_full"}
    assert min(result["dropped"].values()) > 0
    assert result["kept"] == selection.num_rows == sum(result["kept_per_class"])
    assert result["rows"] == pc.sum(selection["copies"]).as_py() == sum(result["rows_per_class"])
    assert sum(result["histogram"]) == IMAGES
    assert result["mean_confidence"] == pytest.approx(pc.mean(selection["confidence"]).as_py(), rel=1e-6)


def test_each_reason_is_true_of_its_images(dataset: Path, labels: Path, tmp_path: Path) -> None:
    result, selection, dropped = _run(CONFIG, _context(tmp_path, dataset, labels))
    least = dict.fromkeys(range(CLASSES), 1.0)
    for row in selection.to_pylist():
        assert row["confidence"] >= np.float32(0.6)
        least[row["top1"]] = min(least[row["top1"]], row["confidence"])
    for row in dropped.to_pylist():
        if row["reason"] == "below_threshold":
            assert row["confidence"] < np.float32(0.6)
        else:
            assert np.float32(0.6) <= row["confidence"] <= least[row["top1"]]
            assert result["kept_per_class"][row["top1"]] == 12


def test_a_short_class_is_repeated_up_to_the_quota_or_the_cap(dataset: Path, labels: Path, tmp_path: Path) -> None:
    result, selection, _ = _run(CONFIG, _context(tmp_path, dataset, labels))
    kept = result["kept_per_class"]
    assert result["rows_per_class"] == [min(12, 3 * count) for count in kept]
    assert max(kept) == 12
    assert 0 < min(kept) < 12
    assert max(selection["copies"].to_pylist()) > 1
    assert min(selection["copies"].to_pylist()) == 1


def test_a_selected_row_has_the_place_of_its_image_and_the_label_of_its_key(
    dataset: Path, labels: Path, pool: SplitIndex, probabilities: NDArray[np.float32], tmp_path: Path
) -> None:
    _, selection, _ = _run(CONFIG, _context(tmp_path, dataset, labels))
    place = {key: row for row, key in enumerate(pool.keys)}
    for row in selection.to_pylist():
        at = place[row["key"]]
        assert row["shard"] == pool.shard_names[pool.shard_codes[at]]
        assert (row["offset"], row["size"], row["sha256"]) == (pool.offsets[at], pool.sizes[at], pool.sha256[at])
        assert row["probabilities"] == probabilities[at].astype(np.float16).tolist()
        assert (row["top1"], row["confidence"]) == (probabilities[at].argmax(), probabilities[at].max())


def test_labels_are_joined_by_key_wherever_they_stand(dataset: Path, labels: Path, tmp_path: Path) -> None:
    first = _context(tmp_path, dataset, labels)
    result = filter_and_balance.run(CONFIG, first)
    shuffled = _all(labels).take(pa.array(np.random.default_rng(0).permutation(IMAGES)))
    _replace(labels, shuffled.slice(0, 7))
    pq.write_table(shuffled.slice(7), labels / "labels-a.parquet")
    second = _context(tmp_path, dataset, labels)
    assert filter_and_balance.run(CONFIG, second) == result
    for name in ("selection.parquet", "dropped.parquet"):
        assert (first.output / name).read_bytes() == (second.output / name).read_bytes()


@pytest.mark.parametrize("change", ["missing", "extra", "twice"])
def test_labels_of_other_images_than_the_pools_are_refused(
    dataset: Path, labels: Path, tmp_path: Path, change: str
) -> None:
    table = _all(labels)
    extra = table.slice(0, 1).set_column(0, "key", pa.array(["image-9999"]))
    _replace(
        labels,
        {
            "missing": table.slice(1),
            "extra": pa.concat_tables([table, extra]),
            "twice": pa.concat_tables([table, table.slice(3, 1)]),
        }[change],
    )
    with pytest.raises(StageFailed, match="does not label exactly the 120 images of the pool"):
        _run(CONFIG, _context(tmp_path, dataset, labels))


def test_labels_of_other_bytes_under_a_known_key_are_refused(dataset: Path, labels: Path, tmp_path: Path) -> None:
    table = _all(labels)
    hashes = table["sha256"].to_pylist()
    hashes[5] = "0" * 64
    _replace(labels, table.set_column(1, "sha256", pa.array(hashes)))
    with pytest.raises(StageFailed, match="labels other bytes than the pool holds"):
        _run(CONFIG, _context(tmp_path, dataset, labels))


def test_a_threshold_that_keeps_nothing_is_told_with_the_highest_confidence(
    dataset: Path, labels: Path, probabilities: NDArray[np.float32], tmp_path: Path
) -> None:
    highest = probabilities.max()
    config = SelectConfig(threshold=float(np.nextafter(highest, np.float32(1))))
    with pytest.raises(UserError) as caught:
        _run(config, _context(tmp_path, dataset, labels))
    assert f"select.threshold={config.threshold} keeps none of the 120 pseudo-labels" in str(caught.value)
    assert f"highest confidence is {highest:.3f}" in str(caught.value)
    assert "\n" not in str(caught.value)
    at_highest = SelectConfig(threshold=float(highest), per_class=5, max_copies=1)
    assert _run(at_highest, _context(tmp_path, dataset, labels))[0]["kept"] == 1


def test_a_class_without_a_selected_image_is_named(
    dataset: Path, pool: SplitIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "noisy_student")
    scores = hashed_probabilities(pool.keys, CLASSES)
    scores[:, 2] = 0.0
    labels = label_folder(tmp_path / "labels", dataset, scores / scores.sum(axis=1, keepdims=True))
    result, _, _ = _run(CONFIG, _context(tmp_path, dataset, labels))
    assert result["kept_per_class"][2] == result["rows_per_class"][2] == 0
    assert "no pseudo-labelled image of 1 classes: class 2" in caplog.text


def test_the_selection_is_the_golden_one() -> None:
    assert current("selection.json") == recorded("selection.json")
