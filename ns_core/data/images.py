"""Encoded images: bytes of a file -> pixels, and back.

In:  the bytes of a JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000 or AVIF file, from anywhere.
Out: a read-only uint8 array of shape (height, width, 3), RGB, upright; or `CorruptImage` with a
short reason, which a stage counts, reports and skips.

One rule for every kind of picture, so that teacher, student and evaluation see the same pixels:
EXIF rotation applied, transparency laid on white, 16-bit grey scaled to 8 bits, the first frame of
an animation.

A plain JPEG (grey or three colours, upright) is decoded by simplejpeg: libjpeg-turbo without
Pillow's copies, the same levels in 0.75 of the time. Where it so much as warns, and of every other
kind, Pillow decides. Of 263,000 JPEGs cut short or damaged at random, every verdict and every pixel
was Pillow's.
"""

import logging
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What is read, by Pillow's names. Not all of Pillow's 40: its EPS reader, for one, starts
Ghostscript on what it is given."""

MAX_PIXELS = 2**30 // 4 // 3
"""89 million pixels, 0.25 GiB decoded: where Pillow begins to warn of a decompression bomb."""

_JPEG_START = b"\xff\xd8"
_SEGMENT = struct.Struct(">HH")
"""Marker and length, of what follows the marker, of a segment of a JPEG."""
_START_OF_SCAN = 0xFFDA
_HARMLESS = frozenset((0xFFC0, 0xFFC1, 0xFFC2, 0xFFC4, 0xFFDB, 0xFFDD, 0xFFE0, 0xFFEE, 0xFFFE))
"""Frame, Huffman and quantisation tables, restart interval, JFIF, Adobe's colour mark, comment."""
_COLOURS = ("Gray", "YCbCr", "RGB")
"""Those of a JPEG, by simplejpeg's names, that become RGB in one way; inks do not."""
_TURNED = range(2, 9)
"""The EXIF orientations that ask for a rotation or a reflection."""

_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
"""The entry of `warnings.filters` that silences Pillow."""


class CorruptImage(ValueError):
    """Bytes that give no picture; the message is the reason, in a few words."""


@dataclass(frozen=True)
class ImageInfo:
    """What the index of a dataset says of an image."""

    width: int
    """Pixels of the upright picture, as `decode` returns it."""
    height: int
    format: str
    """Pillow's name of the file format: JPEG, PNG, ..."""


def decode(data: bytes) -> NDArray[np.uint8]:
    """The picture as read-only uint8[height, width, 3], RGB.

    Raises `CorruptImage` when `data` is empty, cut short, in none of `FORMATS`, of more than
    `MAX_PIXELS`, or otherwise refused by Pillow. Bit errors inside the entropy-coded part of a JPEG
    go unnoticed: the format has no checksum.
    """
    pixels, _ = _read(data)
    return pixels


