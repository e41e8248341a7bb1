"""The sets of natural images: ImageNet-A, -R, -O, -V2 and -Sketch, and a folder of labelled images (`images`).

In: the folder of a set, the checkpoint's classes, and clean images. Out: the set's own scene and, beside it, clean
images of the same classes with the same choice of answers, so that the difference of the two is the set's.

* ImageNet-A and -R have 200 classes each; the network chooses among these (natural-adv-examples, eval.py:
  `net(x)[:, indices_in_1k]`). -V2 and -Sketch have all 1,000 and no such mask.
* ImageNet-O's images are of no class of ImageNet-1k. They are to be told from validation images of the 200 classes
  that its folders are named by, all answers being among these.
* ImageNet-V2's folders are numbers: `10` is class 10, though it sorts before `2` as text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ns_core.errors import UserError
from ns_core.evaluation.results import Gap
from ns_core.evaluation.samples import Opened, Samples
from ns_core.evaluation.sets.class_folders import (
    FolderSamples,
    Rows,
    drawn,
    images_in,
    left_out,
    list_folders,
    nobody_knows,
    some,
)
from ns_core.evaluation.sets.imagenet_index import synsets, synsets_of
from ns_core.evaluation.sets.layout import folders_in, is_number, setting
from ns_core.evaluation.tables import Scene

_MASKED = ("imagenet_a", "imagenet_r")
_FOREIGN = "is not among the classes of this set"
_UNKNOWN = "is not among the checkpoint's classes"


@dataclass(frozen=True)
class _Folders:
    """Whose class the folders of a set are."""

    numbers: Mapping[str, int]
    """Folder -> class number of the checkpoint."""
    unknown: Sequence[str]
    """Folders of classes that the set has and the checkpoint has not."""
    foreign: Sequence[str]
    """Folders of no class of the set."""


def open_set(
    name: str, root: Path, class_names: Sequence[str], images: Samples | None, budget: int, seed: int
) -> Opened:
    """The scenes and gaps of one of these sets; arguments and errors as of `sets.open_set`."""
    listed = synsets_of(name) if name in _MASKED else synsets()
    folders = folders_in(root)
    whose = _sorted_out(name, folders, class_names, listed)
    if len(whose.foreign) == len(folders) and name != "images":
        raise UserError(
            f"{setting(name)}: none of the class folders in {root} ({some(folders)}) is of this set ({some(listed)}): "
            "give the folder of this set"
        )
    if not whose.numbers:
        raise nobody_knows(name, root, folders, class_names)
    every = list_folders(root, whose.numbers)
    if not every.paths:
        raise UserError(f"{setting(name)}: the class folders in {root} hold no image: unpack the set again")
    gaps = left_out(name, images_in(root, whose.unknown), _UNKNOWN)
    gaps += left_out(name, images_in(root, whose.foreign), _FOREIGN if name != "images" else _UNKNOWN)
    rows = drawn(every.labels, budget, seed)
    if name == "images":
        return Opened({Scene("clean", "images"): _chosen(every, rows)}, gaps=gaps)

    present = np.unique(every.labels)
    gaps += _incomplete(name, whose, present, listed)
    mask = _mask(name, whose, class_names, listed)
    samples: dict[Scene, Samples] = {}
    if name == "imagenet_o":
        unlabelled = replace(every, labels=np.full_like(every.labels, -1))
        samples[Scene(name, "out")] = _chosen(unlabelled, rows, mask)
    else:
        samples[Scene(name, name)] = _chosen(every, rows, mask)
    if images is not None:
        clean = np.flatnonzero(np.isin(images.labels, present))
        clean = clean[drawn(images.labels[clean], budget, seed)]
        if len(clean):
            samples[Scene(name, "clean")] = Rows(images, clean, mask)
        else:
            gaps.append(Gap(suite=name, what="clean", reason="no clean image is of this set's classes"))
    return Opened(samples, gaps=gaps)


def _sorted_out(name: str, folders: Sequence[str], class_names: Sequence[str], listed: Sequence[str]) -> _Folders:
    """Which folders are whose. `images` may be named by the checkpoint's classes or numbered as they are."""
    position = {one: number for number, one in enumerate(class_names)}
    if name == "images":
        by_name = {one: position[one] for one in folders if one in position}
        numbered = {one: int(one) for one in folders if one.isdecimal() and int(one) < len(class_names)}
        numbers = by_name or numbered
        return _Folders(numbers, (), [one for one in folders if one not in numbers])
    if name == "imagenet_v2":
        synset = {one: listed[int(one)] for one in folders if is_number(one)}
    else:
        known = set(listed)
        synset = {one: one for one in folders if one in known}
    return _Folders(
        numbers={one: position[what] for one, what in synset.items() if what in position},
        unknown=[one for one, what in synset.items() if what not in position],
        foreign=[one for one in folders if one not in synset],
    )


def _mask(name: str, whose: _Folders, class_names: Sequence[str], listed: Sequence[str]) -> NDArray[np.int64] | None:
    """The class numbers among which the network has to choose, ascending."""
    if name == "imagenet_o":
        return np.array(sorted(whose.numbers.values()), np.int64)
    if name not in _MASKED:
        return None
    among = set(listed)
    return np.array([number for number, one in enumerate(class_names) if one in among], np.int64)


def _incomplete(name: str, whose: _Folders, present: NDArray[np.int32], listed: Sequence[str]) -> list[Gap]:
    """A gap when class folders are not there or empty. Which 200 ImageNet-O has, its folders alone say."""
    if name == "imagenet_o":
        missing = [one for one, number in whose.numbers.items() if number not in present]
    elif name == "imagenet_v2":
        there = {int(one) for one, number in whose.numbers.items() if number in present} | set(map(int, whose.unknown))
        missing = [str(number) for number in range(len(listed)) if number not in there]
    else:
        named = {one for one, number in whose.numbers.items() if number in present} | set(whose.unknown)
        missing = [one for one in listed if one not in named]
    if not missing:
        return []
    what = f"{len(missing)} of {len(whose.numbers) if name == 'imagenet_o' else len(listed)} class folders"
    return [Gap(suite=name, what=what, reason=f"without images or not there: {some(missing)}")]


def _chosen(every: FolderSamples, rows: NDArray[np.int64], mask: NDArray[np.int64] | None = None) -> FolderSamples:
    """Some of the images."""
    return replace(
        every,
        paths=[every.paths[row] for row in rows],
        keys=[every.keys[row] for row in rows],
        labels=every.labels[rows],
        classes=mask,
    )
