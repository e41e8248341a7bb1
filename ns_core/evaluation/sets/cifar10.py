"""CIFAR-10-C and CIFAR-10-P: numpy arrays of 32 x 32 pictures, left on disk and read where they are looked at.

CIFAR-10-C: `<corruption>.npy` uint8[5n,32,32,3], blocks of n by severity, and `labels.npy` with 5n or n classes.
CIFAR-10-P: `<perturbation>.npy` uint8[n,T,32,32,3]; it has no labels, but `labels.npy` [n] is used when somebody put it
there. In: the folder. Out: a scene for each corruption and severity, or for each perturbation, all of the same source
images; a gap for each array that is not there, or not what it should be. Keys are numbers, `00000` and up.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ns_core.errors import UserError
from ns_core.evaluation.results import Gap
from ns_core.evaluation.samples import Clips, Opened, Pixels, Samples, View
from ns_core.evaluation.sets.class_folders import drawn, some
from ns_core.evaluation.sets.layout import ALL_CORRUPTIONS, ALL_PERTURBATIONS, CLIP_FOLDERS, NOISES, SEVERITIES, setting
from ns_core.evaluation.tables import Scene

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""By label; the order is that of the arrays of CIFAR-10 and of torchvision."""
_SYNONYMS = {"plane": "airplane", "aeroplane": "airplane", "car": "automobile"}
_PICTURE = (32, 32, 3)


@dataclass(frozen=True, eq=False)
class _Pictures:
    """Rows of an array of single pictures, or of sequences. A `Samples`, and a `Clips`."""

    array: NDArray[np.uint8]
    """[.., 32,32,3] or [.., T,32,32,3], mapped from the file."""
    rows: NDArray[np.int64]
    keys: Sequence[str]
    labels: NDArray[np.int32]
    against_first: bool = False
    classes: NDArray[np.int64] | None = None
    view: View = "whole"
    step: int = 1

    def image(self, number: int) -> Pixels:
        """uint8[32,32,3]."""
        return np.asarray(self.array[self.rows[number]])

    frames = image
    """uint8[T,32,32,3]."""


def open_corruptions(root: Path, class_names: Sequence[str], budget: int, seed: int) -> Opened:
    """CIFAR-10-C. Arguments and errors as of `sets.open_set`; also `UserError` for labels that are none."""
    arrays, gaps = _arrays("cifar10_c", root, ALL_CORRUPTIONS)
    truth = _labels("cifar10_c", root)
    blocks = len(SEVERITIES)
    lengths = {len(array) for array in arrays.values()}
    repeated = len(truth) in lengths and blocks * len(truth) not in lengths and len(truth) % blocks == 0
    images = len(truth) // blocks if repeated else len(truth)
    if repeated and (truth.reshape(blocks, -1) != truth[:images]).any():
        raise UserError(
            f"{setting('cifar10_c')}: {root / 'labels.npy'} has other labels for other severities of the same images: "
            "unpack the set again"
        )
    labels = _numbers("cifar10_c", class_names)[truth[:images]]
    chosen = drawn(labels, budget, seed)
    keys = _keys(chosen)
    samples: dict[Scene, Samples] = {}
    for name, array in arrays.items():
        if len(array) != blocks * images:
            reason = f"has {len(array)} pictures, and by labels.npy {blocks} x {images} are expected"
            gaps.append(Gap(suite="cifar10_c", what=name, reason=reason))
            continue
        for number, level in enumerate(SEVERITIES):
            samples[Scene("cifar10_c", name, level)] = _Pictures(array, chosen + number * images, keys, labels[chosen])
    return Opened(samples, gaps=gaps)


