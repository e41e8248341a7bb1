"""ImageNet-P: h264 clips of 10 + 4 perturbations, mostly of 31 frames, already cropped.

Layout: `<perturbation>/<class>/*.mp4`, and `<perturbation>_2`, `_3` for the higher difficulties of the noises; or the
same below the folders of the archives. In: the folder. Out: a scene for each perturbation and difficulty, all of the
same source images; a gap for each perturbation that is not there.

Decoded by OpenCV, as the authors' own evaluation does: the frames have been through a lossy codec, which is a part of
the benchmark. The pixels are those of PyAV, bit for bit (the tests hold both against each other).
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ns_core.data.images import CorruptImage
from ns_core.evaluation.results import Gap
from ns_core.evaluation.samples import Opened, Pixels, View
from ns_core.evaluation.sets.class_folders import went_away
from ns_core.evaluation.sets.layout import ALL_PERTURBATIONS, CLIP_FOLDERS, NOISES, named_folders
from ns_core.evaluation.sets.parallel import Files, list_scenes
from ns_core.evaluation.tables import Scene

SUITE = "imagenet_p"
_CLIPS = frozenset({"mp4"})
_TRIED = 5
"""Clips of a scene that are decoded to learn how long they are; 20 ms each at 224 pixels."""

Shape = tuple[int, int, int]
"""Frames, height, width."""


@dataclass(frozen=True, eq=False)
class ClipSamples:
    """Labelled clips, each decoded when it is asked for. A `Clips`."""

    files: Files
    against_first: bool
    shape: Shape | None
    """That every clip must have; None: none could be read."""
    view: View = "whole"
    step: int = 1

    @property
    def keys(self) -> Sequence[str]:
        """As of the same source images in ImageNet-C."""
        return self.files.keys

    @property
    def labels(self) -> NDArray[np.int32]:
        """Classes of the checkpoint."""
        return self.files.labels

    def frames(self, number: int) -> Pixels:
        """uint8[T,H,W,3], RGB; `CorruptImage` for a clip that cannot be read or is longer, shorter or of another size
        than the others of its perturbation."""
        frames = read_clip(self.files.root / self.files.paths[number])
        if self.shape is not None and frames.shape[:3] != self.shape:
            length, height, width = self.shape
            if len(frames) != length:
                raise CorruptImage(f"has {len(frames)} frames, not {length}")
            raise CorruptImage(f"is {frames.shape[1]}x{frames.shape[2]}, not {height}x{width}")
        return frames


def open_set(root: Path, class_names: Sequence[str], budget: int, seed: int) -> Opened:
    """Arguments and errors as of `sets.open_set`."""
    _quiet()
    folders = named_folders(SUITE, root, CLIP_FOLDERS)
    gaps = [
        Gap(suite=SUITE, what=name, reason="the folder is not there")
        for name in ALL_PERTURBATIONS
        if name not in folders
    ]
    places = {Scene(SUITE, *CLIP_FOLDERS[name]): folder for name, folder in folders.items()}
    scenes, more = list_scenes(places, class_names, _CLIPS, budget, seed)
    clips = {scene: ClipSamples(files, scene.name in NOISES, _usual_shape(files)) for scene, files in scenes.items()}
    return Opened(clips=clips, gaps=gaps + more)


def read_clip(path: Path) -> Pixels:
    """All frames, uint8[T,H,W,3], RGB. `CorruptImage` when there are none, or fewer than the file says it has;
    `StageFailed` when it is not there."""
    # One thread a clip: whoever evaluates reads several clips at once.
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    try:
        if not capture.isOpened():
            raise CorruptImage("cannot be opened as a clip") if path.exists() else went_away(path)
        promised = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        frames = []
        while True:
            there, frame = capture.read()
            if not there:
                break
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    finally:
        capture.release()
    if len(frames) < max(promised, 1):
        raise CorruptImage(f"ends after {len(frames)} of {promised} frames")
    return np.stack(frames)


def _usual_shape(files: Files) -> Shape | None:
    """Of most of a few clips that lie evenly among the scene's; of equally many, the longest."""
    shapes: Counter[Shape] = Counter()
    for at in np.unique(np.linspace(0, len(files.paths) - 1, _TRIED).astype(int)):
        try:
            frames = read_clip(files.root / files.paths[at])
        except CorruptImage:
            continue
        shapes[frames.shape[0], frames.shape[1], frames.shape[2]] += 1
    return max(shapes, key=lambda shape: (shapes[shape], shape)) if shapes else None


def _quiet() -> None:
    """OpenCV and its FFmpeg print lines of their own for each clip that is broken; the reason is told once, by us."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
