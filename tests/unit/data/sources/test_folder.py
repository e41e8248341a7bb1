"""Which image of a folder goes to which split, and the identity of its content."""

import hashlib
import shutil
from pathlib import Path

import pytest

from ns_core.config import DataConfig
from ns_core.data.index import SPLITS
from ns_core.data.sources import content_digest, open_source, shard_roots
from tests.unit.data.sources.reading import count, labels, paths, put, samples, splits


def _folder(root: Path, **settings: object) -> DataConfig:
    places = {"labeled": str(root / "labeled"), "unlabeled": str(root / "unlabeled")}
    return DataConfig.model_validate({"source": "folder", **places, **settings})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three classes of 20, 10 and 3, and a pool of 7."""
    root = tmp_path / "pictures"
    for name, images in {"ant": 20, "bee": 10, "cat": 3}.items():
        for number in range(images):
            put(root / "labeled" / name / f"{number}.jpg")
    for number in range(7):
        put(root / "unlabeled" / f"deep-{number % 2}" / "er" / f"{number}.PNG")
    return root


def test_a_class_is_split_by_fraction_with_at_least_one_image_a_split(pictures: Path) -> None:
    source = open_source(_folder(pictures, holdout_fraction=0.1, test_fraction=0.2))
    assert source.class_names == ("ant", "bee", "cat")
    assert labels(source, "holdout") == {0: 2, 1: 1, 2: 1}
    assert labels(source, "test") == {0: 4, 1: 2, 2: 1}
    assert labels(source, "labeled") == {0: 14, 1: 7, 2: 1}
    assert labels(source, "pool") == {None: 7}
    assert {split: len(paths(source, split)) for split in SPLITS} == count(source)


def test_large_fractions_still_leave_a_labelled_image_of_each_class(pictures: Path) -> None:
    source = open_source(_folder(pictures, holdout_fraction=0.59, test_fraction=0.4))
    for split in ("labeled", "holdout", "test"):
        assert set(labels(source, split)) == {0, 1, 2}
    assert count(source)["labeled"] + count(source)["holdout"] + count(source)["test"] == 33


def test_each_folder_image_is_in_one_split_under_a_key_of_its_own(pictures: Path) -> None:
    source = open_source(_folder(pictures))
    everything = [sample for split in SPLITS for sample in samples(source, split)]
    assert len({sample.key for sample in everything}) == 40
    assert sorted(sample.path for sample in everything) == sorted(
        path.relative_to(pictures).as_posix() for path in pictures.rglob("*.*")
    )
    for sample in everything:
        assert sample.read() == (pictures / sample.path).read_bytes()
        assert sample.label is None or sample.path.split("/")[1] == source.class_names[sample.label]
    for split in SPLITS:
        keys = [sample.key for sample in samples(source, split)]
        assert keys == sorted(keys)


def test_the_seed_decides_the_folder_split(pictures: Path) -> None:
    first, again, other = (open_source(_folder(pictures, seed=seed)) for seed in (1, 1, 2))
    assert paths(first, "labeled") == paths(again, "labeled")
    assert paths(first, "labeled") != paths(other, "labeled")


def test_a_split_depends_on_neither_place_nor_bytes(pictures: Path, tmp_path: Path) -> None:
    before = paths(open_source(_folder(pictures)), "test")
    moved = pictures.rename(tmp_path / "elsewhere")
    for path in (moved / "labeled").rglob("*.jpg"):
        path.write_bytes(b"other")
    assert paths(open_source(_folder(moved)), "test") == before


def test_a_new_class_leaves_the_split_of_the_others_alone(pictures: Path) -> None:
    before = paths(open_source(_folder(pictures)), "test")
    for number in range(5):
        put(pictures / "labeled" / "aardvark" / f"{number}.jpg")
    after = [path for path in paths(open_source(_folder(pictures)), "test") if "aardvark" not in path]
    assert after == before


def test_holdout_and_test_folders_are_taken_as_they_are(pictures: Path) -> None:
    for split in ("holdout", "test"):
        for name in ("ant", "bee", "cat"):
            put(pictures / split / name / "only.webp")
    source = open_source(_folder(pictures, holdout=str(pictures / "holdout"), test=str(pictures / "test")))
    assert count(source) == {"labeled": 33, "pool": 7, "holdout": 3, "test": 3}
    assert paths(source, "holdout") == [f"holdout/{name}/only.webp" for name in ("ant", "bee", "cat")]
    assert [sample.label for sample in samples(source, "test")] == [0, 1, 2]


def test_one_folder_of_its_own_leaves_the_other_split_to_its_fraction(pictures: Path) -> None:
    for name in ("ant", "bee", "cat"):
        put(pictures / "test" / name / "only.webp")
    source = open_source(_folder(pictures, test=str(pictures / "test"), holdout_fraction=0.5))
    assert count(source) == {"labeled": 16, "pool": 7, "holdout": 17, "test": 3}
    assert all(path.startswith("test/") for path in paths(source, "test"))


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
    put(pictures / "labeled" / "ant" / "notes.txt")
    put(pictures / "labeled" / ".DS_Store")
    assert content_digest(_folder(pictures)) == before


def test_parts_of_a_folder_hold_no_more_than_a_shard_and_change_nothing_else(pictures: Path) -> None:
    whole, cut = (open_source(_folder(pictures, shard_images=images)) for images in (10_000, 3))
    assert splits(cut) == splits(whole)
    assert [part.images for part in cut.parts["pool"]] == [3, 3, 1]
    assert [s.key for s in cut.parts["pool"][2].samples()] == ["pool-000000006"]


def test_the_splits_of_folders_and_their_digest_are_those_of_all_earlier_versions(tmp_path: Path) -> None:
    # A golden. The names have their order by bytes in class and path differ: a blank sorts before a slash.
    for name in ("a", "a b", "a!c", "é"):
        for number in range(12):
            put(tmp_path / "labeled" / name / f"{number}.jpg", f"{name}{number}".encode())
    for number in range(30):
        put(tmp_path / "unlabeled" / f"{number % 3}/{number}.PNG", str(number).encode())
    config = _folder(tmp_path, seed=3)
    text = repr(splits(open_source(config)))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "ce028d52913f1478d2d5545436246bb0ff4eeb16d994a2d3716a03db2803b6af"
    )
    assert content_digest(config) == "folder-be42f2cece03964d712c31664223893b28552bc417402a9cc763329b58583d66"


def test_only_sources_of_shards_have_shards_of_their_own(pictures: Path) -> None:
    assert shard_roots(_folder(pictures)) == {}
    assert all(sample.shard == "" for split in SPLITS for sample in samples(open_source(_folder(pictures)), split))
