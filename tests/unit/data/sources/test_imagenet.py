"""ImageNet's two layouts, and what may be wrong with them."""

from pathlib import Path

import pytest

from ns_core.config import DataConfig
from ns_core.data.index import SPLITS
from ns_core.data.sources import content_digest, open_source
from tests.unit.data.sources.reading import count, labels, mistake, paths, put, samples, splits

WNIDS = ("n01440764", "n02012849", "n03126707")
SOLUTION = "LOC_val_solution.csv"


def _config(root: Path, **settings: object) -> DataConfig:
    places = {"labeled": str(root / "imagenet"), "unlabeled": str(root / "pool")}
    return DataConfig.model_validate({"source": "imagenet", **places, **settings})


def _train(root: Path, below: str) -> None:
    for number in range(5):
        put(root / "pool" / f"{number}.jpg")
    for wnid in WNIDS:
        for number in range(10):
            put(root / "imagenet" / below / "train" / wnid / f"{wnid}_{number}.JPEG")


@pytest.fixture
def by_folder(tmp_path: Path) -> Path:
    """train/<wnid>, val/<wnid>: ten and two images of each class."""
    _train(tmp_path, "")
    for number in range(6):
        put(tmp_path / "imagenet" / "val" / WNIDS[number % 3] / f"ILSVRC2012_val_{number:08d}.JPEG")
    return tmp_path


