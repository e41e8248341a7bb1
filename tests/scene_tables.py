"""Tables of evaluations that tests make by hand: who is right on which image, scene by scene."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ns_core.evaluation.tables import CHUNK, Predictions, Scene, Sequences, Table, Tables, write_table

CLASSES = 10


def keys(images: int, prefix: str = "k") -> NDArray[np.object_]:
    """`k0`, `k1`, ..."""
    return np.array([f"{prefix}{number}" for number in range(images)], object)


def predictions(right: ArrayLike, **columns: Any) -> Predictions:
    """Right or wrong as told, in 10 classes that take turns; a mistake is the next class. Columns may be given."""
    hits = np.asarray(right, bool)
    images = len(hits)
    label = np.asarray(columns.pop("label", np.arange(images) % CLASSES), np.int32)
    confidence = np.asarray(columns.pop("confidence", np.full(images, 0.9)), np.float32)
    made: dict[str, Any] = {
        "key": keys(images),
        "label": label,
        "top1": np.where(hits, label, (label + 1) % CLASSES).astype(np.int32),
        "confidence": confidence,
        "label_probability": np.where(hits, confidence, 1 - confidence).astype(np.float32),
        "squares": (confidence**2 + (1 - confidence) ** 2).astype(np.float32),
        "rank": np.where(hits, 0, 1).astype(np.int32),
        "reason": np.full(images, "", object),
    }
    return Predictions(**(made | columns))


def sequences(flips: ArrayLike, compared: int = 30, **columns: Any) -> Sequences:
    """So many flips in each sequence, half of the frames right."""
    found = np.asarray(flips, np.int32)
    images = len(found)
    made: dict[str, Any] = {
        "key": keys(images),
        "label": (np.arange(images) % CLASSES).astype(np.int32),
        "frames": np.full(images, compared + 1, np.int32),
        "right": np.full(images, (compared + 1) // 2, np.int32),
        "compared": np.full(images, compared, np.int32),
        "flips": found,
        "t5d": np.full(images, 1.5),
        "reason": np.full(images, "", object),
    }
    return Sequences(**(made | columns))


def unreadable(table: Predictions, rows: Sequence[int], reason: str = "truncated") -> Predictions:
    """With images that could not be read."""
    top1, why = table.top1.copy(), table.reason.copy()
    top1[list(rows)], why[list(rows)] = -1, reason
    columns = {name: getattr(table, name) for name in Predictions.__dataclass_fields__}
    return Predictions(**(columns | {"top1": top1, "reason": why}))


def saved(folder: Path, scenes: Mapping[Scene, Table]) -> Tables:
    """The files of an evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene, table in scenes.items():
        columns = {name: getattr(table, name) for name in type(table).__dataclass_fields__}
        for chunk, first in enumerate(range(0, len(table), CHUNK)):
            part = {name: column[first : first + CHUNK] for name, column in columns.items()}
            write_table(type(table)(**part), folder / scene.file(chunk))
    return Tables.of(folder)
