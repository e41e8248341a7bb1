"""One part of a source becomes shards and a table that says where each of its images went.

Each image is read once and decoded to its last pixel, so that no later stage meets one that cannot be:

    broken, empty, cut short, not an image of a known format,
    32-bit or floating-point grey, more pixels than `images.MAX_PIXELS`     left out as `corrupt`
    CMYK, 16-bit grey, transparent, animated, turned by EXIF                kept as it is: `images.decode` makes
                                                                            one upright RGB picture of it, always
    the bytes, or nearly the picture, of a holdout or test image            left out as `leak`, the leak guard
    larger than `resize` (when that is set)                                 kept shrunk, as JPEG

In: a `Part` and the judged images seen so far. Out: shards in a folder, and a table with the columns of
`PART_SCHEMA`: one row an image of the part, kept or not, in the source's order.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from ns_core.config import DataConfig
from ns_core.data.duplicates import JudgedIndex, Signature, signature
from ns_core.data.images import CorruptImage, decode, inspect
from ns_core.data.index import SCHEMA, IndexRow, Split
from ns_core.data.ordered import in_order
from ns_core.data.shards import ShardImage, ShardWriter
from ns_core.data.source import Part, RawSample

KEPT, CORRUPT, LEAK = "kept", "corrupt", "leak"
JUDGED: tuple[Split, ...] = ("test", "holdout")
"""What figures are taken on, the stronger first: whatever equals one of these stays there and nowhere else."""
SAME_BYTES, NEAR_DUPLICATE = "same bytes", "near-duplicate"

PART_SCHEMA: pa.Schema = pa.schema(
    [
        *SCHEMA,
        pa.field("state", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("twin", pa.string(), nullable=False),
        pa.field("hash", pa.uint64()),
        pa.field("mirrored", pa.uint64()),
        pa.field("thumbnail", pa.binary()),
        pa.field("picture", pa.binary()),
    ]
)
"""An index row (no shard, and zeros, where the image was left out), then: `state`, one of KEPT, CORRUPT, LEAK;
`reason`, in words; `twin`, key of the judged image that a leak duplicates; the perceptual signature of what was
kept, its thumbnail of judged images only; `picture`, a small JPEG of the part's first leaks, for the report."""

