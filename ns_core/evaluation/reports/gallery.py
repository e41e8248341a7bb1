"""Small copies of images, for galleries.

In: pixels, or the examples of a selection (`selection_survey`) and where their bytes are. Out: thumbnails for
`selection_pictures`, `selection_report` and `examples`.
"""

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ns_core.data.images import decode
from ns_core.evaluation.reports.selection_survey import Example

SIDE = 64
"""Pixels of a thumbnail's longer side."""
_JPEG_QUALITY = 88
"""A photograph then takes 3 kB instead of 9 kB as PNG: 600 of them make a page of 2 MB."""

Read = Callable[[str, int, int], bytes]
"""(shard, offset, size) -> an image's bytes."""


class Thumbnail(NamedTuple):
    """A small copy of an example."""

    group: str
    """Of `selection_survey.EXAMPLES`."""
    confidence: float
    image: bytes
    """A PNG or JPEG file, whichever is smaller; `SIDE` pixels on its longer side."""


def thumbnails(examples: Iterable[Example], read: Read) -> dict[int, list[Thumbnail]]:
    """Class -> thumbnails of its examples, in their order. One image at a time is held in full."""
    made = dict[int, list[Thumbnail]]()
    for one in examples:
        small = shrunk(decode(read(*one.place)))
        made.setdefault(one.top1, []).append(Thumbnail(one.group, one.confidence, small))
    return made


def shrunk(pixels: NDArray[np.uint8]) -> bytes:
    """uint8[H,W,3] -> an image file; a tiny picture is enlarged, and its pixels stay visible."""
    image = Image.fromarray(pixels)
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    lossless, lossy = BytesIO(), BytesIO()
    small.save(lossless, "png", optimize=True)
    small.save(lossy, "jpeg", quality=_JPEG_QUALITY)
    return min(lossless.getvalue(), lossy.getvalue(), key=len)
