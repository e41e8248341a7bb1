"""Where images come from, and which split each belongs to.

In: a `DataConfig`. Out: a `Source`: the class names and, split by split, a stream of `RawSample`s whose
bytes are read when asked for. Every person's mistake about folders is found here, before an image is read.

Which image goes where is decided by sha256 of (seed, name) and not by a random generator: the split depends
neither on a library's version nor on the order in which a file system lists a folder.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ns_core.config import DataConfig
from ns_core.data.folders import ImageTree, file_digest, printable, read_file, scan, suffix
from ns_core.data.images import encode_png
from ns_core.data.index import SPLITS, Split
from ns_core.errors import UserError

DIGIT_SIDE = 32
"""Pixels; the digits are 8x8."""
_READERS = 8
"""Threads that read files for the content digest: they wait for the disk or the network."""

LabelledPath = tuple[str, int | None]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class RawSample:
    """One image as it was found, not yet looked at."""

    split: Split
    key: str
    label: int | None
    """Class index; None in the pool, whatever the folder says."""
    suffix: str
    path: str
    """`{field of DataConfig}/{path below it}`, or the key: does not change when the folder moves."""
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Source:
    """Images by split; `samples(split)` streams them with ascending keys and can be called again."""

    class_names: tuple[str, ...]
    counts: Mapping[Split, int]
    samples: Callable[[Split], Iterator[RawSample]]


def open_source(config: DataConfig) -> Source:
    """The source that the configuration names."""
    return digits(config) if config.source == "digits" else folder(config)


def digits(config: DataConfig) -> Source:
    """scikit-learn's 1,797 handwritten digits as 32x32 RGB PNGs, split evenly over the classes.

    The test and holdout splits do not depend on `labels_per_class`, and fewer labels are a subset of more
    (unless a class is nearly used up), so that arms with different numbers of labels can be compared.
    Raises `UserError` when more images are asked for than there are.
    """
    images, labels = _load_digits()
    rows = _split_digits(config, labels)

    def samples(split: Split) -> Iterator[RawSample]:
        for row in rows[split]:
            key = f"digit-{row:04d}"
            label = None if split == "pool" else int(labels[row])
            yield RawSample(split, key, label, "png", key, partial(_render, images[row]))

    names = tuple(str(digit) for digit in range(10))
    return Source(names, {split: len(rows[split]) for split in SPLITS}, samples)


def folder(config: DataConfig) -> Source:
    """Folders of images: `labeled/<class>/**`, `unlabeled/**`, and `holdout`, `test` like `labeled`.

    A split without a folder of its own takes its fraction of each labelled class, at least one image of
    each, and leaves at least one. Hidden files and folders are passed over, links are followed.
    Raises `UserError` for whatever is wrong with the folders, in one line.
    """
    tree = scan(config)
    plan = _split_folders(config, tree)

    def samples(split: Split) -> Iterator[RawSample]:
        field, files = plan[split]
        for number, (path, label) in enumerate(files):
            key, origin = f"{split}-{number:09d}", printable(f"{field}/{path}")
            read = partial(read_file, tree.roots[field] / path)
            yield RawSample(split, key, label, suffix(path), origin, read)

    names = tuple(printable(name) for name in tree.classes)
    return Source(names, {split: len(plan[split][1]) for split in SPLITS}, samples)


def content_digest(config: DataConfig) -> str:
    """The identity of the images that the configuration points at.

    Of folders: sha256 over the sorted (field, path below it, sha256 of the bytes) of all images, so that a
    moved folder keeps it and one changed byte does not. Of the digits: their name and the sha256 of the
    arrays. Raises `UserError` as `folder` does.
    """
    if config.source == "digits":
        images, labels = _load_digits()
        return "digits-" + hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    tree = scan(config)
    files = tree.files()
    digests = in_order(lambda file: file_digest(tree.roots[file[0]] / file[1]), files, _READERS)
    total = hashlib.sha256()
    for (field, path), digest in zip(files, digests, strict=True):
        total.update(os.fsencode(f"{field}/{path}") + b"\0" + digest)
    return "folder-" + total.hexdigest()


def in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """`map` on threads: results in the order of the items, at most two items a thread in flight."""
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[Result]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) >= 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    """A permutation keyed by `seed`, the same for the same set of names."""
    return sorted(names, key=lambda name: hashlib.sha256(b"%d/%s" % (seed, os.fsencode(name))).digest())


# --- digits


def _load_digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """uint8[1797,8,8] with values 0..16, uint8[1797] classes; from the package, nothing is downloaded."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)


