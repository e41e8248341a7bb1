"""Many scenes of the same source images: what ImageNet-C and ImageNet-P have in common.

In: the folder of each scene, which holds class folders of files of the same names. Out: for each scene the files of the
images to look at, the same images everywhere; and gaps where a scene lacks some that others have. ImageNet-C is 4.75
million files: all scenes share one list of names, and a list of its own has only who lacks images.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ns_core.data.folders import suffix, told
from ns_core.data.ordered import in_order
from ns_core.evaluation.results import Gap
from ns_core.evaluation.sets.class_folders import drawn, keys_of, left_out, nobody_knows, some
from ns_core.evaluation.sets.layout import folders_in
from ns_core.evaluation.tables import Scene

_LISTERS = 8
"""Threads that list folders: on a network drive they wait."""

Places = Mapping[Scene, Path]
"""Scene -> the folder with its class folders."""


@dataclass(frozen=True)
class Files:
    """The files of a scene."""

    root: Path
    paths: Sequence[str]
    """[N] below `root`, in the order of their keys."""
    keys: Sequence[str]
    labels: NDArray[np.int32]


@dataclass
class _Names:
    """The paths that occur in any scene, and in which."""

    numbers: dict[str, int] = field(default_factory=dict)
    """`class/file` -> number, in order of appearance."""
    scenes: dict[Scene, NDArray[np.int32]] = field(default_factory=dict)
    """The numbers of a scene's files."""

    def add(self, scene: Scene, paths: Sequence[str]) -> None:
        numbers = self.numbers
        self.scenes[scene] = np.array([numbers.setdefault(path, len(numbers)) for path in paths], np.int32)


def list_scenes(
    places: Places, class_names: Sequence[str], suffixes: frozenset[str], budget: int, seed: int
) -> tuple[dict[Scene, Files], list[Gap]]:
    """The files to look at, by scene. Class folders of no class of the checkpoint and files that a scene lacks are
    gaps; `UserError` when no class folder is known."""
    names = _listed(places, suffixes)
    suite = next(iter(places)).suite
    paths = list(names.numbers)
    folders = [path.partition("/")[0] for path in paths]
    position = {name: number for number, name in enumerate(class_names)}
    labels = np.array([position.get(folder, -1) for folder in folders], np.int32)
    known = np.flatnonzero(labels >= 0)
    if not len(known):
        place = next(iter(places.values()))
        raise nobody_knows(suite, place, sorted(set(folders)) or folders_in(place), class_names)
    keys = keys_of(paths)
    ordered = np.array(sorted(known.tolist(), key=keys.__getitem__), np.int64)
    wanted = ordered[drawn(labels[ordered], budget, seed)]
    whole = Files(Path(), [paths[at] for at in wanted], [keys[at] for at in wanted], labels[wanted])

    strays: dict[str, int] = {}
    for at in np.flatnonzero(labels < 0):
        strays[folders[at]] = strays.get(folders[at], 0) + 1
    gaps = left_out(suite, strays, "is not among the checkpoint's classes")
    scenes = {}
    for scene, place in places.items():
        there = np.zeros(len(paths), bool)
        there[names.scenes[scene]] = True
        scenes[scene], more = _of_scene(scene, place, whole, there[wanted])
        gaps += more
    return {scene: files for scene, files in scenes.items() if files.paths}, gaps


def title(scene: Scene) -> str:
    """A scene in the words of a gap: `fog 3`."""
    return f"{scene.name} {scene.level}"


def _listed(places: Places, suffixes: frozenset[str]) -> _Names:
    """ImageNet-C takes 16 s where the file system has its folders in memory (300,000 names in 1.0 s); no more than 16
    scenes' lists are held beside the common one."""
    names = _Names()
    listing = in_order(lambda place: _files_in(place, suffixes), places.values(), _LISTERS)
    for scene, paths in zip(places, listing, strict=True):
        names.add(scene, paths)
    return names


def _files_in(place: Path, suffixes: frozenset[str]) -> list[str]:
    """`class/file` of the visible files with these endings; deeper folders have none."""
    paths = []
    for folder in folders_in(place):
        with told(place / folder), os.scandir(place / folder) as entries:
            paths += [
                f"{folder}/{entry.name}"
                for entry in entries
                if suffix(entry.name) in suffixes and not entry.name.startswith(".") and not entry.is_dir()
            ]
    return paths


def _of_scene(scene: Scene, place: Path, whole: Files, there: NDArray[np.bool_]) -> tuple[Files, list[Gap]]:
    """Those of the wanted files that lie in one scene, and a gap when some do not."""
    if there.all():
        return Files(place, whole.paths, whole.keys, whole.labels), []
    present, absent = np.flatnonzero(there).tolist(), np.flatnonzero(~there).tolist()
    missing = some(whole.paths[at] for at in absent)
    gap = Gap(
        suite=scene.suite,
        what=title(scene),
        reason=f"{len(absent)} of {len(there)} files are not there: {missing}",
        images=len(absent) if len(present) else 0,
    )
    files = Files(place, [whole.paths[at] for at in present], [whole.keys[at] for at in present], whole.labels[present])
    return files, [gap]
