"""Decoding: every kind of file to upright RGB, every kind of damage to `CorruptImage`."""

import struct
import subprocess
import sys
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from ns_core.data.images import FORMATS, CorruptImage, ImageInfo, decode, encode_png, inspect

Pixels = NDArray[np.uint8]


def picture(height: int = 20, width: int = 30) -> Pixels:
    """Red to the right, green downwards, blue both: no two corners alike, and smooth for JPEG."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 0] = np.linspace(10, 250, width)
    image[:, :, 1] = np.linspace(250, 10, height)[:, None]
    image[:, :, 2] = (image[:, :, 0].astype(int) + image[:, :, 1]) // 2
    return image


def encoded(image: Image.Image | Pixels, form: str, **options: object) -> bytes:
    buffer = BytesIO()
    whole = image if isinstance(image, Image.Image) else Image.fromarray(image)
    whole.save(buffer, form, **options)
    return buffer.getvalue()


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing of it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    nothing = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + header + nothing + chunk(b"IEND", b"")


def remarkable_jpeg() -> bytes:
    """A sound JPEG with an EXIF entry that points past its end, on which Pillow remarks."""
    entry = struct.pack("<HHII", 0x010E, 2, 64, 9_999)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + b"\0\0\0\0"
    return encoded(picture(), "JPEG", quality=95, exif=exif)


# What decodes


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG2000"])
def test_a_lossless_file_gives_its_pixels(form: str) -> None:
    image = picture()
    if form == "GIF":
        image = np.asarray(Image.fromarray(image).quantize(200).convert("RGB"))
    options = {"lossless": True} if form == "WEBP" else {}
    decoded = decode(encoded(image, form, **options))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, image)


@pytest.mark.parametrize("form", ["JPEG", "AVIF", "WEBP"])
def test_a_lossy_file_gives_nearly_its_pixels(form: str) -> None:
    decoded = decode(encoded(picture(), form, quality=95)).astype(int)
    assert np.abs(decoded - picture()).max() < 16


def test_the_result_is_read_only() -> None:
    assert not decode(encoded(picture(), "PNG")).flags.writeable


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda stored: stored),
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, lambda stored: stored[::-1]),
        (5, lambda stored: stored.transpose(1, 0, 2)),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: stored[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda stored: np.rot90(stored)),
    ],
)
def test_the_rotation_of_exif_is_applied(orientation: int, upright) -> None:
    data = encoded(picture(), "PNG", exif=oriented(orientation))
    np.testing.assert_array_equal(decode(data), upright(picture()))


def test_grey_and_black_and_white_are_the_same_in_all_channels() -> None:
    grey = picture()[:, :, 0]
    bits = grey > 128
    np.testing.assert_array_equal(decode(encoded(grey, "PNG")), np.dstack([grey] * 3))
    np.testing.assert_array_equal(decode(encoded(bits, "PNG")), np.dstack([bits * 255] * 3))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_to_eight(form: str) -> None:
    """Pillow's own conversion clips: all that is above 255 of 65,535 becomes white."""
    levels = np.linspace(0, 65_535, 600).reshape(20, 30).round().astype(np.uint16)
    decoded = decode(encoded(Image.fromarray(levels), form))
    np.testing.assert_array_equal(decoded, np.dstack([np.rint(levels / 257)] * 3))
    assert (decoded.min(), decoded.max()) == (0, 255)


def test_cmyk_becomes_rgb() -> None:
    inks = Image.fromarray(picture()).convert("CMYK")
    decoded = decode(encoded(inks, "JPEG", quality=95)).astype(int)
    assert np.abs(decoded - picture()).max() < 24


def test_a_palette_is_looked_up() -> None:
    palette = Image.fromarray(picture()).quantize(16)
    colours = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(decode(encoded(palette, "PNG")), colours)


def test_transparency_is_laid_on_white() -> None:
    alpha = np.zeros((20, 30), np.uint8)
    alpha[:, 10:20], alpha[:, 20:] = 128, 255
    layered = Image.fromarray(np.dstack([picture(), alpha]))
    decoded = decode(encoded(layered, "PNG")).astype(int)
    assert (decoded[:, :10] == 255).all()
    half = picture()[:, 10:20] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(decoded[:, 10:20] - half).max() <= 1
    np.testing.assert_array_equal(decoded[:, 20:], picture()[:, 20:])