def _render(image: NDArray[np.uint8]) -> bytes:
    """PNG, 32x32 RGB, of an 8x8 digit. Pillow's bicubic is fixed-point: the same pixels on every machine."""
    grey = np.round(image * (255.0 / 16.0)).astype(np.uint8)
    large = Image.fromarray(grey).resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC)
    return encode_png(np.repeat(np.asarray(large)[:, :, None], 3, axis=2))


def _split_digits(config: DataConfig, labels: NDArray[np.uint8]) -> dict[Split, list[int]]:
    """Ascending rows of each split."""
    sizes = np.bincount(labels).tolist()
    wanted = config.labels_per_class * len(sizes) + config.holdout_images + config.test_images
    if config.labels_per_class > min(sizes) or wanted >= len(labels):
        raise UserError(
            f"data.labels_per_class {config.labels_per_class} of {len(sizes)} classes + data.holdout_images "
            f"{config.holdout_images} + data.test_images {config.test_images} = {wanted} images: the digits "
            f"are {len(labels)}, at least {min(sizes)} of a class, and one has to be left for the pool; "
            "lower one of the three"
        )
    free = [size - config.labels_per_class for size in sizes]
    tests = _quotas(config.test_images, free)
    holdouts = _quotas(config.holdout_images, [room - used for room, used in zip(free, tests, strict=True)])
    rows: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for digit, (test, holdout) in enumerate(zip(tests, holdouts, strict=True)):
        order = [int(row) for row in _shuffled(map(str, np.flatnonzero(labels == digit)), config.seed)]
        ends = np.cumsum([test, holdout, config.labels_per_class]).tolist()
        rows["test"] += order[: ends[0]]
        rows["holdout"] += order[ends[0] : ends[1]]
        rows["labeled"] += order[ends[1] : ends[2]]
        rows["pool"] += order[ends[2] :]
    return {split: sorted(rows[split]) for split in SPLITS}


def _quotas(total: int, room: Sequence[int]) -> list[int]:
    """Shares of `total`, as even as the room of each allows; what is odd goes where there is most room."""
    shares = [0] * len(room)
    for done, place in enumerate(sorted(range(len(room)), key=room.__getitem__)):
        shares[place] = min(room[place], total // (len(room) - done))
        total -= shares[place]
    assert total == 0
    return shares


# --- folders


def _split_folders(config: DataConfig, tree: ImageTree) -> dict[Split, tuple[str, list[LabelledPath]]]:
    """Split -> the field of `DataConfig` that its images lie below, and (path, label), paths ascending."""
    shares: dict[Split, float] = {"test": config.test_fraction, "holdout": config.holdout_fraction}
    own = {split: share for split, share in shares.items() if split not in tree.by_class}
    plan: dict[Split, tuple[str, list[LabelledPath]]] = {
        "labeled": ("labeled", []),
        "pool": ("unlabeled", [(path, None) for path in tree.pool]),
        "holdout": ("labeled" if "holdout" in own else "holdout", []),
        "test": ("labeled" if "test" in own else "test", []),
    }
    for label, name in enumerate(tree.classes):
        rest = _shuffled(tree.by_class["labeled"][name], config.seed)
        if len(rest) <= len(own):
            raise UserError(
                f"data.labeled: class '{printable(name)}' has {len(rest)} image(s), too few to split into "
                f"labeled, {' and '.join(own)}: add images, or set data.{' and data.'.join(own)}"
            )
        for split, count in _cut(len(rest), own).items():
            plan[split][1].extend((path, label) for path in rest[:count])
            rest = rest[count:]
        plan["labeled"][1].extend((path, label) for path in rest)
        for split in shares:
            plan[split][1].extend((path, label) for path in tree.by_class.get(split, {}).get(name, []))
    for _, files in plan.values():
        files.sort(key=lambda file: os.fsencode(file[0]))
    return plan


def _cut(images: int, shares: Mapping[Split, float]) -> dict[Split, int]:
    """Images of one class for each split: its share rounded, at least one, leaving at least one."""
    counts = {split: max(1, int(images * share + 0.5)) for split, share in shares.items()}
    while sum(counts.values()) >= images:
        counts[max(counts, key=counts.__getitem__)] -= 1
    return counts