@pytest.fixture(params=["Data/CLS-LOC", "ILSVRC/Data/CLS-LOC"])
def kaggle(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The same with a flat val and Kaggle's lists."""
    _train(tmp_path, request.param)
    lines = ["ImageId,PredictionString"]
    for number in range(6):
        name = f"ILSVRC2012_val_{number:08d}"
        put(tmp_path / "imagenet" / request.param / "val" / f"{name}.JPEG")
        lines.append(f"{name},{WNIDS[number % 3]} 85 1 499 272 {WNIDS[number % 3]} 5 6 7 8")
    put(tmp_path / "imagenet" / SOLUTION, "\n".join([lines[0], *reversed(lines[1:])]).encode())
    mapping = "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\n"
    put(tmp_path / "imagenet" / "LOC_synset_mapping.txt", mapping.encode())
    return tmp_path


def test_val_is_the_test_split_and_the_holdout_a_fraction_of_train(by_folder: Path) -> None:
    source = open_source(_config(by_folder, holdout_fraction=0.2))
    assert source.class_names == WNIDS
    assert count(source) == {"labeled": 24, "pool": 5, "holdout": 6, "test": 6}
    assert labels(source, "test") == {0: 2, 1: 2, 2: 2}
    assert labels(source, "holdout") == {0: 2, 1: 2, 2: 2}
    assert all(path.startswith("labeled/val/") for path in paths(source, "test"))
    assert all(path.startswith("labeled/train/") for path in paths(source, "holdout") + paths(source, "labeled"))
    for split in SPLITS:
        for sample in samples(source, split):
            place = by_folder / sample.path.replace("labeled", "imagenet").replace("unlabeled", "pool")
            assert sample.read() == (by_folder / "pool" / place.name if split == "pool" else place).read_bytes()
            assert sample.label is None or split == "test" or f"/{WNIDS[sample.label]}/" in sample.path


def test_the_flat_val_of_kaggle_takes_its_classes_from_the_list(kaggle: Path) -> None:
    source = open_source(_config(kaggle))
    assert source.class_names == ("tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)")
    assert [sample.label for sample in samples(source, "test")] == [0, 1, 2, 0, 1, 2]
    assert count(source)["labeled"] + count(source)["holdout"] == 30


def test_parts_of_imagenet_hold_no_more_than_a_shard(by_folder: Path) -> None:
    whole, cut = (open_source(_config(by_folder, shard_images=images)) for images in (1000, 4))
    assert splits(whole) == splits(cut)
    assert [part.images for part in cut.parts["test"]] == [4, 2]


def test_a_holdout_of_its_own_leaves_train_whole(by_folder: Path) -> None:
    for wnid in WNIDS:
        put(by_folder / "mine" / wnid / "a.jpg")
    source = open_source(_config(by_folder, holdout=str(by_folder / "mine")))
    assert count(source) == {"labeled": 30, "pool": 5, "holdout": 3, "test": 6}
    assert paths(source, "holdout") == [f"holdout/{wnid}/a.jpg" for wnid in WNIDS]


def test_imagenet_keeps_its_digest_when_it_moves_and_not_when_a_label_changes(kaggle: Path) -> None:
    before = content_digest(_config(kaggle))
    moved = kaggle.rename(kaggle.with_name(f"{kaggle.name}-moved"))
    assert content_digest(_config(moved)) == before
    solution = moved / "imagenet" / SOLUTION
    text = solution.read_text()
    solution.write_text(text.replace(WNIDS[0], WNIDS[1], 1))
    assert content_digest(_config(moved)) != before
    solution.write_text(text)
    put(next((moved / "imagenet").rglob("val/*.JPEG")), b"other")
    assert content_digest(_config(moved)) != before


def test_a_root_without_train_is_told(tmp_path: Path) -> None:
    put(tmp_path / "pool" / "a.jpg")
    (tmp_path / "imagenet").mkdir()
    assert "has neither train nor Data/CLS-LOC/train" in mistake(_config(tmp_path))


def test_a_missing_val_is_told(tmp_path: Path) -> None:
    _train(tmp_path, "")
    assert "imagenet/val does not exist" in mistake(_config(tmp_path))


def test_a_flat_val_without_the_list_is_told(kaggle: Path) -> None:
    (kaggle / "imagenet" / SOLUTION).unlink()
    assert f"imagenet/{SOLUTION} does not exist: put Kaggle's" in mistake(_config(kaggle))


def test_a_val_image_that_the_list_lacks_is_named(kaggle: Path) -> None:
    put(next((kaggle / "imagenet").rglob("val")) / "ILSVRC2012_val_00000099.JPEG")
    assert "does not say the class of" in (message := mistake(_config(kaggle)))
    assert "ILSVRC2012_val_00000099.JPEG" in message


def test_a_line_without_a_class_is_told_with_its_number(kaggle: Path) -> None:
    solution = kaggle / "imagenet" / SOLUTION
    solution.write_text(solution.read_text() + "\nILSVRC2012_val_00000003,\n")
    assert f"{SOLUTION}, line 8: no class" in mistake(_config(kaggle))


def test_a_class_that_val_lacks_or_has_alone_is_named(by_folder: Path) -> None:
    val = by_folder / "imagenet" / "val"
    (val / WNIDS[2]).rename(val / "n03126708")
    assert "'n03126708' (did you mean 'n03126707'?)" in mistake(_config(by_folder))
    for path in (val / "n03126708").iterdir():
        path.unlink()
    (val / "n03126708").rmdir()
    assert f"lacks class folders that data.labeled has: '{WNIDS[2]}'" in mistake(_config(by_folder))


def test_a_class_without_a_name_is_told(kaggle: Path) -> None:
    (kaggle / "imagenet" / "LOC_synset_mapping.txt").write_text("n01440764 tench\nn02012849\nn03126707 crane\n")
    assert "has no name for class n02012849" in mistake(_config(kaggle))


@pytest.mark.parametrize("field", ["labeled", "unlabeled"])
def test_a_field_that_is_not_set_is_told(by_folder: Path, field: str) -> None:
    assert f"data.{field} is not set" in mistake(_config(by_folder, **{field: ""}))


def test_a_test_folder_beside_val_is_told(by_folder: Path) -> None:
    assert "unset data.test" in mistake(_config(by_folder, test=str(by_folder / "pool")))


def test_a_class_too_small_for_a_holdout_is_told(by_folder: Path) -> None:
    put(by_folder / "imagenet" / "train" / "n09" / "a.jpg")
    put(by_folder / "imagenet" / "val" / "n09" / "b.jpg")
    assert "class 'n09' has 1 image(s), too few to split into labeled, holdout" in mistake(_config(by_folder))
