"""Miniatures of the official robustness sets, laid out on disk as their authors pack them, and ways to break them.

In: pictures by the name of their class folder, uint8[n,H,W,3] each. Out: the files of ImageNet-A, -R, -O, -V2,
-Sketch and of ImageNet's validation images (`class_folders`), of ImageNet-C (`imagenet_c`), ImageNet-P (`imagenet_p`)
and CIFAR-10-C and -P (`cifar10_c`, `cifar10_p`). Encoded as the originals: JPEG at quality 85 with optimised tables,
h264 by libx264 at crf 20, raw uint8 arrays. The same picture has the same file name in all that is made of it.

    pictures = class_pictures(["n01440764", "n01443537"], per_class=3, size=64)
    imagenet_c(folder, pictures, corruptions=("fog", "snow"))
    remove(folder, "fog", 3)
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ns_core.config.evaluation import CORRUPTIONS, PERTURBATIONS

Pixels = NDArray[np.uint8]
ByClass = Mapping[str, Pixels]
"""Class folder -> its pictures, uint8[n,H,W,3]."""
Corrupt = Callable[[Pixels, str, int], Pixels]
"""(picture, corruption, severity) -> picture."""
Perturb = Callable[[Pixels, str, int], Pixels]
"""(picture, perturbation, difficulty) -> uint8[T,H,W,3]."""

ALL_CORRUPTIONS: tuple[str, ...] = get_args(CORRUPTIONS)
ALL_PERTURBATIONS: tuple[str, ...] = get_args(PERTURBATIONS)
GROUPS = ("noise", "blur", "weather", "digital", "extra")
SEVERITIES = (1, 2, 3, 4, 5)
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FRAMES = 31

_GROUP_OF = dict(
    zip(ALL_CORRUPTIONS, [*GROUPS[:1] * 3, *(group for group in GROUPS[1:] for _ in range(4))], strict=True)
)


def class_pictures(classes: Sequence[str], per_class: int, size: int, seed: int = 0) -> dict[str, Pixels]:
    """Smooth pictures with a pattern of their class and some noise of their own: a small network can learn them."""
    rng = np.random.default_rng(seed)
    return {
        name: np.stack([_picture(number, size, rng) for _ in range(per_class)]) for number, name in enumerate(classes)
    }


def faded(picture: Pixels, corruption: str, severity: int) -> Pixels:
    """A stand-in for any corruption: towards grey by severity, with a shade that tells the corruption."""
    shade = 64 + 6 * ALL_CORRUPTIONS.index(corruption)
    return (picture * (1 - 0.15 * severity) + shade * 0.15 * severity).astype(np.uint8)


def sliding(picture: Pixels, perturbation: str, difficulty: int, frames: int = FRAMES) -> Pixels:
    """A stand-in for any perturbation: the picture slides by `difficulty` pixels a frame; noises are noise on it,
    independent in each frame but the first."""
    if "noise" not in perturbation:
        return np.stack([np.roll(picture, frame * difficulty, axis=1) for frame in range(frames)])
    rng = np.random.default_rng(int(picture.sum()))
    noise = rng.normal(0, 8 * difficulty, (frames, *picture.shape))
    noise[0] = 0
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


# --- layouts


def class_folders(root: Path, pictures: ByClass, suffix: str = "JPEG") -> Path:
    """`<class>/ILSVRC2012_val_00000001.<suffix>`: ImageNet-A, -R, -O and -Sketch, validation images, and ImageNet-V2
    when the classes are "0" to "999"."""
    for name, picture in _files(pictures):
        _save(root / f"{name}.{suffix}", picture)
    return root


def imagenet_c(
    root: Path,
    pictures: ByClass,
    corruptions: Sequence[str] = ALL_CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    grouped: bool = False,
    corrupt: Corrupt = faded,
) -> Path:
    """`<corruption>/<severity>/<class>/*.JPEG`; `grouped`: below `noise`, `blur`, `weather`, `digital`, `extra`."""
    for corruption in corruptions:
        folder = root / _GROUP_OF[corruption] / corruption if grouped else root / corruption
        for severity in severities:
            for name, picture in _files(pictures):
                _save(folder / str(severity) / f"{name}.JPEG", corrupt(picture, corruption, severity))
    return root


def imagenet_p(
    root: Path,
    pictures: ByClass,
    perturbations: Sequence[str] = ALL_PERTURBATIONS,
    difficulties: Sequence[int] = (1,),
    perturb: Perturb = sliding,
) -> Path:
    """`<perturbation>/<class>/*.mp4`, and `<perturbation>_2`, `_3` of the noises at these `difficulties`."""
    for perturbation in perturbations:
        for difficulty in difficulties if "noise" in perturbation else (1,):
            folder = root / (perturbation if difficulty == 1 else f"{perturbation}_{difficulty}")
            for name, picture in _files(pictures):
                write_clip(folder / f"{name}.mp4", perturb(picture, perturbation, difficulty))
    return root


def cifar10_c(
    root: Path,
    pictures: Pixels,
    labels: NDArray[np.int64],
    corruptions: Sequence[str] = ALL_CORRUPTIONS,
    repeated: bool = True,
    corrupt: Corrupt = faded,
) -> Path:
    """`<corruption>.npy` uint8[5n,32,32,3] in blocks of a severity, and `labels.npy`, five times over if `repeated`."""
    root.mkdir(parents=True, exist_ok=True)
    for corruption in corruptions:
        blocks = [corrupt(picture, corruption, severity) for severity in SEVERITIES for picture in pictures]
        np.save(root / f"{corruption}.npy", np.stack(blocks))
    np.save(root / "labels.npy", np.tile(labels, 5 if repeated else 1).astype(np.uint8))
    return root


def cifar10_p(
    root: Path, pictures: Pixels, perturbations: Sequence[str] = ALL_PERTURBATIONS, perturb: Perturb = sliding
) -> Path:
    """`<perturbation>.npy` uint8[n,T,32,32,3], without labels as the original."""
    root.mkdir(parents=True, exist_ok=True)
    for perturbation in perturbations:
        np.save(root / f"{perturbation}.npy", np.stack([perturb(picture, perturbation, 1) for picture in pictures]))
    return root


def write_clip(path: Path, frames: Pixels, index_first: bool = False) -> None:
    """An h264 file of uint8[T,H,W,3], sides even. `index_first`: the index lies before the frames, so that a clip
    that is cut short can be opened."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"movflags": "faststart"} if index_first else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": "20", "preset": "veryfast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))


