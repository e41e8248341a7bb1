"""Sheets of ice for `frost`: the five official photographs, or five drawn by this module.

Out: uint8 [H, W, 3] in RGB, read-only, at the scale that goes with the picture they will cover.

The photographs are not ours to give away; they come with the package imagecorruptions-imaug, when that is installed.
The drawings stand in for them: feathers of ice over a cloudy ground, each in the size, the mean colour and the contrast
(in coarse and in fine structure) of one photograph. They are made from the constants below alone, once a process.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from math import tau
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ns_core.errors import UserError
from ns_core.evaluation.corruptions.pixels import Floats, Pixels

PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""In the originals' order; they draw one of five from a list of six, so that frost6.jpg is never used. In
imagecorruptions-imaug 1.1.5 the second and the third are the same picture."""

SHEETS = len(PHOTOGRAPHS)
_FINE = 8
"""Sigma, in pixels, that parts fine from coarse structure."""


@dataclass(frozen=True)
class _Look:
    """What a drawing has in common with its photograph, and what it is drawn with."""

    height: int
    width: int
    colour: tuple[float, float, float]
    """Mean of each channel, 0 to 255."""
    coarse: float
    """Standard deviation of the grey values smoothed by `_FINE` pixels."""
    fine: float
    """Standard deviation of what the smoothing takes away; negative for grooves in bright ice."""
    feather: float
    """Length of the longest feathers, pixels."""
    barbs: float
    """Length of a feather's barbs over its own."""
    tint: tuple[float, float, float]
    """How much of the coarse structure each channel shows; mean 1."""


_LOOKS = (
    _Look(600, 900, (77.7, 149.1, 165.7), 14.8, 10.2, 60, 0.08, (1.6, 0.8, 0.6)),
    _Look(315, 560, (200.8, 205.4, 214.5), 16.9, -14.1, 60, 0.12, (1.1, 1.0, 0.9)),
    _Look(315, 560, (200.8, 205.4, 214.5), 16.9, -14.1, 45, 0.2, (1.1, 1.0, 0.9)),
    _Look(350, 527, (137.6, 152.8, 165.2), 20.0, 20.9, 18, 0.35, (1.0, 1.0, 1.0)),
    _Look(495, 660, (112.4, 123.4, 134.8), 32.2, 28.7, 36, 0.4, (1.0, 1.0, 1.0)),
)
"""Measured on `PHOTOGRAPHS` of imagecorruptions-imaug 1.1.5, but for the last three columns, set by eye."""


def sheet(index: int, height: int, width: int, photographs: bool) -> Pixels:
    """Sheet `index` (0 to `SHEETS` - 1) for a picture of height x width pixels, larger than it both ways.

    The originals shrink the photographs to 0.2 for pictures of 32 pixels and to 0.3 for those of 64; the limits
    between are those of the tiers. A sheet that would then be too small is only as much larger as it must be.

    Raises `UserError` where `photographs` are wanted and not installed.
    """
    whole = photograph(index) if photographs else drawing(index)
    side = min(height, width)
    usual = 0.2 if side <= 48 else 0.3 if side <= 144 else 1.0
    scale = max(usual, (height + 1) / whole.shape[0], (width + 1) / whole.shape[1])
    return whole if scale == 1 else _scaled(index, scale, photographs)


@lru_cache(maxsize=32)
def _scaled(index: int, scale: float, photographs: bool) -> Pixels:
    """By cv2's linear interpolation, which looks at four pixels however much it shrinks, as in the originals."""
    whole = photograph(index) if photographs else drawing(index)
    return _frozen(cv2.resize(whole, (0, 0), fx=scale, fy=scale))


