"""A fold is held out by an index alone: every labelled image once, its label taken off, its bytes where they are."""

from pathlib import Path

import numpy as np
import pytest

from ns_core.audit.folds import WHOLE, FoldConfig, divide, write_fold
from ns_core.data.index import NO_LABEL, DatasetIndex, IndexRow, Split, write_classes, write_index
from ns_core.errors import UserError
from ns_core.fingerprint import stage_fingerprint


def row(split: Split, number: int, label: int | None, shard: str) -> IndexRow:
    return IndexRow(
        key=f"{split}-{number:03d}",
        split=split,
        shard=shard,
        offset=512 * number,
        size=100 + number,
        label=label,
        width=32,
        height=32,
        sha256=f"{number:064x}",
        path="",
    )


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    rows = [row("labeled", number, number % 3, f"labeled/{number // 6}.tar") for number in range(12)]
    rows += [row("holdout", number, number % 3, "holdout-000000.tar") for number in range(6)]
    rows += [row("test", number, number % 3, "test-000000.tar") for number in range(6)]
    rows += [row("pool", number, None, "pool-000000.tar") for number in range(20)]
    folder = tmp_path / "whole"
    folder.mkdir()
    write_index(folder / "index.parquet", rows)
    write_classes(folder / "classes.json", ["a", "b", "c"])
    return folder


def folds(whole: Path, count: int) -> list[DatasetIndex]:
    made = []
    for fold in range(count):
        target = whole.parent / f"fold-{fold}-of-{count}"
        target.mkdir()
        write_fold(whole, target, FoldConfig(folds=count, fold=fold))
        made.append(DatasetIndex.load(target))
    return made


def test_each_labelled_image_is_held_out_of_one_fold_and_trains_the_others(whole: Path) -> None:
    known = DatasetIndex.load(whole).split("labeled")
    labels = dict(zip(known.keys, known.labels, strict=True))
    made = folds(whole, 4)
    held = [key for one in made for key in one.split("pool").keys]
    assert sorted(held) == sorted(labels)
    for one in made:
        trained = one.split("labeled")
        assert set(trained.keys) | set(one.split("pool").keys) == set(labels)
        assert not set(trained.keys) & set(one.split("pool").keys)
        assert all(labels[key] == label for key, label in zip(trained.keys, trained.labels, strict=True))
        assert (np.bincount(trained.labels) == 3).all(), "each class loses one"


def test_what_is_held_out_has_no_label_and_the_pool_and_test_images_are_gone(whole: Path) -> None:
    (one, _) = folds(whole, 2)
    assert (one.split("pool").labels == NO_LABEL).all()
    assert len(one.split("pool")) == 6
    assert len(one.split("holdout")) == 6
    assert len(one.split("test")) == 0
    assert one.class_names == ("a", "b", "c")


def test_shards_are_the_whole_datasets_and_a_persons_own_keep_their_place(whole: Path) -> None:
    (one, _) = folds(whole, 2)
    assert one.split("holdout").shard_names == (f"{WHOLE}/holdout-000000.tar",)
    assert set(one.split("labeled").shard_names) | set(one.split("pool").shard_names) == {
        "labeled/0.tar",
        "labeled/1.tar",
    }
    before = DatasetIndex.load(whole).split("holdout")
    assert one.split("holdout").offsets.tolist() == before.offsets.tolist()


def test_the_division_hangs_on_keys_and_seed_and_not_on_the_order() -> None:
    keys, labels = [f"k{number}" for number in range(40)], np.repeat(np.arange(4), 10).astype(np.int32)
    parts = divide(keys, labels, 4, seed=0)
    turned = divide(keys[::-1], labels[::-1], 4, seed=0)
    assert parts.tolist() == turned[::-1].tolist()
    assert parts.tolist() != divide(keys, labels, 4, seed=1).tolist()
    counts = np.array([np.bincount(parts[labels == label], minlength=4) for label in range(4)])
    assert counts.min() >= 2
    assert counts.sum(axis=0).tolist() == [10, 10, 10, 10], "folds are equal, though no class divides by 4"


def test_a_class_with_one_image_and_more_folds_than_images_are_one_line(whole: Path) -> None:
    with pytest.raises(UserError, match=r"class 1 has one labelled image.*--folds 0"):
        divide(["a", "b", "c"], np.array([0, 0, 1], np.int32), 2, 0)
    with pytest.raises(UserError, match="--folds 13: the dataset has 12 labelled images"):
        write_fold(whole, whole.parent, FoldConfig(folds=13, fold=0))


def test_folds_of_different_datasets_numbers_and_counts_are_different_artifacts() -> None:
    configs = [FoldConfig(folds=3, fold=0), FoldConfig(folds=3, fold=1), FoldConfig(folds=4, fold=0)]
    names = {stage_fingerprint(one, {"dataset": dataset}) for one in configs for dataset in ("aa", "bb")}
    assert len(names) == 6
