"""Which image goes to which split, and the identity of a folder's content."""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ns_core.config import DataConfig
from ns_core.data.index import SPLITS, Split
from ns_core.data.sources import Source, content_digest, digits, folder, in_order
from ns_core.errors import UserError


def _digits(**settings: int) -> DataConfig:
    return DataConfig(source="digits", **settings)


def _folder(root: Path, **settings: object) -> DataConfig:
    places = {"labeled": str(root / "labeled"), "unlabeled": str(root / "unlabeled")}
    return DataConfig.model_validate({"source": "folder", **places, **settings})


def _put(path: Path, content: bytes | None = None) -> None:
    """A file; sources do not look inside, so its bytes need be no picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(str(path).encode() if content is None else content)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three classes of 20, 10 and 3, and a pool of 7."""
    root = tmp_path / "pictures"
    for name, count in {"ant": 20, "bee": 10, "cat": 3}.items():
        for number in range(count):
            _put(root / "labeled" / name / f"{number}.jpg")
    for number in range(7):
        _put(root / "unlabeled" / f"deep-{number % 2}" / "er" / f"{number}.PNG")
    return root


def _paths(source: Source, split: Split) -> list[str]:
    return [sample.path for sample in source.samples(split)]


def _labels(source: Source, split: Split) -> Counter[int | None]:
    return Counter(sample.label for sample in source.samples(split))


def test_digits_have_the_sizes_asked_for_and_the_rest_is_the_pool() -> None:
    source = digits(_digits(labels_per_class=5, holdout_images=300, test_images=400))
    assert source.counts == {"labeled": 50, "pool": 1797 - 750, "holdout": 300, "test": 400}
    assert {split: len(_paths(source, split)) for split in SPLITS} == source.counts
    assert source.class_names == tuple("0123456789")


def test_digits_are_stratified_as_evenly_as_may_be() -> None:
    source = digits(_digits(labels_per_class=7, holdout_images=303, test_images=400))
    assert set(_labels(source, "labeled").values()) == {7}
    assert set(_labels(source, "test").values()) == {40}
    assert sorted(_labels(source, "holdout").values()) == [30] * 7 + [31] * 3


def test_digits_fill_up_when_small_classes_run_out() -> None:
    source = digits(_digits(labels_per_class=1, holdout_images=10, test_images=1776))
    test = _labels(source, "test")
    assert sum(test.values()) == 1776
    assert test[8] + _labels(source, "holdout")[8] + 1 <= 174
    assert source.counts["pool"] == 1


def test_every_digit_is_in_one_split_with_its_own_label_and_none_in_the_pool() -> None:
    source = digits(_digits())
    rows = {split: {s.key: s.label for s in source.samples(split)} for split in SPLITS}
    assert all(not rows[a].keys() & rows[b].keys() for a, b in combinations(SPLITS, 2))
    assert sorted(key for split in SPLITS for key in rows[split]) == [f"digit-{n:04d}" for n in range(1797)]
    assert set(rows["pool"].values()) == {None}
    target = load_digits().target
    for split in ("labeled", "holdout", "test"):
        assert all(label == target[int(key[-4:])] for key, label in rows[split].items())


def test_a_digit_is_an_rgb_picture_of_its_row() -> None:
    sample = next(digits(_digits()).samples("test"))
    picture = np.asarray(Image.open(BytesIO(sample.read())))
    assert picture.shape == (32, 32, 3)
    assert sample.suffix == "png"
    assert (picture == picture[:, :, :1]).all()
    small = load_digits().images[int(sample.key[-4:])]
    blocks = picture[:, :, 0].reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.corrcoef(blocks.ravel(), small.ravel())[0, 1] > 0.97
    assert picture.max() > 230


def test_the_seed_decides_the_digits_split() -> None:
    first, again, other = (digits(_digits(seed=seed)) for seed in (1, 1, 2))
    for split in SPLITS:
        assert _paths(first, split) == _paths(again, split)
        assert _paths(first, split) != _paths(other, split)


def test_fewer_digit_labels_are_a_subset_and_leave_test_and_holdout_alone() -> None:
    few, many = (digits(_digits(labels_per_class=labels)) for labels in (5, 20))
    assert set(_paths(few, "labeled")) < set(_paths(many, "labeled"))
    assert _paths(few, "test") == _paths(many, "test")
    assert _paths(few, "holdout") == _paths(many, "holdout")


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
        digits(_digits(**settings))


def test_a_class_is_split_by_fraction_with_at_least_one_image_a_split(pictures: Path) -> None:
    source = folder(_folder(pictures, holdout_fraction=0.1, test_fraction=0.2))
    assert source.class_names == ("ant", "bee", "cat")
    assert _labels(source, "holdout") == {0: 2, 1: 1, 2: 1}
    assert _labels(source, "test") == {0: 4, 1: 2, 2: 1}
    assert _labels(source, "labeled") == {0: 14, 1: 7, 2: 1}
    assert _labels(source, "pool") == {None: 7}
    assert {split: len(_paths(source, split)) for split in SPLITS} == source.counts


def test_large_fractions_still_leave_a_labelled_image_of_each_class(pictures: Path) -> None:
    source = folder(_folder(pictures, holdout_fraction=0.59, test_fraction=0.4))
    for split in ("labeled", "holdout", "test"):
        assert set(_labels(source, split)) == {0, 1, 2}
    assert source.counts["labeled"] + source.counts["holdout"] + source.counts["test"] == 33