def open_perturbations(root: Path, class_names: Sequence[str], budget: int, seed: int) -> Opened:
    """CIFAR-10-P. Arguments and errors as of `sets.open_set`."""
    arrays, gaps = _arrays("cifar10_p", root, ALL_PERTURBATIONS)
    lengths = Counter(map(len, arrays.values()))
    images = max(lengths, key=lambda length: (lengths[length], length), default=0)
    labels = np.full(images, -1, np.int32)
    if (root / "labels.npy").is_file():
        truth = _labels("cifar10_p", root)
        if len(truth) == images:
            labels = _numbers("cifar10_p", class_names)[truth]
        else:
            gaps.append(Gap(suite="cifar10_p", what="labels.npy", reason=f"has {len(truth)} labels, not {images}"))
    chosen = drawn(labels, budget, seed)
    keys = _keys(chosen)
    clips: dict[Scene, Clips] = {}
    for name, array in arrays.items():
        if len(array) == images:
            scene = Scene("cifar10_p", *CLIP_FOLDERS[name])
            clips[scene] = _Pictures(array, chosen, keys, labels[chosen], scene.name in NOISES)
        else:
            gaps.append(Gap(suite="cifar10_p", what=name, reason=f"has {len(array)} sequences, not {images}"))
    return Opened(clips=clips, gaps=gaps)


def _arrays(suite: str, root: Path, names: Sequence[str]) -> tuple[dict[str, NDArray[np.uint8]], list[Gap]]:
    """The arrays that are there and right, by the name of their file; `names` have to be there."""
    dimensions = 4 if suite == "cifar10_c" else 5
    arrays, gaps = {}, []
    for name in dict.fromkeys((*names, *(CLIP_FOLDERS if dimensions == 5 else ()))):
        path = root / f"{name}.npy"
        if not path.is_file():
            if name in names:
                gaps.append(Gap(suite=suite, what=name, reason="the file is not there"))
            continue
        try:
            array = _mapped(path)
        except _Unfit as reason:
            gaps.append(Gap(suite=suite, what=name, reason=str(reason)))
            continue
        if array.dtype != np.uint8 or array.ndim != dimensions or array.shape[-3:] != _PICTURE:
            wanted = "(n,32,32,3)" if dimensions == 4 else "(n,T,32,32,3)"
            shape = ",".join(map(str, array.shape))
            gaps.append(Gap(suite=suite, what=name, reason=f"is {array.dtype}({shape}), not uint8{wanted}"))
            continue
        arrays[name] = array
    return arrays, gaps


class _Unfit(ValueError):
    """A file that numpy does not read; the message is its reason."""


def _mapped(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise _Unfit(" ".join(str(error).split()) or type(error).__name__) from None
    return array


def _labels(suite: str, root: Path) -> NDArray[np.int64]:
    """The file of labels, each 0 to 9; else `UserError`."""
    path = root / "labels.npy"
    try:
        labels = _mapped(path)
    except _Unfit as reason:
        raise UserError(f"{setting(suite)}: {path}: {reason}: unpack the set again") from None
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0 or labels.max() > 9:
        raise UserError(
            f"{setting(suite)}: {path} is {labels.dtype}{list(labels.shape)}, not a list of labels 0 to 9: "
            "unpack the set again"
        )
    return np.asarray(labels, np.int64)


def _numbers(suite: str, class_names: Sequence[str]) -> NDArray[np.int32]:
    """[10] class numbers of the checkpoint by CIFAR-10's label; `UserError` when it has other classes."""
    lowered = [name.strip().lower() for name in class_names]
    position: Mapping[str, int] = {_SYNONYMS.get(name, name): number for number, name in enumerate(lowered)}
    for names in (CLASSES, tuple(map(str, range(len(CLASSES))))):
        if all(name in position for name in names):
            return np.array([position[name] for name in names], np.int32)
    raise UserError(
        f"{setting(suite)}: the checkpoint's classes ({some(class_names)}) are not CIFAR-10's "
        f"({', '.join(CLASSES)}; or '0' to '9'): evaluate a checkpoint that has these classes, or leave the set out"
    )


def _keys(rows: NDArray[np.int64]) -> list[str]:
    return [f"{row:05d}" for row in rows]
