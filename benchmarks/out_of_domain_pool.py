"""A pool of digits with images among them that are no digits, as files and lists for the source `manifest`.

In: the data settings of the recipe `digits`. Out: below a folder the recipe's own images, byte for byte, in its own
splits; others, which are no digits; `labelled.csv`, and two lists of the pool, `clean.csv` and `polluted.csv`.

Letters and signs are made as scikit-learn's digits were, so that size, grey levels and blur tell nothing: a black and
white drawing of 32x32, the ink of each 4x4 block counted, which is 8x8 pixels with levels 0 to 16, enlarged as the
source `digits` enlarges. Noise is drawn at 8x8, but for `fine`, at 32x32. No two pictures are the same.
"""

import csv
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ns_core.config import DataConfig
from ns_core.data.images import encode_png
from ns_core.data.index import SPLITS
from ns_core.data.source import RawSample
from ns_core.data.sources.digits import DIGIT_SIDE, digits

Picture = NDArray[np.uint8]
Random = np.random.Generator

DIGIT, NOISE, GLYPH = "digit", "noise", "glyph"
GROUPS = (NOISE, GLYPH)
"""Of what is no digit, half each."""
LEVELS, CELLS = 16, 8
"""Grey levels above black, and pixels a side, of scikit-learn's digits."""
GLYPHS = "ACEFHKLMNPRTUVWXYacdefhkmnprtuvwxy#%&*+=?@<>~"
"""Without O o D Q I l i j | S s $ Z z B b G g q, digits in disguise."""
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_SCRIPT_SIMPLEX)


@dataclass(frozen=True)
class Pool:
    """The lists, and what their images are."""

    labelled: Path
    clean: Path
    polluted: Path
    kinds: dict[str, str]
    """sha256 of an image of the pool -> `digit`, `glyph` or a texture."""
    truth: dict[str, int]
    """sha256 of a digit of the pool -> its class, which no stage is told."""

    def settings(self, arm: str) -> tuple[str, ...]:
        """That give the recipe `digits` the list `clean` or `polluted`."""
        return "data.source=manifest", f"data.labeled={self.labelled}", f"data.unlabeled={getattr(self, arm)}"


def write_pool(config: DataConfig, folder: Path, others_per_digit: int) -> Pool:
    """Writes images and lists. `others_per_digit`: images that are no digits for each digit of the pool.

    `config.seed` decides the splits, as in a run of the recipe with this seed, and what is drawn.
    """
    source, truth = digits(config), _labels()
    rows: dict[str, list[tuple[str, ...]]] = {split: [] for split in SPLITS}
    kinds, truths = dict[str, str](), dict[str, int]()
    for split in SPLITS:
        for sample in chain.from_iterable(part.samples() for part in source.parts[split]):
            data = sample.read()
            path = _save(folder, f"digits/{sample.key}.png", data)
            label = _label(sample, truth)
            if split == "pool":
                name = hashlib.sha256(data).hexdigest()
                kinds[name], truths[name] = DIGIT, label
                rows[split].append((path,))
            else:
                rows[split].append((path, str(label), split))
    clean = list(rows["pool"])
    for number, (kind, data) in enumerate(draw(others_per_digit * len(clean), config.seed)):
        kinds[hashlib.sha256(data).hexdigest()] = kind
        rows["pool"].append((_save(folder, f"others/{kind}-{number:05d}.png", data),))
    labelled = [row for split in SPLITS if split != "pool" for row in rows[split]]
    return Pool(
        labelled=_list(folder / "labelled.csv", ("path", "label", "split"), labelled),
        clean=_list(folder / "clean.csv", ("path",), clean),
        polluted=_list(folder / "polluted.csv", ("path",), rows["pool"]),
        kinds=kinds,
        truth=truths,
    )


