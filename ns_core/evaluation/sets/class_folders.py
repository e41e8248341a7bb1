"""Images in class folders: which there are, whose class they are, and their pixels.

In: a folder of class folders, and the class number of each folder's name. Out: `FolderSamples`, sorted by key; gaps for
class folders that have no number. A key is the path below the folder without its ending (`n01440764/ILSVRC2012_val_1`),
so that what was made of one image has one key in all sets that keep the names.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ns_core.data.folders import SUFFIXES, printable, walk
from ns_core.data.images import CorruptImage, decode
from ns_core.errors import StageFailed, UserError
from ns_core.evaluation.draw import subset
from ns_core.evaluation.results import Gap
from ns_core.evaluation.samples import Pixels, Samples, View
from ns_core.evaluation.sets.layout import setting

IMAGES = frozenset((*SUFFIXES, "ppm", "pgm", "pbm", "jp2", "j2k", "avif"))
"""Endings of the files that `data.images` decodes."""
_NAMED = 5
"""Class folders that have gaps of their own; more of them share one."""


@dataclass(frozen=True, eq=False)
class FolderSamples:
    """Labelled image files, each read when it is asked for. A `Samples`."""

    root: Path
    paths: Sequence[str]
    """[N] below `root`."""
    keys: Sequence[str]
    labels: NDArray[np.int32]
    classes: NDArray[np.int64] | None = None
    view: View = "clean"
    size: tuple[int, int] | None = None
    """Height and width that every image must have; None: any."""

    def image(self, number: int) -> Pixels:
        """uint8[H,W,3], RGB; `CorruptImage` with the reason, also for a file that is gone or of another size."""
        pixels = read_image(self.root / self.paths[number])
        if self.size is not None and pixels.shape[:2] != self.size:
            height, width = self.size
            raise CorruptImage(f"is {pixels.shape[0]}x{pixels.shape[1]}, not {height}x{width}")
        return pixels


@dataclass(frozen=True, eq=False)
class Rows:
    """Some images of other `Samples`, with classes to choose from of its own. A `Samples`."""

    samples: Samples
    rows: NDArray[np.int64]
    classes: NDArray[np.int64] | None

    @cached_property
    def keys(self) -> Sequence[str]:
        """Of the chosen images."""
        every = self.samples.keys
        return [every[row] for row in self.rows.tolist()]

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Of the chosen images."""
        return self.samples.labels[self.rows]

    @property
    def view(self) -> View:
        """As of all of them."""
        return self.samples.view

    def image(self, number: int) -> Pixels:
        """As of all of them."""
        return self.samples.image(int(self.rows[number]))


def read_image(path: Path) -> Pixels:
    """uint8[H,W,3], RGB; `CorruptImage` when the file is no picture or may not be read.

    `StageFailed` when it is not there, as it was when the set's digest was taken: nothing that the set can help.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise went_away(path) from None
    except PermissionError:
        raise CorruptImage("may not be read by this user") from None
    return decode(data)


def went_away(path: Path) -> StageFailed:
    """A file that was listed and is no more; a drive that is gone must not become gaps of a finished report."""
    return StageFailed(f"{path} went away while it was looked at: is its drive still there? Then run it again")


def drawn(labels: NDArray[np.int32], budget: int, seed: int) -> NDArray[np.int64]:
    """Row numbers of `budget` images, classes in turn, ascending; 0: of all."""
    return subset(labels, budget, seed) if budget else np.arange(len(labels))


def keys_of(paths: Sequence[str]) -> list[str]:
    """Each path without its ending, as valid UTF-8; with it where two paths differ in nothing else."""
    bare = [printable(os.path.splitext(path)[0]) for path in paths]
    often = Counter(bare)
    return [key if often[key] == 1 else printable(path) for key, path in zip(bare, paths, strict=True)]


def list_folders(root: Path, numbers: Mapping[str, int]) -> FolderSamples:
    """The images at any depth of the class folders that have a number, sorted by key; labels are the numbers."""
    paths, labels = [], []
    for name, number in numbers.items():
        inside = walk(root, name, IMAGES)
        paths += inside
        labels += [number] * len(inside)
    keys = keys_of(paths)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return FolderSamples(
        root, [paths[at] for at in order], [keys[at] for at in order], np.array(labels, np.int32)[order]
    )


def left_out(suite: str, counts: Mapping[str, int], reason: str) -> list[Gap]:
    """Gaps for class folders whose images (`counts`) are not looked at; of an empty folder nothing is missing."""
    counts = {name: count for name, count in counts.items() if count}
    if len(counts) <= _NAMED:
        return [
            Gap(suite=suite, what=f"class folder '{printable(name)}'", reason=reason, images=count)
            for name, count in counts.items()
        ]
    what = f"{len(counts)} class folders"
    return [Gap(suite=suite, what=what, reason=f"{reason}: {some(counts)}", images=sum(counts.values()))]


def images_in(root: Path, names: Iterable[str]) -> dict[str, int]:
    """How many images each of these folders holds."""
    return {name: len(walk(root, name, IMAGES)) for name in names}


def some(names: Iterable[str]) -> str:
    """The first three, quoted, and how many more."""
    every = list(names)
    more = f" and {len(every) - 3} more" if len(every) > 3 else ""
    return ", ".join(f"'{printable(name)}'" for name in every[:3]) + more


def nobody_knows(suite: str, root: Path, folders: Sequence[str], class_names: Sequence[str]) -> UserError:
    """For a set of which the checkpoint has no class."""
    return UserError(
        f"{setting(suite)}: none of the class folders in {root} ({some(folders)}) is a class of the checkpoint "
        f"({some(class_names)}): evaluate a checkpoint that has these classes, or leave the set out"
    )
