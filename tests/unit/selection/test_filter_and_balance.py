"""filter-and-balance on a pool of 120 images: totals, reasons, the join by key, duplicates, figures by class."""

import logging
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from ns_core.config import SelectConfig
from ns_core.data.index import SplitIndex
from ns_core.selection import filter_and_balance
from ns_core.stage import StageContext, Stopped
from tests.factories import (
    hashed_probabilities,
    label_folder,
    left_out,
    look_alikes,
    pool_without_pictures,
    stage_context,
)
from tests.golden.regenerate import current, recorded
from tests.pool_tables import change_labels

IMAGES, CLASSES = 120, 4
CONFIG = SelectConfig(threshold=0.6, per_class=12, max_copies=3, seed=1)
"""Leaves some classes full and one short of images."""
FILES = ("selection.parquet", "dropped.parquet", "classes.parquet")


def _context(tmp_path: Path, dataset: Path, labels: Path) -> StageContext:
    return stage_context(tmp_path, {"dataset": dataset, "pseudo_labels": labels})


def _run(config: SelectConfig, context: StageContext) -> tuple[dict[str, Any], pa.Table, pa.Table]:
    """The result and both files."""
    result = filter_and_balance.run(config, context)
    return result, *(pq.read_table(context.output / f"{name}.parquet") for name in ("selection", "dropped"))


def _all(labels: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(file) for file in sorted(labels.iterdir())])


def test_every_image_of_the_pool_is_selected_or_dropped_for_a_reason_and_the_totals_add_up(
    dataset: Path, labels: Path, pool: SplitIndex, tmp_path: Path
) -> None:
    result, selection, dropped = _run(CONFIG, _context(tmp_path, dataset, labels))
    keys = selection["key"].to_pylist() + dropped["key"].to_pylist()
    assert Counter(keys) == Counter(pool.keys)
    assert result["pool"] == IMAGES == result["kept"] + sum(result["dropped"].values())
    assert Counter(dropped["reason"].to_pylist()) == Counter(result["dropped"])
    assert min(result["dropped"][reason] for reason in ("below_threshold", "class_full")) > 0
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
        assert row["top1"] == probabilities[at].argmax()
        assert row["confidence"] == pytest.approx(probabilities[at].max(), rel=1e-6)


def test_labels_are_joined_by_key_and_not_by_position(dataset: Path, labels: Path, tmp_path: Path) -> None:
    first = _context(tmp_path, dataset, labels)
    result = filter_and_balance.run(CONFIG, first)
    for number in range(5):
        change_labels(labels, number, lambda table: table.take(np.random.default_rng(0).permutation(table.num_rows)))
    second = _context(tmp_path, dataset, labels)
    assert filter_and_balance.run(CONFIG, second) == result
    for name in FILES:
        assert (first.output / name).read_bytes() == (second.output / name).read_bytes()


def test_a_class_that_nothing_predicts_is_named_with_what_will_happen(
    dataset: Path, pool: SplitIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "noisy_student")
    scores = hashed_probabilities(pool.keys, CLASSES)
    scores[:, 2] = 1e-6
    labels = label_folder(tmp_path / "labels", dataset, scores / scores.sum(axis=1, keepdims=True))
    result, _, _ = _run(CONFIG, _context(tmp_path, dataset, labels))
    assert result["kept_per_class"][2] == result["rows_per_class"][2] == 0
    assert caplog.messages == [
        "nothing in the pool is taken for 1 of 4 classes (class 2): the student sees no pseudo-labelled image of them"
    ]
    assert result["worst_classes"][0] == {"name": "class 2", "eligible": 0, "kept": 0, "rows": 0}


def test_classes_of_which_everything_was_dropped_are_named_ten_at_most(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "noisy_student")
    dataset = pool_without_pictures(tmp_path / "many", 24, 12)
    scores = np.full((24, 12), 0.04, np.float32)
    scores[np.arange(24), np.arange(24) % 12] = np.where(np.arange(24) % 12, 0.56, 0.7)
    labels = label_folder(tmp_path / "labels", dataset, scores)
    result, _, _ = _run(CONFIG, _context(tmp_path, dataset, labels))
    assert result["kept_per_class"] == [2, *[0] * 11]
    named = ", ".join(f"class {label}" for label in range(1, 11))
    assert caplog.messages == [
        f"everything was dropped that is taken for 11 of 12 classes ({named}, ...): the student sees no "
        "pseudo-labelled image of them"
    ]


