"""The files of CIFAR-10, CIFAR-100, SVHN and STL-10, as their authors publish them and torchvision stores them.

In: the folder that torchvision calls `root`. Out: `Images` of one of an archive's own parts (train, test, extra,
unlabeled). Reads with numpy and scipy what torchvision's loaders read, but for their md5 check, and gives the same
pixels and labels (the tests hold both against each other).
"""

import pickle
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ns_core.data.folders import told
from ns_core.errors import UserError

_STL_SIDE = 96
_STL_NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


@dataclass(frozen=True)
class Images:
    """One part of an archive."""

    pixels: NDArray[np.uint8]
    """[images, height, width, 3], RGB; a view, in whatever order the file has."""
    labels: NDArray[np.int64] | None
    """[images] class indices; None where the archive has none."""


@dataclass(frozen=True)
class Archive:
    """What there is to know of one data set."""

    torchvision: str
    """Class in `torchvision.datasets`."""
    url: str
    files: Mapping[str, str]
    """Path below the root -> md5 as published (torchvision checks them after a download)."""
    downloads: Sequence[Mapping[str, Any]]
    """Arguments of the class, for each download that is needed."""
    unlabeled: str | None
    """The part that has no labels, or whose labels are not used."""
    class_names: Callable[[Path], tuple[str, ...]]
    read: Callable[[Path, str], Images]
    """Of (root, part); `UserError` for a file that is damaged."""
    count: Callable[[Path, str], int]
    """Images of (root, part), without reading them."""

    def missing(self, root: Path) -> list[str]:
        """Files that are not there."""
        return [name for name in self.files if not (root / name).is_file()]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what a damaged file does to its reader into one line."""
    try:
        with told(path):
            yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(path, error) from None  # scipy's word for a file that is cut short
    except (pickle.UnpicklingError, zlib.error, EOFError, LookupError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    said = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: damaged ({said}): remove it and set data.download=true")


# --- CIFAR: pickled dictionaries, written by Python 2


class _Arrays(pickle.Unpickler):
    """Builds arrays and nothing else: a pickle may otherwise run what it likes."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode") or (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return super().find_class(module, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return super().find_class("numpy._core.multiarray", name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _pickled(path: Path) -> dict[str, Any]:
    with _readable(path), path.open("rb") as stream:
        content = _Arrays(stream, encoding="latin1").load()
        return dict(content)


def _read_cifar(folder: str, label: str, batches: Mapping[str, Sequence[str]], root: Path, part: str) -> Images:
    pixels, labels = [], []
    for name in batches[part]:
        path = root / folder / name
        batch = _pickled(path)
        with _readable(path):
            # uint8[images, 3 * 32 * 32], one colour after the other, rows within.
            pixels.append(np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32))
            labels.append(np.asarray(batch[label], np.int64).reshape(len(pixels[-1])))
    return Images(np.concatenate(pixels).transpose(0, 2, 3, 1), np.concatenate(labels))


def _cifar_names(path: str, key: str, root: Path) -> tuple[str, ...]:
    with _readable(root / path):
        return tuple(map(str, _pickled(root / path)[key]))


def _no_count(root: Path, part: str) -> int:
    raise AssertionError(f"{root}: no unlabelled part {part}")


_CIFAR10 = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}
_CIFAR100 = {"train": ["train"], "test": ["test"]}


# --- SVHN: MATLAB files of X uint8[32,32,3,images] and y[images,1] with 10 for the digit 0


def _read_svhn(root: Path, part: str) -> Images:
    from scipy.io import loadmat

    path = root / f"{part}_32x32.mat"
    with _readable(path):
        content = loadmat(str(path))
        pixels, labels = content["X"], content["y"].astype(np.int64).reshape(-1)
        return Images(np.asarray(pixels, np.uint8).transpose(3, 0, 1, 2), labels % 10)


def _count_svhn(root: Path, part: str) -> int:
    from scipy.io import whosmat

    path = root / f"{part}_32x32.mat"
    with _readable(path):
        (shape,) = (shape for name, shape, _ in whosmat(str(path)) if name == "X")
        return int(shape[-1])


# --- STL-10: raw bytes, columns within rows of colours; labels from 1


def _read_stl(root: Path, part: str) -> Images:
    path = root / "stl10_binary" / f"{part}_X.bin"
    with _readable(path):
        pixels = np.memmap(path, np.uint8, "r").reshape(-1, 3, _STL_SIDE, _STL_SIDE).transpose(0, 3, 2, 1)
    if part == "unlabeled":
        return Images(pixels, None)
    marks = path.with_name(f"{part}_y.bin")
    with _readable(marks):
        return Images(pixels, np.fromfile(marks, np.uint8).astype(np.int64).reshape(len(pixels)) - 1)


def _count_stl(root: Path, part: str) -> int:
    return (root / "stl10_binary" / f"{part}_X.bin").stat().st_size // (3 * _STL_SIDE * _STL_SIDE)


ARCHIVES = {
    "cifar10": Archive(
        torchvision="CIFAR10",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        files={
            "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
            "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
            "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
            "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
        downloads=({},),
        unlabeled=None,
        class_names=partial(_cifar_names, "cifar-10-batches-py/batches.meta", "label_names"),
        read=partial(_read_cifar, "cifar-10-batches-py", "labels", _CIFAR10),
        count=_no_count,
    ),
    "cifar100": Archive(
        torchvision="CIFAR100",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        files={
            "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
            "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "cifar-100-python/meta": "7973b15100ade9c7d40fb424638fde48",
        },
        downloads=({},),
        unlabeled=None,
        class_names=partial(_cifar_names, "cifar-100-python/meta", "fine_label_names"),
        read=partial(_read_cifar, "cifar-100-python", "fine_labels", _CIFAR100),
        count=_no_count,
    ),
    "svhn": Archive(
        torchvision="SVHN",
        url="http://ufldl.stanford.edu/housenumbers/{train,test,extra}_32x32.mat",
        files={
            "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
            "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
            "extra_32x32.mat": "a93ce644f1a588dc4d68dda5feec44a7",
        },
        downloads=({"split": "train"}, {"split": "test"}, {"split": "extra"}),
        unlabeled="extra",
        class_names=lambda root: tuple(map(str, range(10))),
        read=_read_svhn,
        count=_count_svhn,
    ),
    "stl10": Archive(
        torchvision="STL10",
        url="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        files={
            "stl10_binary/train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
            "stl10_binary/train_y.bin": "5a34089d4802c674881badbb80307741",
            "stl10_binary/unlabeled_X.bin": "5242ba1fed5e4be9e1e742405eb56ca4",
            "stl10_binary/test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
            "stl10_binary/test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
        },
        downloads=({},),
        unlabeled="unlabeled",
        class_names=lambda root: _STL_NAMES,
        read=_read_stl,
        count=_count_stl,
    ),
}