def test_transparent_grey_palette_and_colour_key_are_laid_on_white() -> None:
    grey = Image.fromarray(np.dstack([np.full((4, 4), 9, np.uint8), np.zeros((4, 4), np.uint8)]))
    assert grey.mode == "LA"
    assert (decode(encoded(grey, "PNG")) == 255).all()

    indices = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    indices.putpalette([10, 20, 30, 40, 50, 60])
    for form in ("PNG", "GIF"):
        decoded = decode(encoded(indices, form, transparency=0))
        np.testing.assert_array_equal(decoded, [[[255, 255, 255], [40, 50, 60]]])

    keyed = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    np.testing.assert_array_equal(
        decode(encoded(keyed, "PNG", transparency=(1, 2, 3))),
        [[[255, 255, 255], [4, 5, 6]]],
    )


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert (decode(data) == [255, 0, 0]).all()


# What does not


def reason(data: bytes) -> str:
    with pytest.raises(CorruptImage) as raised:
        decode(data)
    with pytest.raises(CorruptImage):
        inspect(data)
    text = str(raised.value)
    assert 0 < len(text) <= 120
    assert "\n" not in text
    return text


def test_an_empty_file_is_corrupt() -> None:
    assert reason(b"") == "empty file"


@pytest.mark.parametrize("data", [b"\0", b"<html>404</html>", b"\xff\xd8\xff", bytes(5_000)])
def test_something_else_is_corrupt(data: bytes) -> None:
    assert reason(data) == "not an image of a known format"


def test_formats_that_run_programs_are_not_opened() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    assert reason(postscript) == "not an image of a known format"


@pytest.mark.parametrize("form", FORMATS)
def test_a_truncated_file_is_corrupt(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(noise, form)
    decode(data)
    for share in (0.02, 0.3, 0.6, 0.95):
        reason(data[: int(len(data) * share)])


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_corrupt_and_never_decoded(side: int) -> None:
    """10,000 squared is what Pillow only warns of; of 60,000 squared it raises."""
    assert "pixels" in reason(png_header(side, side))


def test_levels_without_a_fixed_white_are_refused() -> None:
    floating = Image.fromarray(np.full((4, 4), 0.5, np.float32))
    assert "floating-point" in reason(encoded(floating, "TIFF"))
    wide = Image.fromarray(np.full((4, 4), 1_000_000, np.int32))
    assert "32-bit" in reason(encoded(wide, "TIFF"))


def test_random_damage_gives_a_picture_or_corrupt_image_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    corrupt = 0
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        sound = encoded(picture(), form)
        for _ in range(100):
            data = bytearray(sound)
            for place in rng.integers(min(len(data), 250), size=3):
                data[place] = rng.integers(256)
            try:
                assert decode(bytes(data)).ndim == 3
            except CorruptImage:
                corrupt += 1
    assert 100 < corrupt < 700


# Silence


def test_remarks_of_pillow_are_no_errors_even_where_warnings_are() -> None:
    with pytest.warns(UserWarning, match="Truncated File Read"):
        Image.open(BytesIO(remarkable_jpeg())).getexif()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(remarkable_jpeg()).shape == (20, 30, 3)


def test_nothing_is_written_to_stderr() -> None:
    """Warnings on, no logging set up: what Pillow has to say of these would be printed."""
    program = """
import sys
from ns_core.data.images import CorruptImage, decode
for line in sys.stdin:
    try:
        print(decode(bytes.fromhex(line)).shape)
    except CorruptImage as error:
        print(error)
"""
    too_many_samples = bytearray(encoded(picture(), "TIFF"))
    at = too_many_samples.index(struct.pack("<HHI", 277, 3, 1))
    too_many_samples[at + 8 : at + 10] = struct.pack("<H", 99)
    inputs = [remarkable_jpeg(), png_header(10_000, 10_000), bytes(too_many_samples), b"no image"]
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program],
        input="\n".join(data.hex() for data in inputs),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("(20, 30, 3)\n")


# Inspecting and encoding


def test_inspect_tells_the_upright_size_and_the_format() -> None:
    assert inspect(encoded(picture(20, 30), "PNG")) == ImageInfo(width=30, height=20, format="PNG")
    rotated = encoded(picture(20, 30), "JPEG", exif=oriented(6))
    assert inspect(rotated) == ImageInfo(width=20, height=30, format="JPEG")


def test_inspect_reads_to_the_last_pixel() -> None:
    data = encoded(picture(200, 300), "JPEG")
    assert Image.open(BytesIO(data[:-200])).size == (300, 200)
    with pytest.raises(CorruptImage, match="truncated"):
        inspect(data[:-200])


def test_a_png_comes_back_as_it_went_in() -> None:
    np.testing.assert_array_equal(decode(encode_png(picture())), picture())
    np.testing.assert_array_equal(decode(encode_png(picture()[::-1, 3:17])), picture()[::-1, 3:17])


def test_a_png_is_the_same_bytes_each_time_and_carries_nothing_else() -> None:
    data = encode_png(picture())
    assert data == encode_png(decode(data))
    written = Image.open(BytesIO(data))
    written.load()
    assert written.info == {}