_BATCH = 256
"""Images whose signatures are looked up at once."""
PICTURES = 8
"""Leaks of a part whose picture is kept."""
PICTURE_SIDE = 96
_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
_KNOWN = frozenset(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"))

Row = dict[str, Any]


@dataclass
class Judged:
    """The images of the judged splits that are complete; what comes after is looked up in them."""

    near: bool
    """Whether near-duplicates count, too."""
    bytes_of: dict[str, str] = field(default_factory=dict)
    """sha256 -> key."""
    index: JudgedIndex = field(default_factory=JudgedIndex)

    def add(self, table: pa.Table) -> None:
        """The kept images of a judged split's part; called once the split is complete."""
        for row in table.to_pylist():
            if row["state"] == KEPT:
                self.bytes_of.setdefault(row["sha256"], row["key"])
                if self.near:
                    self.index.add(row["key"], Signature(row["hash"], row["mirrored"], row["thumbnail"]))

    def twins(self, images: list["_Examined"]) -> list[tuple[str, str]]:
        """(key, how) of the judged image that each one duplicates, ("", "") where there is none."""
        found = [(self.bytes_of.get(image.sha256, ""), SAME_BYTES) for image in images]
        near: list[str | None] = [None] * len(images)
        if self.near:
            near = self.index.match([image.signature for image in images])
        pairs = zip(found, near, strict=True)
        return [same if same[0] else (twin, NEAR_DUPLICATE) if twin else ("", "") for same, twin in pairs]


@dataclass(frozen=True)
class _Examined:
    """A sample that is an image."""

    sample: RawSample
    data: bytes
    suffix: str
    size: tuple[int, int]
    """Width and height."""
    sha256: str
    signature: Signature


@dataclass(frozen=True)
class _Refused:
    """A sample that is none."""

    sample: RawSample
    reason: str


def ingest(
    part: Part, config: DataConfig, judged: Judged, folder: Path, threads: int, tick: Callable[[int], None]
) -> pa.Table:
    """Writes the part's own shards into `folder`; the table of the part, `PART_SCHEMA`.

    `tick` is told how many of its images are done; what it raises ends the work. The same part, settings and
    judged images give the same bytes. Whatever `RawSample.read` raises comes out, except `CorruptImage`, which
    is a row.
    """
    examined = in_order(lambda sample: _examine(sample, config), part.samples(), threads)
    rows: list[Row] = []
    pictures = PICTURES
    with ShardWriter(folder, part.split, part.number, config.shard_megabytes << 20) as writer:
        for one, twin, how in _looked_up(examined, judged):
            if isinstance(one, _Refused):
                rows.append(_left_out(one.sample, CORRUPT, one.reason))
            elif twin:
                row = _left_out(one.sample, LEAK, how, twin)
                if pictures:
                    row["picture"], pictures = thumbnail(decode(one.data)), pictures - 1
                rows.append(row)
            else:
                rows.append(_kept(one, writer))
            tick(len(rows))
    return pa.Table.from_pylist(rows, schema=PART_SCHEMA)


def _examine(sample: RawSample, config: DataConfig) -> _Examined | _Refused:
    """Reads, decodes and measures one sample; runs on many threads."""
    try:
        data = sample.read()
        pixels = decode(data)
        suffix = sample.suffix if sample.suffix in _KNOWN else _suffix(data)
    except CorruptImage as error:
        return _Refused(sample, str(error))
    if config.resize and min(pixels.shape[:2]) > config.resize:
        pixels = shrunk(pixels, config.resize)
        data, suffix = _jpeg(pixels, config.jpeg_quality), "jpg"
    height, width, _ = pixels.shape
    return _Examined(
        sample=sample,
        data=data,
        suffix=suffix,
        size=(width, height),
        sha256=hashlib.sha256(data).hexdigest(),
        signature=signature(pixels),
    )


def _looked_up(
    examined: Iterator[_Examined | _Refused], judged: Judged
) -> Iterator[tuple[_Examined | _Refused, str, str]]:
    """Each with its judged twin and how it was found, in order."""
    while batch := list(islice(examined, _BATCH)):
        twins = deque(judged.twins([one for one in batch if isinstance(one, _Examined)]))
        for one in batch:
            yield (one, *twins.popleft()) if isinstance(one, _Examined) else (one, "", "")


def _kept(image: _Examined, writer: ShardWriter) -> Row:
    sample, (width, height) = image.sample, image.size
    row: Row
    if sample.shard:
        row = dict(_index_row(sample)) | {
            "shard": sample.shard,
            "offset": sample.offset,
            "size": len(image.data),
            "width": width,
            "height": height,
            "sha256": image.sha256,
        }
    else:
        written = ShardImage(
            key=sample.key,
            suffix=image.suffix,
            data=image.data,
            label=sample.label,
            width=width,
            height=height,
            sha256=image.sha256,
            path=sample.path,
        )
        row = dict(writer.add(written))
    thumbnail = image.signature.thumbnail if sample.split in JUDGED else None
    hashes = {"hash": image.signature.hash, "mirrored": image.signature.mirrored, "thumbnail": thumbnail}
    return row | hashes | {"state": KEPT, "reason": "", "twin": ""}


def _left_out(sample: RawSample, state: str, reason: str, twin: str = "") -> Row:
    return dict(_index_row(sample)) | {"state": state, "reason": reason, "twin": twin}


def _index_row(sample: RawSample) -> IndexRow:
    """Of an image that lies nowhere yet."""
    return IndexRow(
        key=sample.key,
        split=sample.split,
        shard="",
        offset=0,
        size=0,
        label=sample.label,
        width=0,
        height=0,
        sha256="",
        path=sample.path,
    )


def shrunk(pixels: NDArray[np.uint8], short: int) -> NDArray[np.uint8]:
    """A picture whose short side is above `short` at that size, each pixel the average of what it covers."""
    height, width, _ = pixels.shape
    scale = short / min(height, width)
    size = (max(short, round(width * scale)), max(short, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG for people, of PICTURE_SIDE pixels at most; of a very long picture its beginning."""
    long = 4 * min(pixels.shape[:2])
    pixels = np.ascontiguousarray(pixels[:long, :long])
    short = max(1, PICTURE_SIDE * min(pixels.shape[:2]) // max(pixels.shape[:2]))
    return _jpeg(shrunk(pixels, short) if short < min(pixels.shape[:2]) else pixels, 80)


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def _suffix(data: bytes) -> str:
    """Of a file whose name does not say what it is."""
    kind = inspect(data).format
    return _SUFFIXES.get(kind, kind.lower())