def draw(count: int, seed: int) -> list[tuple[str, bytes]]:
    """So many PNGs of 32x32, no two alike: kind and bytes; a noise and a glyph in turn, the textures in turn."""
    random, seen, made = np.random.default_rng(seed), set[bytes](), list[tuple[str, bytes]]()
    textures = list(TEXTURES)
    while len(made) < count:
        place = len(made)
        kind = GLYPH if place % 2 else textures[place // 2 % len(textures)]
        data = encode_png(glyph(random) if kind == GLYPH else TEXTURES[kind](random))
        if data not in seen:
            seen.add(data)
            made.append((kind, data))
    return made


def glyph(random: Random) -> Picture:
    """A letter or sign, written: turned, slanted, with a stroke of 3 to 5 pixels of 32, as high as the digits."""
    size = 128
    ink: Picture = np.zeros((size, size), np.uint8)
    letter, font = GLYPHS[random.integers(len(GLYPHS))], int(random.choice(FONTS))
    cv2.putText(ink, letter, (40, 88), font, 2.0, 255, int(random.integers(5, 9)))
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), random.uniform(-15, 15), 1.0)
    turn[0, 1] += random.uniform(-0.3, 0.3)
    turn[0, 2] -= turn[0, 1] * size / 4
    turned: Picture = np.asarray(cv2.warpAffine(ink, turn, (size, size), flags=cv2.INTER_LINEAR), np.uint8)
    x, y, width, height = cv2.boundingRect(turned)
    inner = DIGIT_SIDE / max(width, height) * random.uniform(0.9, 1.0)
    box = max(1, round(width * inner)), max(1, round(height * inner))
    small = cv2.resize(turned[y : y + height, x : x + width], box, interpolation=cv2.INTER_AREA)
    page = np.zeros((DIGIT_SIDE, DIGIT_SIDE), np.uint8)
    left, top = (DIGIT_SIDE - box[0]) // 2, (DIGIT_SIDE - box[1]) // 2
    page[top : top + box[1], left : left + box[0]] = small > 127
    cells = page.reshape(CELLS, DIGIT_SIDE // CELLS, CELLS, DIGIT_SIDE // CELLS)
    return enlarged(cells.sum(axis=(1, 3)).astype(np.uint8))


def enlarged(cells: Picture) -> Picture:
    """uint8[8,8], 0..16 -> uint8[32,32,3], as the source `digits` does it."""
    grey = np.round(cells * (255.0 / LEVELS)).astype(np.uint8)
    large = Image.fromarray(grey).resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(large)[:, :, None], 3, axis=2)


def _uniform(random: Random) -> Picture:
    return enlarged(random.integers(0, LEVELS + 1, (CELLS, CELLS), np.uint8))


def _fine(random: Random) -> Picture:
    """Independent pixels of the large picture."""
    grey = random.integers(0, 256, (DIGIT_SIDE, DIGIT_SIDE, 1), np.uint8)
    return np.repeat(grey, 3, axis=2)


def _sparse(random: Random) -> Picture:
    """Cells that are lit or not, from a tenth to a half of them: as much ink as a digit has."""
    lit = random.random((CELLS, CELLS)) < random.uniform(0.1, 0.5)
    return enlarged(np.where(lit, LEVELS, 0).astype(np.uint8))


def _blurred(random: Random) -> Picture:
    """Blots as broad as strokes, stretched over all levels."""
    blots = cv2.GaussianBlur(random.random((CELLS, CELLS)), (0, 0), random.uniform(0.6, 1.5))
    return enlarged(_stretched(np.asarray(blots, np.float64)))


def _stripes(random: Random) -> Picture:
    """A wave of any direction, of 2.5 to 8 cells."""
    angle, phase, length = random.uniform(0, np.pi), random.uniform(0, 2 * np.pi), random.uniform(2.5, 8)
    rows, columns = np.mgrid[:CELLS, :CELLS]
    return enlarged(_stretched(np.sin(2 * np.pi * (np.cos(angle) * columns + np.sin(angle) * rows) / length + phase)))


def _stretched(values: NDArray[np.float64]) -> Picture:
    low, high = values.min(), values.max()
    levels: Picture = np.round(LEVELS * (values - low) / max(high - low, 1e-9)).astype(np.uint8)
    return levels


TEXTURES: dict[str, Callable[[Random], Picture]] = {
    "uniform": _uniform,
    "fine": _fine,
    "sparse": _sparse,
    "blurred": _blurred,
    "stripes": _stripes,
}


def group(kind: str) -> str:
    """`digit`, `glyph` or `noise`."""
    return NOISE if kind in TEXTURES else kind


def _labels() -> list[int]:
    from sklearn.datasets import load_digits

    labels: list[int] = load_digits().target.tolist()
    return labels


def _label(sample: RawSample, truth: list[int]) -> int:
    label = truth[int(sample.key.removeprefix("digit-"))]
    assert sample.label in (None, label), sample
    return label


def _save(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return name


def _list(path: Path, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([head, *rows])
    return path