def test_each_folder_image_is_in_one_split_under_a_key_of_its_own(pictures: Path) -> None:
    source = folder(_folder(pictures))
    samples = [sample for split in SPLITS for sample in source.samples(split)]
    assert len({sample.key for sample in samples}) == 40
    assert sorted(sample.path for sample in samples) == sorted(
        path.relative_to(pictures).as_posix() for path in pictures.rglob("*.*")
    )
    for sample in samples:
        assert sample.read() == (pictures / sample.path).read_bytes()
        assert sample.label is None or sample.path.split("/")[1] == source.class_names[sample.label]
    for split in SPLITS:
        keys = [sample.key for sample in source.samples(split)]
        assert keys == sorted(keys)


def test_the_seed_decides_the_folder_split(pictures: Path) -> None:
    first, again, other = (folder(_folder(pictures, seed=seed)) for seed in (1, 1, 2))
    assert _paths(first, "labeled") == _paths(again, "labeled")
    assert _paths(first, "labeled") != _paths(other, "labeled")


def test_a_split_depends_on_neither_place_nor_bytes(pictures: Path, tmp_path: Path) -> None:
    before = _paths(folder(_folder(pictures)), "test")
    moved = pictures.rename(tmp_path / "elsewhere")
    for path in (moved / "labeled").rglob("*.jpg"):
        path.write_bytes(b"other")
    assert _paths(folder(_folder(moved)), "test") == before


def test_a_new_class_leaves_the_split_of_the_others_alone(pictures: Path) -> None:
    before = _paths(folder(_folder(pictures)), "test")
    for number in range(5):
        _put(pictures / "labeled" / "aardvark" / f"{number}.jpg")
    after = [path for path in _paths(folder(_folder(pictures)), "test") if "aardvark" not in path]
    assert after == before


def test_holdout_and_test_folders_are_taken_as_they_are(pictures: Path) -> None:
    for split in ("holdout", "test"):
        for name in ("ant", "bee", "cat"):
            _put(pictures / split / name / "only.webp")
    source = folder(_folder(pictures, holdout=str(pictures / "holdout"), test=str(pictures / "test")))
    assert source.counts == {"labeled": 33, "pool": 7, "holdout": 3, "test": 3}
    assert _paths(source, "holdout") == [f"holdout/{name}/only.webp" for name in ("ant", "bee", "cat")]
    assert [sample.label for sample in source.samples("test")] == [0, 1, 2]


def test_one_folder_of_its_own_leaves_the_other_split_to_its_fraction(pictures: Path) -> None:
    for name in ("ant", "bee", "cat"):
        _put(pictures / "test" / name / "only.webp")
    source = folder(_folder(pictures, test=str(pictures / "test"), holdout_fraction=0.5))
    assert source.counts == {"labeled": 16, "pool": 7, "holdout": 17, "test": 3}
    assert all(path.startswith("test/") for path in _paths(source, "test"))


def test_a_folder_keeps_its_digest_when_it_moves(pictures: Path, tmp_path: Path) -> None:
    before = content_digest(_folder(pictures))
    moved = pictures.rename(tmp_path / "elsewhere")
    copied = shutil.copytree(moved, tmp_path / "copied")
    assert content_digest(_folder(moved)) == content_digest(_folder(copied)) == before


def test_settings_that_are_no_content_leave_the_digest_alone(pictures: Path) -> None:
    assert content_digest(_folder(pictures, seed=3)) == content_digest(_folder(pictures))


@pytest.mark.parametrize("field", ["labeled/ant/3.jpg", "unlabeled/deep-0/er/2.PNG"])
def test_one_changed_byte_or_name_changes_the_digest(pictures: Path, field: str) -> None:
    before, path = content_digest(_folder(pictures)), pictures / field
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    changed = content_digest(_folder(pictures))
    path.write_bytes(data)
    assert content_digest(_folder(pictures)) == before
    path.rename(path.with_stem(path.stem + "x"))  # the same place in the order
    assert len({before, changed, content_digest(_folder(pictures))}) == 3


def test_an_image_moved_to_another_class_changes_the_digest(pictures: Path) -> None:
    before = content_digest(_folder(pictures))
    (pictures / "labeled/ant/19.jpg").rename(pictures / "labeled/bee/19.jpg")
    assert content_digest(_folder(pictures)) != before


def test_what_is_no_image_does_not_count(pictures: Path) -> None:
    before = content_digest(_folder(pictures))
    _put(pictures / "labeled" / "ant" / "notes.txt")
    _put(pictures / "labeled" / ".DS_Store")
    assert content_digest(_folder(pictures)) == before


def test_the_digits_have_one_digest() -> None:
    # Of the arrays as scikit-learn ships them: another digest means other images under the old labels.
    digest = "digits-87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    assert content_digest(_digits()) == content_digest(_digits(seed=4)) == digest


def test_naming_a_source_loads_no_scikit_learn_and_no_torch() -> None:
    code = (
        "import sys, ns_core.data.prepare; "
        "sys.exit(any(name in sys.modules for name in ('sklearn', 'torch', 'webdataset')))"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


def test_in_order_keeps_the_order_and_looks_little_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = in_order(lambda item: item * item, items(), threads=2)
    assert [next(results) for _ in range(10)] == [n * n for n in range(10)]
    assert len(taken) <= 14
    assert list(results) == [n * n for n in range(10, 100)]


def test_in_order_hands_on_what_went_wrong() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: 1 // item, [2, 1, 0, 3], threads=2))
