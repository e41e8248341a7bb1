"""Per-image predictions: what a network said, scene by scene, and the Parquet files that keep it.

A *scene* is one way of looking at a list of images: the clean test split, fog at severity 3, PGD at eps 8. A worker
writes each scene in files of at most `CHUNK` images, whole or not at all, so that a killed evaluation loses one chunk,
several workers share the files, and every figure can be computed again without the network. In: numpy columns.
Out: Parquet files named by scene and chunk, and `Tables`, which reads them.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

CHUNK = 2_000
"""Images of a file. Part of the format: who shares the work must cut it alike."""

SEQUENCE_SUITES = frozenset({"perturbations", "imagenet_p", "cifar10_p"})
"""Suites whose scenes are sequences of frames (`Sequences`); all others are single images (`Predictions`)."""

_NAME = re.compile(r"(?P<suite>\w+)-(?P<name>\w+)-(?P<level>[\d.]+)-(?P<chunk>\d{5})\.parquet")


class Scene(NamedTuple):
    """One way of looking at a list of images."""

    suite: str
    """`clean`, `corruptions`, `perturbations`, `fgsm`, `pgd`, `autoattack`, or a field of `OfficialSets`."""
    name: str
    """Within the suite: a split (`holdout`, `test`, `images`), a corruption, a perturbation; else the suite's name.
    Of ImageNet-A and its like `clean` is the same classes of `OfficialSets.images`; ImageNet-O's own is `out`."""
    level: str = "0"
    """Severity 1..5, difficulty 1..3, or eps in 0..255 units; `0` where there is none."""

    def file(self, chunk: int) -> str:
        """Name of the file with images `chunk * CHUNK` and up."""
        return f"{self.suite}-{self.name}-{self.level}-{chunk:05d}.parquet"


@dataclass(frozen=True)
class Predictions:
    """What a network said of N images, in the order of the scene. All arrays are [N]."""

    key: NDArray[np.object_]
    """Of the source image: the same picture has the same key in all scenes of its list."""
    label: NDArray[np.int32]
    """Class number of the checkpoint's; -1: none of its classes (ImageNet-O)."""
    top1: NDArray[np.int32]
    """The predicted class, the lowest of equals; -1 where the image could not be read."""
    confidence: NDArray[np.float32]
    """Its probability."""
    label_probability: NDArray[np.float32]
    """Of the label; 0 without one."""
    squares: NDArray[np.float32]
    """Sum over the classes of the squared probability, for the Brier score."""
    rank: NDArray[np.int32]
    """Classes with a higher score than the label's: 0 is right, below 5 is in the top five; -1 without a label."""
    reason: NDArray[np.object_]
    """Why an image could not be looked at; empty: it was. It counts in no figure, and is a gap of the report."""

    def __len__(self) -> int:
        return len(self.key)

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Whether the prediction is the label."""
        return np.asarray((self.top1 == self.label) & (self.label >= 0))

    def readable(self) -> "Predictions":
        """Without the images that could not be read."""
        return _rows(self, self.reason == "")


@dataclass(frozen=True)
class Sequences:
    """What a network said of N sequences of frames. All arrays are [N]."""

    key: NDArray[np.object_]
    label: NDArray[np.int32]
    """-1 where it is not known: flips need none."""
    frames: NDArray[np.int32]
    """Of the sequence."""
    right: NDArray[np.int32]
    """Frames on which the prediction is the label."""
    compared: NDArray[np.int32]
    """Pairs of frames that were compared."""
    flips: NDArray[np.int32]
    """Pairs with different predictions."""
    t5d: NDArray[np.float64]
    """Mean top-5 distance of the pairs (Hendrycks & Dietterich 2019); NaN with fewer than 5 classes."""
    reason: NDArray[np.object_]
    """As of `Predictions`."""

    def __len__(self) -> int:
        return len(self.key)

    def readable(self) -> "Sequences":
        """Without the sequences that could not be read."""
        return _rows(self, self.reason == "")


Table = Predictions | Sequences
AnyTable = TypeVar("AnyTable", Predictions, Sequences)

_STRINGS = ("key", "reason")


def kind_of(scene: Scene) -> type[Predictions] | type[Sequences]:
    """What the files of a scene hold."""
    return Sequences if scene.suite in SEQUENCE_SUITES else Predictions


def write_table(table: Table, path: Path) -> None:
    """One Parquet file; the same columns give the same bytes."""
    columns = {name: pa.array(getattr(table, name)) for name in _columns(type(table))}
    for name in _STRINGS:
        columns[name] = pa.array(getattr(table, name), pa.string())
    pq.write_table(pa.table(columns), path, compression="zstd")


class Tables:
    """The files of one evaluation, wherever they lie."""

    def __init__(self, names: Iterable[str], open: Callable[[str], BinaryIO]) -> None:
        """`names`: all files of the artifact; `open`: a file by its name, to be read and sought."""
        self._open = open
        self._files: dict[Scene, list[str]] = {}
        for name in sorted(names):
            if match := _NAME.fullmatch(name):
                self._files.setdefault(Scene(match["suite"], match["name"], match["level"]), []).append(name)

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Those in a local folder."""
        return cls((path.name for path in folder.iterdir()), lambda name: (folder / name).open("rb"))

    @property
    def scenes(self) -> Sequence[Scene]:
        """All that have a file, sorted."""
        return sorted(self._files)

    def __contains__(self, scene: Scene) -> bool:
        return scene in self._files

    def predictions(self, scene: Scene) -> Predictions:
        """Every image of a scene, the unreadable ones too. `KeyError` when there is no such scene."""
        return Predictions(**self._read(scene))

    def sequences(self, scene: Scene) -> Sequences:
        """Every sequence of a scene. `KeyError` when there is no such scene."""
        return Sequences(**self._read(scene))

    def _read(self, scene: Scene) -> dict[str, NDArray[Any]]:
        parts = []
        for name in self._files[scene]:
            with self._open(name) as file:
                parts.append(pq.read_table(file))
        table = pa.concat_tables(parts)
        return {name: table[name].to_numpy() for name in _columns(kind_of(scene))}


def _columns(kind: type[Table]) -> tuple[str, ...]:
    return tuple(kind.__dataclass_fields__)


def _rows(table: AnyTable, mask: NDArray[np.bool_]) -> AnyTable:
    return type(table)(**{name: getattr(table, name)[mask] for name in _columns(type(table))})