def test_images_that_could_not_be_read_or_were_left_out_before_are_dropped_with_their_reasons(
    dataset: Path, probabilities: NDArray[np.float32], tmp_path: Path
) -> None:
    unreadable = {"image-0007": "cut short", "image-0031": "not an image"}
    labels = label_folder(tmp_path / "labels", dataset, probabilities, unreadable=unreadable)
    left_out(dataset / "corrupt.parquet", ("pool", "image-0500"), ("labeled", "l-1"), ("pool", "image-0501"))
    left_out(dataset / "dropped.parquet", ("labeled", "l-2"), ("pool", "image-0600"))
    result, selection, dropped = _run(CONFIG, _context(tmp_path, dataset, labels))
    assert result["dropped"]["corrupt"] == 4
    assert result["dropped"]["leak"] == 1
    assert result["pool"] == IMAGES == sum(result["histogram"]) + 2
    assert result["came_in"] == IMAGES + 3 == result["kept"] + sum(result["dropped"].values())
    gone = {row["key"]: row for row in dropped.to_pylist() if row["reason"] in ("corrupt", "leak")}
    assert {key: row["reason"] for key, row in gone.items()} == {
        **dict.fromkeys((*unreadable, "image-0500", "image-0501"), "corrupt"),
        "image-0600": "leak",
    }
    assert all(row["top1"] is None and row["confidence"] is None for row in gone.values())
    assert {key for key, row in gone.items() if row["sha256"]} == set(unreadable)
    assert not set(selection["key"].to_pylist()) & set(gone)


def _with_equal_bytes(dataset: Path, pairs: Mapping[str, str]) -> None:
    """Some images of the dataset get the bytes of others: key -> key."""
    table = pq.read_table(dataset / "index.parquet")
    digest_of = dict(zip(table["key"].to_pylist(), table["sha256"].to_pylist(), strict=True))
    digests = [digest_of[pairs.get(key, key)] for key in digest_of]
    place = table.schema.get_field_index("sha256")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(digests)), dataset / "index.parquet")


@pytest.mark.parametrize(("duplicates", "stay"), [("keep", 6), ("bytes", 4), ("near", 3)])
def test_of_duplicates_the_most_confident_is_kept(
    dataset: Path, pool: SplitIndex, tmp_path: Path, duplicates: str, stay: int
) -> None:
    """0010 and 0011 have equal bytes, so have 0050 and 0090; 0010, 0011 and 0100 look alike; 0110 stands alone."""
    _with_equal_bytes(dataset, {"image-0011": "image-0010", "image-0090": "image-0050"})
    look_alikes(dataset, dict.fromkeys(("image-0010", "image-0011", "image-0100"), "image-0010"))
    scores = np.full((IMAGES, CLASSES), 0.2, np.float32)
    scores[:, 0] = 0.4
    watched = {"image-0010": 0.9, "image-0011": 0.9, "image-0050": 0.8, "image-0090": 0.8, "image-0100": 0.95}
    for key, confidence in {**watched, "image-0110": 0.7}.items():
        scores[pool.keys.tolist().index(key)] = [confidence, *[(1 - confidence) / 3] * 3]
    labels = label_folder(tmp_path / "labels", dataset, scores)
    config = SelectConfig(threshold=0.6, per_class=100, max_copies=1, duplicates=duplicates)
    result, selection, dropped = _run(config, _context(tmp_path, dataset, labels))
    kept = set(selection["key"].to_pylist())
    assert result["kept"] == len(kept) == stay
    assert result["dropped"]["duplicate"] == 6 - stay
    assert {"image-0100", "image-0110"} <= kept
    assert ("image-0010" in kept) == (duplicates != "near")
    assert pc.sum(pc.equal(dropped["reason"], "duplicate")).as_py() == 6 - stay


def test_look_alikes_that_the_dataset_does_not_list_are_told(
    dataset: Path, labels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "noisy_student")
    near = CONFIG.model_copy(update={"duplicates": "near"})
    result, _, _ = _run(near, _context(tmp_path, dataset, labels))
    assert result == _run(CONFIG, _context(tmp_path, dataset, labels))[0]
    (message,) = caplog.messages
    assert message.startswith("select.duplicates=near: the dataset lists no look-alikes")
    assert message.endswith("only images with equal bytes are grouped")


