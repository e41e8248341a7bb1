"""Which image goes to which split, for images that come in one heap a class.

Decided by sha256 of (seed, name) and not by a random generator: a split depends neither on a library's version
nor on the order in which a file system lists a folder, and a new class leaves the others as they were.
"""

import hashlib
import os
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import repeat

from ns_core.config import DataConfig
from ns_core.data.index import SPLITS, Split
from ns_core.errors import UserError

Labelled = tuple[list[str], "array[int]"]
"""Paths, and the class index of each."""


def rank(name: str, seed: int) -> bytes:
    """32 bytes; a class is ordered by them before it is cut into splits."""
    return hashlib.sha256(b"%d/%s" % (seed, os.fsencode(name))).digest()


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """A permutation keyed by `seed`, the same for the same set of names."""
    return sorted(names, key=lambda name: rank(name, seed))


def cut(images: int, shares: Mapping[Split, float]) -> dict[Split, int]:
    """Images of one class for each split: its share rounded, at least one, leaving at least one."""
    counts = {split: max(1, int(images * share + 0.5)) for split, share in shares.items()}
    while sum(counts.values()) >= images:
        counts[max(counts, key=counts.__getitem__)] -= 1
    return counts


def quotas(total: int, room: Sequence[int]) -> list[int]:
    """Shares of `total`, as even as the room of each allows; what is odd goes where there is most room."""
    shares = [0] * len(room)
    for done, place in enumerate(sorted(range(len(room)), key=room.__getitem__)):
        shares[place] = min(room[place], total // (len(room) - done))
        total -= shares[place]
    assert total == 0
    return shares


def fractions(config: DataConfig, given: Collection[str]) -> dict[Split, float]:
    """The share of each class that `test` and `holdout` take, unless they are `given`."""
    wanted: dict[Split, float] = {"test": config.test_fraction, "holdout": config.holdout_fraction}
    return {split: share for split, share in wanted.items() if split not in given}


def by_fraction(
    classes: Sequence[list[str]], names: Sequence[str], config: DataConfig, given: Collection[Split]
) -> dict[Split, Labelled]:
    """The labelled images, and those of `holdout` and `test` unless they are `given`, cut from each class.

    `classes`: the images of each class; `names`: of the classes, for the `UserError` that tells of a class that
    has too few. Each split has at least one image of each class.
    """
    own = fractions(config, given)
    chosen: dict[Split, Labelled] = {split: ([], array("i")) for split in (*own, "labeled")}
    for label, (name, paths) in enumerate(zip(names, classes, strict=True)):
        check_room(name, len(paths), own)
        rest = shuffled(paths, config.seed)
        for split, count in {**cut(len(rest), own), "labeled": len(rest)}.items():
            _add(chosen[split], label, sorted(rest[:count], key=os.fsencode))
            rest = rest[count:]
    return chosen


def labelled(classes: Sequence[list[str]]) -> Labelled:
    """All images of all classes."""
    images: Labelled = ([], array("i"))
    for label, paths in enumerate(classes):
        _add(images, label, paths)
    return images


def _add(images: Labelled, label: int, paths: list[str]) -> None:
    images[0].extend(paths)
    images[1].extend(repeat(label, len(paths)))


def check_room(name: str, images: int, own: Collection[Split]) -> None:
    """A class has an image for each split that is cut from it, and one that stays; else `UserError`."""
    if images <= len(own):
        raise UserError(
            f"data.labeled: class '{name}' has {images} image(s), too few to split into labeled, "
            f"{' and '.join(own)}: add images, or set data.{' and data.'.join(own)}"
        )


def by_quota(
    labels: Sequence[Sequence[int]], wanted: Mapping[Split, int], labels_per_class: int, seed: int
) -> dict[Split, list[int]]:
    """Ascending rows of each split, from the rows of each class.

    `wanted` images of a split, as even over the classes as they allow; then `labels_per_class` labelled ones of
    each (0: all that are left); the rest is the pool. What `wanted` takes does not depend on the labels, and
    fewer labels are a subset of more, unless a class is nearly used up: so that arms can be compared.
    """
    room = [len(rows) - (labels_per_class or 1) for rows in labels]
    counts: dict[Split, list[int]] = {}
    for split, total in wanted.items():
        counts[split] = quotas(total, room)
        room = [left - used for left, used in zip(room, counts[split], strict=True)]
    chosen: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for place, rows in enumerate(labels):
        rest = [int(row) for row in shuffled(map(str, rows), seed)]
        for split in wanted:
            chosen[split] += rest[: counts[split][place]]
            rest = rest[counts[split][place] :]
        labelled = labels_per_class or len(rest)
        chosen["labeled"] += rest[:labelled]
        chosen["pool"] += rest[labelled:]
    return {split: sorted(chosen[split]) for split in SPLITS}