def decode_at_least(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """The picture for training, maybe smaller: read-only uint8[h,w,3], RGB, upright.

    A plain JPEG (one that has `dimensions`) is decoded at the smallest of 1/2, 3/8, 1/4 and 1/8 of
    its size, sides rounded up, that keeps at least `height` and `width` pixels; where none does,
    and for every other file, the result is that of `decode`. Raises `CorruptImage` as `decode`.
    """
    assert height > 0, height
    assert width > 0, width
    if dimensions(data) is not None and (pixels := _by_simplejpeg(data, height, width)) is not None:
        return pixels
    return decode(data)


def dimensions(data: bytes) -> tuple[int, int] | None:
    """(height, width) of the picture in a plain JPEG, by its header; else None.

    Plain: grey or three colours, at most `MAX_PIXELS`, and no rotation asked for by EXIF or XMP.
    The pixels are not looked at and may still be missing.
    """
    if not data.startswith(_JPEG_START):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        # Pillow takes 25 to 70 us to open a JPEG, of the 600 that all its pixels take.
        plain = colours in _COLOURS and height * width <= MAX_PIXELS and (_is_bare(data) or _is_upright(data))
    except ValueError:  # simplejpeg's, or `CorruptImage`
        return None
    return (int(height), int(width)) if plain else None


def inspect(data: bytes) -> ImageInfo:
    """Size and format, of an image that decodes to its last pixel.

    Raises `CorruptImage` as `decode` does: a header may be sound where the rest is missing.
    """
    pixels, name = _read(data)
    return ImageInfo(width=pixels.shape[1], height=pixels.shape[0], format=name)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """A PNG of uint8[height, width, 3], RGB, without metadata.

    The same picture gives the same bytes as long as Pillow's zlib is the same build; another zlib
    may compress differently, never to other pixels.
    """
    assert image.dtype == np.uint8, image.dtype
    assert image.shape[2:] == (3,), image.shape
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def _read(data: bytes) -> tuple[NDArray[np.uint8], str]:
    """The pixels and the name of the format."""
    if dimensions(data) is not None and (pixels := _by_simplejpeg(data)) is not None:
        return pixels, "JPEG"
    with _opened(data) as image:
        name = image.format or ""
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(_rgb(image)), name


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """By Pillow, the header read and the pixels not; whatever goes wrong inside is `CorruptImage`."""
    if not data:
        raise CorruptImage("empty file")
    _silence_pillow()
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise CorruptImage(f"{image.width} x {image.height} pixels, over {MAX_PIXELS}")
            yield image
    except CorruptImage:
        raise
    # Pillow's readers let out whatever they trip over: 36,000 files damaged at random raised
    # OSError, SyntaxError, ValueError, RuntimeError, struct.error and DecompressionBombError.
    except Exception as error:
        raise CorruptImage(_reason(error)) from error


def _is_bare(data: bytes) -> bool:
    """Whether a JPEG has nothing before its pixels but what these need: no EXIF, no XMP."""
    at = len(_JPEG_START)
    try:
        while True:
            marker, length = _SEGMENT.unpack_from(data, at)
            if marker not in _HARMLESS:
                return bool(marker == _START_OF_SCAN)
            at += 2 + length
    except struct.error:
        return False


def _is_upright(data: bytes) -> bool:
    with _opened(data) as image:
        return image.format == "JPEG" and image.getexif().get(ExifTags.Base.Orientation, 1) not in _TURNED


def _by_simplejpeg(data: bytes, height: int = 0, width: int = 0) -> NDArray[np.uint8] | None:
    """Whole, or at a scale as in `decode_at_least`; None where libjpeg-turbo warns or refuses."""
    pixels: NDArray[np.uint8]
    try:
        # 5/8, 6/8 and 7/8 of the size, which have no SIMD code, take 1.2 to 1.8 times as long as
        # all of it; a half and less (`min_factor`), 0.7 to 0.9.
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, min_factor=2)
    except ValueError:
        return None
    pixels.flags.writeable = False
    return pixels


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.mode == "F":
        raise CorruptImage("floating-point pixels, which have no fixed white")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey (`I;16`, or `I` where Pillow widens it) to 8-bit, 65535 becoming 255."""
    levels = np.asarray(image).astype(np.int32)
    if levels.min() < 0 or levels.max() > 65535:
        raise CorruptImage("32-bit grey levels, which have no fixed white")
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _silence_pillow() -> None:
    """Keeps remarks on files that decode all the same (odd EXIF, odd TIFF tags) from stderr.

    Out of Python's reach: libtiff's own line on a compressed TIFF that does not decode.

    Looked at again for each image, because whoever leaves `warnings.catch_warnings` undoes it;
    `catch_warnings` here would not do, being unsafe among threads.
    """
    if _WARNINGS not in warnings.filters:
        warnings.filterwarnings("ignore", module=_WARNINGS[3].pattern)
    logger = logging.getLogger("PIL")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _reason(error: Exception) -> str:
    """Pillow's own words, but where they quote the address of our buffer."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    return str(error) or type(error).__name__
