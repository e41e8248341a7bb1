"""CIFAR, SVHN and STL-10 from tiny files in their own formats, read as torchvision reads them."""

import hashlib
import io
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from ns_core.config import DataConfig
from ns_core.data.index import SPLITS
from ns_core.data.sources import check, content_digest, open_source
from ns_core.data.sources.archives import ARCHIVES
from tests.unit.data.sources.reading import count, labels, mistake, paths, samples, splits

DATASETS = ("cifar10", "cifar100", "svhn", "stl10")
CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "stl10": 10}
_TEST, _EXTRA = 20, 7


def _images(seed: int, count: int, side: int = 32) -> NDArray[np.uint8]:
    """uint8[count,3,side,side]"""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), np.uint8)


def _pickle(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def _cifar(root: Path, name: str, each: int) -> None:
    """`each` training images a class."""
    hundred = name == "cifar100"
    folder, key = (
        root / ("cifar-100-python" if hundred else "cifar-10-batches-py"),
        "fine_labels" if hundred else "labels",
    )
    classes = CLASSES[name]
    train = [("train", each)] if hundred else [(f"data_batch_{n}", each // 5) for n in range(1, 6)]
    for seed, (batch, rounds) in enumerate(train):
        marks = [n % classes for n in range(classes * rounds)]
        _pickle(folder / batch, {"data": _images(seed, len(marks)).reshape(-1, 3072), key: marks})
    test = {"data": _images(9, _TEST).reshape(-1, 3072), key: [n % classes for n in range(_TEST)]}
    _pickle(folder / ("test" if hundred else "test_batch"), test)
    names = [f"name {n}" for n in range(classes)]
    _pickle(folder / ("meta" if hundred else "batches.meta"), {"fine_label_names" if hundred else "label_names": names})


def _svhn(root: Path, each: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for seed, (part, images) in enumerate({"train": 10 * each, "test": _TEST, "extra": _EXTRA}.items()):
        marks = np.array([[n % 10 or 10] for n in range(images)], np.uint8)
        pixels = _images(seed, images).transpose(2, 3, 1, 0)
        savemat(root / f"{part}_32x32.mat", {"X": pixels, "y": marks}, do_compression=True)


def _stl(root: Path, each: int) -> None:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (part, images) in enumerate({"train": 10 * each, "test": _TEST, "unlabeled": _EXTRA}.items()):
        _images(seed, images, 96).tofile(folder / f"{part}_X.bin")
        if part != "unlabeled":
            (np.arange(images, dtype=np.uint8) % 10 + 1).tofile(folder / f"{part}_y.bin")


def _write(root: Path, name: str, each: int = 10) -> None:
    if name.startswith("cifar"):
        _cifar(root, name, each)
    else:
        (_svhn if name == "svhn" else _stl)(root, each)


def _config(root: Path, name: str, **settings: object) -> DataConfig:
    given = {"source": "torchvision", "dataset": name, "root": str(root), "labels_per_class": 2, "holdout_images": 20}
    return DataConfig.model_validate(given | settings)


@pytest.fixture(params=DATASETS)
def dataset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_pixels_labels_and_names_are_those_of_torchvision(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    _write(tmp_path, dataset)
    # Our files are not the published ones, of which torchvision checks the md5.
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", lambda *_, **__: True)
    archive = ARCHIVES[dataset]
    for part in ("train", "test", archive.unlabeled):
        if part is None:
            continue
        arguments = {"train": part == "train"} if dataset.startswith("cifar") else {"split": part}
        theirs = getattr(datasets, archive.torchvision)(str(tmp_path), **arguments)
        ours = archive.read(tmp_path, part)
        assert len(ours.pixels) == len(theirs)
        for row in range(len(theirs)):
            image, label = theirs[row]
            assert (np.asarray(image) == ours.pixels[row]).all()
            assert label == (-1 if ours.labels is None else ours.labels[row])
        if dataset.startswith("cifar"):
            assert archive.class_names(tmp_path) == tuple(theirs.classes)


def test_files_and_md5s_are_those_of_torchvision() -> None:
    from torchvision.datasets import CIFAR10, CIFAR100, STL10, SVHN

    for name, kind in {"cifar10": CIFAR10, "cifar100": CIFAR100}.items():
        listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
        assert ARCHIVES[name].files == {f"{kind.base_folder}/{file}": md5 for file, md5 in listed}
        assert ARCHIVES[name].url == kind.url
    stl = {f"{STL10.base_folder}/{file}": md5 for file, md5 in STL10.train_list + STL10.test_list}
    assert ARCHIVES["stl10"].files == stl
    assert ARCHIVES["svhn"].files == {file: md5 for _, file, md5 in SVHN.split_list.values()}


def test_splits_are_official_test_even_holdout_few_labels_and_the_rest_as_pool(tmp_path: Path, dataset: str) -> None:
    _write(tmp_path, dataset)
    classes = CLASSES[dataset]
    source = open_source(_config(tmp_path, dataset, holdout_images=2 * classes))
    extra = _EXTRA if ARCHIVES[dataset].unlabeled else 0
    assert count(source) == {"labeled": 2 * classes, "holdout": 2 * classes, "pool": 6 * classes + extra, "test": _TEST}
    for split in ("labeled", "holdout"):
        assert labels(source, split) == dict.fromkeys(range(classes), 2)
    train = [path for split in ("labeled", "holdout", "pool") for path in paths(source, split) if "/train/" in path]
    assert sorted(train) == [f"root/train/{n:06d}" for n in range(10 * classes)]
    assert paths(source, "test") == [f"root/test/{n:06d}" for n in range(_TEST)]
    assert [path for path in paths(source, "pool") if "/train/" not in path] == [
        f"root/{ARCHIVES[dataset].unlabeled}/{n:06d}" for n in range(extra)
    ]


def test_images_are_png_of_the_right_rows(tmp_path: Path, dataset: str) -> None:
    _write(tmp_path, dataset)
    source = open_source(_config(tmp_path, dataset, holdout_images=100 if dataset == "cifar100" else 20))
    for split in SPLITS:
        for sample in samples(source, split)[-3:]:
            _, part, row = sample.path.split("/")
            pixels = np.asarray(Image.open(io.BytesIO(sample.read())))
            expected = ARCHIVES[dataset].read(tmp_path, part)
            assert (pixels == expected.pixels[int(row)]).all()
            assert sample.suffix == "png"
            if split != "pool":
                assert expected.labels is not None
                assert sample.label == expected.labels[int(row)]


def test_the_bytes_of_a_known_image_lie_as_the_format_says(tmp_path: Path) -> None:
    _write(tmp_path, "cifar10")
    source = open_source(_config(tmp_path, "cifar10"))
    (sample,) = (s for split in SPLITS for s in samples(source, split) if s.path == "root/train/000003")
    picture = np.asarray(Image.open(io.BytesIO(sample.read())))
    assert (picture[0, :, 0] == _images(0, 20)[3, 0, 0]).all(), "the first row of red"


def test_parts_hold_no_more_than_a_shard(tmp_path: Path) -> None:
    _write(tmp_path, "svhn")
    whole, cut = (open_source(_config(tmp_path, "svhn", shard_images=images)) for images in (1000, 25))
    assert splits(whole) == splits(cut)
    assert [part.images for part in cut.parts["pool"]] == [25, 25, 10, 7]


def test_fewer_labels_are_a_subset_and_leave_the_holdout_alone(tmp_path: Path) -> None:
    _write(tmp_path, "cifar10")
    few, many = (open_source(_config(tmp_path, "cifar10", labels_per_class=n)) for n in (1, 4))
    assert set(paths(few, "labeled")) < set(paths(many, "labeled"))
    assert paths(few, "holdout") == paths(many, "holdout")


@pytest.mark.parametrize("name", ["svhn", "stl10"])
def test_all_labels_may_be_kept_where_there_are_unlabelled_images(tmp_path: Path, name: str) -> None:
    _write(tmp_path, name)
    source = open_source(_config(tmp_path, name, labels_per_class=0))
    assert count(source) == {"labeled": 80, "holdout": 20, "pool": _EXTRA, "test": _TEST}


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_all_labels_of_cifar_leave_no_pool(tmp_path: Path, name: str) -> None:
    _write(tmp_path, name)
    assert "data.labels_per_class 0 keeps the labels of all" in mistake(_config(tmp_path, name, labels_per_class=0))


@pytest.mark.parametrize("settings", [{"labels_per_class": 11}, {"holdout_images": 81}, {"labels_per_class": 8}])
def test_more_images_than_there_are_is_told(tmp_path: Path, settings: dict[str, int]) -> None:
    _write(tmp_path, "cifar10")
    message = mistake(_config(tmp_path, "cifar10", **settings), at_check=False)
    assert "cifar10 has 100 images to train on, at least 10 of a class" in message


def test_missing_files_are_told_with_both_ways_out(tmp_path: Path, dataset: str) -> None:
    _write(tmp_path, dataset)
    gone = next(iter(ARCHIVES[dataset].files))
    (tmp_path / gone).unlink()
    message = mistake(_config(tmp_path, dataset))
    assert f"data.root: {tmp_path / gone} does not exist: set data.download=true, or put there what http" in message


def test_a_root_that_is_not_set_is_told() -> None:
    assert "data.root is not set" in mistake(DataConfig(source="torchvision"))


def test_the_digest_is_of_the_bytes_wherever_they_lie(tmp_path: Path, dataset: str) -> None:
    _write(tmp_path / "a", dataset)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    before = content_digest(_config(tmp_path / "a", dataset))
    assert content_digest(_config(tmp_path / "b", dataset)) == before
    file = tmp_path / "b" / next(iter(ARCHIVES[dataset].files))
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    assert content_digest(_config(tmp_path / "b", dataset)) != before


def test_a_download_leaves_the_identity_as_it_was(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "later", dataset)
    files = ARCHIVES[dataset].files
    md5s = {name: hashlib.md5((tmp_path / "later" / name).read_bytes()).hexdigest() for name in files}
    monkeypatch.setitem(ARCHIVES, dataset, replace(ARCHIVES[dataset], files=md5s))
    config = _config(tmp_path / "now", dataset, download=True)
    check(config)
    before = content_digest(config)
    (tmp_path / "later").rename(tmp_path / "now")
    assert content_digest(config) == before


def test_a_damaged_file_is_told_with_the_remedy(tmp_path: Path, dataset: str) -> None:
    _write(tmp_path, dataset)
    file = tmp_path / next(iter(ARCHIVES[dataset].files))
    file.write_bytes(file.read_bytes()[:1000])
    message = mistake(_config(tmp_path, dataset), at_check=False)
    assert f"{file}: damaged (" in message
    assert message.endswith("remove it and set data.download=true")


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, "cifar10")

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (exec, ("raise SystemExit('run')",))

    _pickle(tmp_path / "cifar-10-batches-py" / "test_batch", {"data": Trap()})
    assert "it asks for __builtin__.exec" in mistake(_config(tmp_path, "cifar10"), at_check=False)


def test_pickles_of_old_numpy_are_read(tmp_path: Path) -> None:
    _write(tmp_path, "cifar100")
    file = tmp_path / "cifar-100-python" / "train"
    before = ARCHIVES["cifar100"].read(tmp_path, "train")
    data = file.read_bytes()
    assert b"cnumpy._core.multiarray\n" in data
    file.write_bytes(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    after = ARCHIVES["cifar100"].read(tmp_path, "train")
    assert (before.pixels == after.pixels).all()


def test_a_download_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(datasets.SVHN, "download", refuse)
    message = mistake(_config(tmp_path, "svhn", download=True), at_check=False)
    assert "the download of svhn failed (File not found or corrupted.)" in message


def test_reading_takes_no_torch(tmp_path: Path) -> None:
    _write(tmp_path, "cifar10")
    code = (
        "import sys; from ns_core.config import DataConfig; "
        "from ns_core.data.sources import content_digest, open_source; "
        f"config = DataConfig(source='torchvision', root={str(tmp_path)!r}, labels_per_class=2, holdout_images=20); "
        "content_digest(config); open_source(config).parts['pool'][0].samples().__next__().read(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'torchvision')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
