"""Source `torchvision`: CIFAR-10, CIFAR-100, SVHN and STL-10 from the files that torchvision downloads.

In: `dataset`, `root`, `labels_per_class`, `holdout_images`. Out: a `Source` of PNGs. The official test images are
the test split; the holdout is taken from the official training images, evenly over the classes; of the rest,
`labels_per_class` a class stay labelled (0: all) and the others join the pool, to which SVHN adds `extra` and
STL-10 `unlabeled`.

The files are read by `archives`, not by torchvision: whoever asks for an identity or checks a configuration has
no torch. torchvision is loaded for a download alone, and verifies it.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ns_core.config import DataConfig
from ns_core.data.images import encode_png
from ns_core.data.index import SPLITS, Split
from ns_core.data.source import Part, RawSample, Source
from ns_core.data.sources.archives import ARCHIVES, Archive, Images
from ns_core.data.sources.digests import file_digests, tree_digest
from ns_core.data.sources.kind import Kind
from ns_core.data.sources.splits import by_quota
from ns_core.errors import UserError

Run = tuple[str, Sequence[int]]
"""Rows, ascending, of one of the archive's own parts."""


def torchvision(config: DataConfig) -> Source:
    """The data set, in parts; first downloaded when `download` is set and a file is not there.

    Images are held in memory while the source is: 0.18 GB for CIFAR, 1.9 GB for SVHN; STL-10 is mapped. Raises
    `UserError` for missing or unreadable files and for more images asked for than there are.
    """
    check(config)
    archive, root = ARCHIVES[config.dataset], _root(config)
    if archive.missing(root):
        _download(config, root)
    loaded = _Loaded(archive, root)
    plan = _plan(config, archive, loaded, root)
    parts = {split: list(_parts(split, plan[split], loaded, config.shard_images)) for split in SPLITS}
    return Source(archive.class_names(root), parts)


def check(config: DataConfig) -> None:
    """The files are there or may be downloaded, and something is left for the pool; else `UserError`."""
    archive, root = ARCHIVES[config.dataset], _root(config)
    if not config.labels_per_class and archive.unlabeled is None:
        raise UserError(
            f"data.labels_per_class 0 keeps the labels of all of {config.dataset}, leaving none for the pool; set 1 or "
            "more"
        )
    if (missing := archive.missing(root)) and not config.download:
        raise UserError(
            f"data.root: {root / missing[0]} does not exist: set data.download=true, or put there what "
            f"{archive.url} holds"
        )


def digest(config: DataConfig) -> str:
    """md5 of all files, which is how the data set's publishers know them: those that are still to be downloaded
    count as published, so that the download leaves the identity as it was."""
    check(config)
    archive, root = ARCHIVES[config.dataset], _root(config)
    names = sorted(archive.files)
    if archive.missing(root):
        known = [bytes.fromhex(archive.files[name]) for name in names]
    else:
        known = list(file_digests((str(root / name) for name in names), "md5"))
    return tree_digest(f"torchvision-{config.dataset}", zip(names, known, strict=True))


def _root(config: DataConfig) -> Path:
    if not config.root:
        raise UserError("data.root is not set: give the folder of torchvision's files, --set data.root=FOLDER")
    return Path(config.root).expanduser()


def _download(config: DataConfig, root: Path) -> None:
    archive = ARCHIVES[config.dataset]
    # By name, so that no import of torch hangs below the modules of an orchestrator.
    datasets = importlib.import_module("torchvision.datasets")
    for arguments in archive.downloads:
        try:
            getattr(datasets, archive.torchvision)(str(root), download=True, **arguments)
        except RuntimeError as error:
            said = " ".join(str(error).split())
            raise UserError(f"data.root: {root}: the download of {config.dataset} failed ({said})") from None


class _Loaded:
    """The parts of an archive, read when first asked for and kept."""

    def __init__(self, archive: Archive, root: Path) -> None:
        self._archive, self._root = archive, root
        self._images: dict[str, Images] = {}

    def __getitem__(self, part: str) -> Images:
        if part not in self._images:
            self._images[part] = self._archive.read(self._root, part)
        return self._images[part]


def _plan(config: DataConfig, archive: Archive, loaded: _Loaded, root: Path) -> Mapping[Split, list[Run]]:
    classes = len(archive.class_names(root))
    labels = _labels(loaded, "train", classes)
    by_class = [np.flatnonzero(labels == label).tolist() for label in range(classes)]
    fewest, spare = min(map(len, by_class)), int(archive.unlabeled is None)
    wanted = max(config.labels_per_class, 1) * classes + config.holdout_images
    if config.labels_per_class > fewest or wanted > len(labels) - spare:
        raise UserError(
            f"data.labels_per_class {config.labels_per_class} of {classes} classes + data.holdout_images "
            f"{config.holdout_images} are too many: {config.dataset} has {len(labels)} images to train on, at least "
            f"{fewest} of a class{', and one has to be left for the pool' * spare}; lower one of the two"
        )
    rows = by_quota(by_class, {"holdout": config.holdout_images}, config.labels_per_class, config.seed)
    plan: dict[Split, list[Run]] = {
        "labeled": [("train", rows["labeled"])],
        "holdout": [("train", rows["holdout"])],
        "pool": [("train", rows["pool"])],
        "test": [("test", range(len(_labels(loaded, "test", classes))))],
    }
    if archive.unlabeled is not None:
        plan["pool"].append((archive.unlabeled, range(archive.count(root, archive.unlabeled))))
    return plan


def _labels(loaded: _Loaded, part: str, classes: int) -> NDArray[np.int64]:
    labels = loaded[part].labels
    assert labels is not None, part
    if not 0 <= labels.min(initial=0) <= labels.max(initial=0) < classes:
        raise UserError(f"data.root: {part} has labels outside 0 to {classes - 1}: its files are damaged, replace them")
    return labels


def _parts(split: Split, runs: Sequence[Run], loaded: _Loaded, shard_images: int) -> Iterator[Part]:
    number = before = 0
    for part, rows in runs:
        for start in range(0, len(rows), shard_images):
            some = rows[start : start + shard_images]
            yield Part(split, number, len(some), partial(_samples, split, (part, some), loaded, before + start))
            number += 1
        before += len(rows)


def _samples(split: Split, run: Run, loaded: _Loaded, first: int) -> Iterator[RawSample]:
    part, rows = run
    images = loaded[part]
    for number, row in enumerate(rows, start=first):
        yield RawSample(
            split=split,
            key=f"{split}-{number:09d}",
            label=None if split == "pool" or images.labels is None else int(images.labels[row]),
            suffix="png",
            path=f"root/{part}/{row:06d}",
            read=partial(_png, images.pixels, row),
        )


def _png(pixels: NDArray[np.uint8], row: int) -> bytes:
    return encode_png(np.ascontiguousarray(pixels[row]))


TORCHVISION = Kind(torchvision, digest, check)