@lru_cache(maxsize=SHEETS)
def photograph(index: int) -> Pixels:
    """Photograph `index` of `PHOTOGRAPHS`, without its transparency.

    Raises `UserError` where the package that brings it is not installed or has lost the file.
    """
    # find_spec, not import: the package imports numba and takes seconds.
    spec = find_spec("imagecorruptions")
    for folder in spec.submodule_search_locations or () if spec else ():
        picture = cv2.imread(str(Path(folder) / "frost" / PHOTOGRAPHS[index]))
        if picture is not None:
            return _frozen(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    raise UserError(
        f"the photograph of ice {PHOTOGRAPHS[index]} is not installed: `pip install imagecorruptions-imaug`, "
        "or evaluate with frost=drawn"
    )


def drawing(index: int) -> Pixels:
    """Drawing `index`: feathers over clouds, with the mean colour and the contrast of `PHOTOGRAPHS[index]`."""
    # Five sheets take 1.4 s; without the lock, eight threads at their first frost would draw each eight times.
    with _AT_WORK:
        return _drawn(index)


_AT_WORK = Lock()


@lru_cache(maxsize=SHEETS)
def _drawn(index: int) -> Pixels:
    look = _LOOKS[index]
    rng = np.random.default_rng(index)
    feathers = _feathers(look, rng)
    ground = cv2.GaussianBlur(rng.standard_normal(feathers.shape, dtype=np.float32), (0, 0), look.height / 12)
    fine = feathers - cv2.GaussianBlur(feathers, (0, 0), _FINE)
    # Where ice lies thick it is bright, and its feathers stand out.
    thickness = cv2.GaussianBlur(feathers, (0, 0), 2 * _FINE)
    coarse = _standard(_standard(ground) + _standard(thickness))
    fine = _standard(fine * (1 + np.float32(0.4) * np.clip(coarse, -2, 2)))
    channels = [
        mean + look.coarse * share * coarse + look.fine * fine
        for mean, share in zip(look.colour, look.tint, strict=True)
    ]
    return _frozen(np.asarray(np.clip(np.rint(cv2.merge(channels)), 0, 255), dtype=np.uint8))


def _feathers(look: _Look, rng: np.random.Generator) -> Floats:
    """Feathers strewn over the whole sheet, later ones over earlier ones: float32 [height, width], 0 to 255."""
    canvas = np.full((look.height, look.width), 60, dtype=np.uint8)
    count = round(9 * look.height * look.width / (look.feather**2 * (look.barbs + 0.1)))
    for _ in range(count):
        root = rng.random(2) * (look.width, look.height)
        length = look.feather * (0.3 + 0.7 * rng.random())
        _feather(canvas, root, length, look.barbs, rng)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), 0.5), dtype=np.float32)


def _feather(
    canvas: npt.NDArray[np.uint8], root: npt.NDArray[np.float64], length: float, barbs: float, rng: np.random.Generator
) -> None:
    """One feather on `canvas`: a bent stem from `root` and barbs to both sides, longest near the root."""
    angle, bend, opening = tau * rng.random(), 0.8 * (rng.random() - 0.5), tau / 8 + 0.3 * rng.random()
    light = 90 + 120 * rng.random()
    along = np.arange(0.0, 1.0, 3 / length)
    heading = angle + bend * along
    steps = length / len(along) * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    stem = root + np.cumsum(steps, axis=0)
    reach = (length * barbs * (1 - along) * np.minimum(1, 6 * along) * (0.6 + 0.4 * rng.random(len(along))))[:, None]
    tips = [
        stem + reach * np.stack([np.cos(heading + turn), np.sin(heading + turn)], axis=1)
        for turn in (opening, -opening)
    ]
    outline = np.concatenate([root[None], tips[0], stem[-1:], tips[1][::-1]])
    cv2.fillPoly(canvas, [_fixed(outline)], 0.55 * light, cv2.LINE_AA, _BITS)
    for side, shine in zip(tips, (1.0, 0.75), strict=True):
        lines = _fixed(np.stack([stem, side], axis=1))
        cv2.polylines(canvas, list(lines), False, shine * light, 1, cv2.LINE_AA, _BITS)
    cv2.polylines(canvas, [_fixed(stem)], False, min(255.0, 1.2 * light), 1, cv2.LINE_AA, _BITS)


_BITS = 4
"""Binary places of the coordinates that cv2 draws at."""


def _fixed(points: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Coordinates (x, y) in pixels as cv2's drawing functions take them."""
    return np.asarray(np.rint(points * 2**_BITS), dtype=np.int32)


def _standard(layer: npt.NDArray[Any]) -> Floats:
    """`layer` with mean 0 and standard deviation 1."""
    return np.asarray((layer - layer.mean()) / layer.std(), dtype=np.float32)


def _frozen(picture: npt.ArrayLike) -> Pixels:
    """`picture` as read-only bytes: it is shared by every thread."""
    pixels = np.asarray(picture, dtype=np.uint8)
    pixels.setflags(write=False)
    return pixels