# --- damage


def remove(root: Path, name: str, severity: int | None = None) -> None:
    """A corruption or perturbation, or one severity of it, in whichever grouping."""
    (folder,) = [path for path in (root / name, *root.glob(f"*/{name}")) if path.is_dir()]
    shutil.rmtree(folder if severity is None else folder / str(severity))


def stray_class(folder: Path, name: str = "n99999999") -> Path:
    """A class folder that no index has, beside those in `folder`, with the pictures of the first of these."""
    first = min(path for path in folder.iterdir() if path.is_dir())
    return Path(shutil.copytree(first, folder / name))


def cut_short(path: Path, share: float = 0.5) -> None:
    """Keeps the first `share` of the bytes, of a JPEG or a clip."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def resize(path: Path, height: int, width: int) -> None:
    """Another size for an image, in its format."""
    with Image.open(path) as image:
        picture = np.asarray(image.convert("RGB"))
    _save(path, np.asarray(cv2.resize(picture, (width, height)), np.uint8))


def not_an_image(path: Path) -> None:
    """Text in the place of an image or a clip."""
    path.write_bytes(b"404: Not Found")


def _picture(number: int, size: int, rng: np.random.Generator) -> Pixels:
    pattern = np.random.default_rng(number).integers(32, 224, (4, 4, 3)).astype(np.uint8)
    smooth = cv2.resize(pattern, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    own = cv2.resize(rng.normal(0, 12, (8, 8, 3)).astype(np.float32), (size, size))
    return np.asarray(np.clip(smooth + own, 0, 255), np.uint8)


def _files(pictures: ByClass) -> Iterator[tuple[str, Pixels]]:
    """(`<class>/ILSVRC2012_val_<number>`, picture), numbered from 1 through all classes."""
    number = 0
    for name, several in pictures.items():
        for picture in several:
            number += 1
            yield f"{name}/ILSVRC2012_val_{number:08d}", picture


def _save(path: Path, picture: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=85, optimize=True)
