"""The scenes of an evaluation as figures compute on them: without what could not be read, and aligned by image.

In: `Tables`. Out: readable `Predictions` and `Sequences`, with a `Gap` for what was left out; and `Variants`, the
figures of N source images under V scenes, where every image is in every scene, so that a mean over scenes and a
bootstrap over images are of the same images.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ns_core.evaluation.figures.paired import MIN_COMMON, common_rows
from ns_core.evaluation.results import Gap
from ns_core.evaluation.tables import AnyTable, Predictions, Scene, Sequences, Tables, kind_of

ATTACKS = ("fgsm", "pgd", "autoattack")


def called(scene: Scene) -> str:
    """A scene within its suite, as gaps name it: `test`, `fog 3`, `tilt`, `eps 8`."""
    if scene.suite in ATTACKS:
        return f"eps {scene.level}"
    return scene.name if scene.level == "0" else f"{scene.name} {scene.level}"


class Readable:
    """The readable part of each scene; what is not readable is told once a scene."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._gaps: dict[Scene, Gap] = {}

    def __contains__(self, scene: Scene) -> bool:
        return scene in self._tables

    @property
    def scenes(self) -> Sequence[Scene]:
        return self._tables.scenes

    @property
    def gaps(self) -> list[Gap]:
        """Of the scenes that were read so far."""
        return [self._gaps[scene] for scene in sorted(self._gaps)]

    def predictions(self, scene: Scene) -> Predictions | None:
        """None when there is no such scene, or no image of it could be read."""
        return self._readable(scene, self._tables.predictions(scene)) if scene in self._tables else None

    def sequences(self, scene: Scene) -> Sequences | None:
        """As `predictions`."""
        return self._readable(scene, self._tables.sequences(scene)) if scene in self._tables else None

    def _readable(self, scene: Scene, table: AnyTable) -> AnyTable | None:
        lost = np.flatnonzero(table.reason != "")
        if len(lost):
            reason = str(table.reason[lost[0]])
            self._gaps[scene] = Gap(suite=scene.suite, what=called(scene), reason=reason, images=len(lost))
            table = table.readable()
        return table if len(table) else None


@dataclass(frozen=True)
class Variants:
    """K figures of each of N source images under each of V scenes."""

    scenes: Sequence[Scene]
    """[V]"""
    key: NDArray[np.object_]
    """[N], in the order of the first scene."""
    label: NDArray[np.int32]
    """[N]"""
    values: NDArray[np.float64]
    """[N, V, K]: of `Predictions` 1 for a mistake (K = 1); of `Sequences` flips per compared pair, frames that are
    right, frames, T5D (K = 4)."""
    gaps: Sequence[Gap] = ()
    """Scenes that were left out because too many images miss, and images because a scene misses them."""

    @classmethod
    def read(cls, source: Readable, scenes: Iterable[Scene]) -> "Variants | None":
        """Those of the scenes that are there; None when none is, or they have no image in common.

        A scene with less than `MIN_COMMON` of the images of the largest one is left out whole; of the others, the
        images that all have are kept. One scene is read at a time: 75 of 50,000 images want 0.2 GB.
        """
        place: dict[str, int] = {}
        labels: list[int] = []
        columns: dict[Scene, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        for scene in scenes:
            table = source.sequences(scene) if kind_of(scene) is Sequences else source.predictions(scene)
            if table is None:
                continue
            rows = np.array([place.setdefault(key, len(place)) for key in table.key.tolist()], np.int64)
            assert len(np.unique(rows)) == len(rows), f"two images of {called(scene)} have the same key"
            labels.extend(table.label[rows >= len(labels)].tolist())
            assert np.array_equal(np.array(labels, np.int32)[rows], table.label), f"an image of {scene} has two labels"
            columns[scene] = (rows, _figures(table))
        return _aligned(np.array(list(place), object), np.array(labels, np.int32), columns)

    def groups(self) -> dict[str, list[int]]:
        """Corruption or perturbation -> its columns."""
        found: dict[str, list[int]] = {}
        for column, scene in enumerate(self.scenes):
            found.setdefault(scene.name, []).append(column)
        return found

    def means(self) -> NDArray[np.float64]:
        """[N, G]: the first figure, as a mean over the scenes of each of `groups`."""
        return np.stack([self.values[:, columns, 0].mean(axis=1) for columns in self.groups().values()], axis=1)

    def restricted(self, scenes: Sequence[Scene]) -> "Variants":
        """With these columns, in this order."""
        columns = [list(self.scenes).index(scene) for scene in scenes]
        return Variants(scenes, self.key, self.label, self.values[:, columns])


def paired(ours: Variants, other: Variants) -> tuple[Variants, Variants] | None:
    """Both on the images and scenes of `ours`, where `other` has them; None when it lacks a scene, or too many images.

    `other` may have more scenes.
    """
    rows = common_rows(ours.key, other.key)
    if rows is None or not set(ours.scenes) <= set(other.scenes):
        return None
    there = other.restricted(ours.scenes)
    ours, there = (
        Variants(each.scenes, each.key[chosen], each.label[chosen], each.values[chosen])
        for each, chosen in ((ours, rows[0]), (there, rows[1]))
    )
    assert np.array_equal(ours.label, there.label), "an image has another label in the baseline"
    return ours, there


def _figures(table: Predictions | Sequences) -> NDArray[np.float64]:
    """float64 [N, K], as `Variants.values`."""
    if isinstance(table, Predictions):
        return (~table.right[:, None]).astype(np.float64)
    assert (table.compared > 0).all(), "a sequence without a pair of frames"
    return np.stack([table.flips / table.compared, table.right, table.frames, table.t5d], axis=1).astype(np.float64)


def _aligned(
    key: NDArray[np.object_],
    label: NDArray[np.int32],
    columns: dict[Scene, tuple[NDArray[np.int64], NDArray[np.float64]]],
) -> Variants | None:
    """The scenes that are nearly whole, on the images that all of them have."""
    largest = max((len(rows) for rows, _ in columns.values()), default=0)
    gaps = [
        Gap(
            suite=scene.suite,
            what=called(scene),
            reason=f"only {len(rows)} of {largest} images: left out",
        )
        for scene, (rows, _) in columns.items()
        if len(rows) < MIN_COMMON * largest
    ]
    whole = {scene: column for scene, column in columns.items() if len(column[0]) >= MIN_COMMON * largest}
    seen = np.zeros(len(key), np.int64)
    for rows, _ in whole.values():
        seen[rows] += 1
    kept = np.flatnonzero(seen == len(whole))
    if not whole or not len(kept):
        return None
    if lost := int((seen > 0).sum()) - len(kept):
        suite = next(iter(whole)).suite
        gaps.append(
            Gap(suite=suite, what="images", reason="not in all variants: left out of every figure", images=lost)
        )
    values = np.empty((len(kept), len(whole), next(iter(whole.values()))[1].shape[1]))
    for number, (rows, figures) in enumerate(whole.values()):
        spread = np.empty((len(key), figures.shape[1]))
        spread[rows] = figures
        values[:, number] = spread[kept]
    return Variants(list(whole), key[kept], label[kept], values, gaps)
