"""Which digit goes to which split."""

import hashlib
from io import BytesIO
from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ns_core.config import DataConfig
from ns_core.data.index import SPLITS
from ns_core.data.sources import content_digest, open_source
from ns_core.errors import UserError
from tests.unit.data.sources.reading import count, labels, mistake, paths, samples, splits


def _digits(**settings: int) -> DataConfig:
    return DataConfig(source="digits", **settings)


def test_digits_have_the_sizes_asked_for_and_the_rest_is_the_pool() -> None:
    source = open_source(_digits(labels_per_class=5, holdout_images=300, test_images=400))
    assert count(source) == {"labeled": 50, "pool": 1797 - 750, "holdout": 300, "test": 400}
    assert {split: len(paths(source, split)) for split in SPLITS} == count(source)
    assert source.class_names == tuple("0123456789")


def test_digits_are_stratified_as_evenly_as_may_be() -> None:
    source = open_source(_digits(labels_per_class=7, holdout_images=303, test_images=400))
    assert set(labels(source, "labeled").values()) == {7}
    assert set(labels(source, "test").values()) == {40}
    assert sorted(labels(source, "holdout").values()) == [30] * 7 + [31] * 3


def test_digits_fill_up_when_small_classes_run_out() -> None:
    source = open_source(_digits(labels_per_class=1, holdout_images=10, test_images=1776))
    test = labels(source, "test")
    assert sum(test.values()) == 1776
    assert test[8] + labels(source, "holdout")[8] + 1 <= 174
    assert count(source)["pool"] == 1


def test_every_digit_is_in_one_split_with_its_own_label_and_none_in_the_pool() -> None:
    source = open_source(_digits())
    rows = {split: {s.key: s.label for s in samples(source, split)} for split in SPLITS}
    assert all(not rows[a].keys() & rows[b].keys() for a, b in combinations(SPLITS, 2))
    assert sorted(key for split in SPLITS for key in rows[split]) == [f"digit-{n:04d}" for n in range(1797)]
    assert set(rows["pool"].values()) == {None}
    target = load_digits().target
    for split in ("labeled", "holdout", "test"):
        assert all(label == target[int(key[-4:])] for key, label in rows[split].items())


def test_a_digit_is_an_rgb_picture_of_its_row() -> None:
    sample = samples(open_source(_digits()), "test")[0]
    picture = np.asarray(Image.open(BytesIO(sample.read())))
    assert picture.shape == (32, 32, 3)
    assert sample.suffix == "png"
    assert (picture == picture[:, :, :1]).all()
    small = load_digits().images[int(sample.key[-4:])]
    blocks = picture[:, :, 0].reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.corrcoef(blocks.ravel(), small.ravel())[0, 1] > 0.97
    assert picture.max() > 230


def test_the_seed_decides_the_digits_split() -> None:
    first, again, other = (open_source(_digits(seed=seed)) for seed in (1, 1, 2))
    for split in SPLITS:
        assert paths(first, split) == paths(again, split)
        assert paths(first, split) != paths(other, split)


def test_fewer_digit_labels_are_a_subset_and_leave_test_and_holdout_alone() -> None:
    few, many = (open_source(_digits(labels_per_class=labels)) for labels in (5, 20))
    assert set(paths(few, "labeled")) < set(paths(many, "labeled"))
    assert paths(few, "test") == paths(many, "test")
    assert paths(few, "holdout") == paths(many, "holdout")


@pytest.mark.parametrize(
    "settings",
    [
        {"labels_per_class": 110},
        {"labels_per_class": 175, "holdout_images": 10, "test_images": 10},
        {"labels_per_class": 1, "holdout_images": 1377, "test_images": 410},
    ],
)
def test_more_digits_than_there_are_is_told_with_the_fields(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"data\.labels_per_class .*holdout_images .*test_images .*lower one"):
        open_source(_digits(**settings))


def test_the_digits_have_one_digest() -> None:
    # Of the arrays as scikit-learn ships them: another digest means other images under the old labels.
    digest = "digits-87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    assert content_digest(_digits()) == content_digest(_digits(seed=4)) == digest


def test_parts_hold_no_more_than_a_shard_and_cutting_them_changes_nothing_else() -> None:
    whole, cut = (open_source(_digits(shard_images=images)) for images in (10_000, 64))
    assert splits(cut) == splits(whole)
    assert [part.images for part in cut.parts["holdout"]] == [64, 64, 64, 64, 44]
    assert len(whole.parts["pool"]) == 1


def test_a_part_opens_without_the_ones_before() -> None:
    source = open_source(_digits(shard_images=64))
    last = source.parts["test"][-1]
    assert [s.key for s in last.samples()] == [s.key for s in last.samples()] == paths(source, "test")[-last.images :]


def test_the_splits_of_digits_are_those_of_all_earlier_versions() -> None:
    # A golden: with other splits, runs could no longer be compared with those of before.
    text = repr({split: paths(open_source(_digits(seed=7)), split) for split in SPLITS})
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "3a9811270d796a86d406cdbaa0e23c2d3bf19beeffd75b9cb7386091533d06b7"
    )


def test_keeping_all_labels_is_told_because_no_pool_would_be_left() -> None:
    assert "data.labels_per_class 0" in mistake(_digits(labels_per_class=0))
