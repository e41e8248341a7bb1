"""Tables of evaluations, written by what is right and wrong, for tests of reports."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ns_core.evaluation.tables import Predictions, Scene, Sequences, Table, Tables, write_table

CLASSES = 10


def keys(count: int) -> list[str]:
    return [f"picture-{number:03d}" for number in range(count)]


def predictions(
    right: Sequence[bool], confidence: Sequence[float] | None = None, unreadable: frozenset[int] = frozenset()
) -> Predictions:
    """Image i is of class i % 10; a wrong prediction is the next class."""
    count = len(right)
    label = (np.arange(count) % CLASSES).astype(np.int32)
    top1 = np.where(right, label, (label + 1) % CLASSES).astype(np.int32)
    reason = np.array(["is broken" if row in unreadable else "" for row in range(count)], object)
    return Predictions(
        key=np.array(keys(count), object),
        label=label,
        top1=np.where(reason == "", top1, -1).astype(np.int32),
        confidence=np.array(confidence if confidence is not None else [0.5] * count, np.float32),
        label_probability=np.full(count, 0.4, np.float32),
        squares=np.full(count, 0.4, np.float32),
        rank=np.where(right, 0, 1).astype(np.int32),
        reason=reason,
    )


def sequences(flips: Sequence[int], compared: int = 30) -> Sequences:
    count = len(flips)
    return Sequences(
        key=np.array(keys(count), object),
        label=(np.arange(count) % CLASSES).astype(np.int32),
        frames=np.full(count, compared + 1, np.int32),
        right=np.full(count, compared, np.int32),
        compared=np.full(count, compared, np.int32),
        flips=np.array(flips, np.int32),
        t5d=np.full(count, 1.5),
        reason=np.array([""] * count, object),
    )


def written(folder: Path, scenes: Mapping[Scene, Table]) -> Tables:
    """The files of an evaluation in a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene, table in scenes.items():
        write_table(table, folder / scene.file(0))
    return Tables.of(folder)


def first(count: int, of: int) -> list[bool]:
    """The first `count` of so many are right."""
    return [number < count for number in range(of)]


def evaluation(test: int, corrupted: int, flips: int, attacked: Mapping[str, int], of: int = 60) -> dict[Scene, Table]:
    """Scenes of an evaluation in which so many of `of` images are right; every sequence flips `flips` times in 30.

    `attacked`: by eps, the same under FGSM and PGD.
    """
    scenes: dict[Scene, Table] = {Scene("clean", "test"): predictions(first(test, of))}
    scenes |= {Scene("corruptions", name, "5"): predictions(first(corrupted, of)) for name in ("fog", "contrast")}
    scenes[Scene("corruptions", "saturate", "5")] = predictions(first(0, of))
    scenes[Scene("perturbations", "tilt", "1")] = sequences([flips] * of)
    for kind in ("fgsm", "pgd"):
        scenes |= {Scene(kind, kind, eps): predictions(first(right, of)) for eps, right in attacked.items()}
    return scenes