def test_calibrated_confidence_is_what_everything_goes_by(
    dataset: Path, probabilities: NDArray[np.float32], tmp_path: Path
) -> None:
    """At twice the temperature each image is less sure, and the file's own column is left alone."""
    labels = label_folder(tmp_path / "labels", dataset, probabilities, temperature=2.0)
    calibrated = {row["key"]: row["calibrated"] for row in _all(labels).to_pylist()}
    config = CONFIG.model_copy(update={"confidence": "calibrated"})
    result, selection, dropped = _run(config, _context(tmp_path, dataset, labels))
    for row in selection.to_pylist() + dropped.to_pylist():
        assert row["confidence"] == calibrated[row["key"]]
    assert 0 < result["kept"] < _run(CONFIG, _context(tmp_path, dataset, labels))[0]["kept"]
    assert pc.min(selection["confidence"]).as_py() >= np.float32(0.6)


def test_labels_of_the_best_classes_keep_their_shape(
    dataset: Path, probabilities: NDArray[np.float32], tmp_path: Path
) -> None:
    labels = label_folder(tmp_path / "labels", dataset, probabilities, top_k=2)
    stored = {row["key"]: row for row in _all(labels).to_pylist()}
    _, selection, _ = _run(CONFIG, _context(tmp_path, dataset, labels))
    assert selection.schema.field("classes").type == pa.list_(pa.uint16(), 2)
    for row in selection.to_pylist():
        assert all(row[name] == stored[row["key"]][name] for name in ("classes", "probabilities", "kept_mass"))


def test_classes_have_their_figures_in_a_table_and_in_the_result(dataset: Path, labels: Path, tmp_path: Path) -> None:
    context = _context(tmp_path, dataset, labels)
    result, selection, dropped = _run(CONFIG, context)
    rows = pq.read_table(context.output / "classes.parquet").to_pylist()
    for label, row in enumerate(rows):
        kept = [one for one in selection.to_pylist() if one["top1"] == label]
        gone = Counter(one["reason"] for one in dropped.to_pylist() if one["top1"] == label)
        assert row == {
            "label": label,
            "name": f"class {label}",
            "pool": len(kept) + gone.total(),
            "eligible": len(kept) + gone["class_full"],
            "kept": len(kept),
            "rows": sum(one["copies"] for one in kept),
            **{reason: gone[reason] for reason in ("below_threshold", "class_full", "duplicate")},
            "cut_confidence": min(one["confidence"] for one in kept),
            "mean_confidence": pytest.approx(np.mean([one["confidence"] for one in kept]), abs=1e-6),
        }
    for name in ("kept", "rows", "eligible"):
        assert result[f"{name}_per_class"] == [row[name] for row in rows]
    assert result["dropped_per_class"]["class_full"] == [row["class_full"] for row in rows]
    copies = np.array(selection["copies"].to_pylist())
    assert result["duplication"] == copies.sum() / len(copies)
    assert result["largest_duplication"] == max(row["rows"] / row["kept"] for row in rows)
    assert result["effective_images"] == pytest.approx(copies.sum() ** 2 / (copies**2).sum())


def _asked_more_often_than(times: int, asked: list[int]) -> bool:
    asked.append(1)
    return len(asked) > times


def test_sigterm_ends_it_in_either_pass_and_leaves_no_scratch(
    dataset: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    for asked_at in (2, 8):
        context, asked = _context(tmp_path, dataset, labels), list[int]()
        context.stopping = partial(_asked_more_often_than, asked_at, asked)
        with pytest.raises(Stopped):
            filter_and_balance.run(CONFIG, context)
        assert not list((tmp_path / "tmp").iterdir())


def test_progress_runs_through_both_passes(
    dataset: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, told = _context(tmp_path, dataset, labels), list[tuple[int, int, str]]()
    monkeypatch.setattr(context, "progress", lambda *event: told.append(event))
    filter_and_balance.run(CONFIG, context)
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert {total for _, total, _ in told} == {2 * IMAGES}
    assert told[-1][0] == 2 * IMAGES
    assert [text for _, _, text in told] == ["checking the labels"] * 5 + ["writing the selection"] * 5


def test_the_selection_is_the_golden_one() -> None:
    assert current("selection.json") == recorded("selection.json")
