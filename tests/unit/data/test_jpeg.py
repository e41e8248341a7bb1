"""Plain JPEGs: decoded without Pillow, to Pillow's pixels and with its verdict; whole or at a scale."""

import itertools
import struct
from io import BytesIO

import cv2
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from sklearn.datasets import load_sample_image

from ns_core.data.images import CorruptImage, decode, decode_at_least, dimensions, inspect

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def photo() -> Pixels:
    """uint8[427,640,3]: a pagoda with much fine detail."""
    return np.asarray(load_sample_image("china.jpg"))


def jpeg(image: Pixels | Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    whole = image if isinstance(image, Image.Image) else Image.fromarray(image)
    whole.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> Pixels:
    with Image.open(BytesIO(data)) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(image.convert("RGB"))


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def claiming(data: bytes, height: int, width: int) -> bytes:
    """The JPEG with another size in its frame header."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def with_junk_before_its_end(data: bytes) -> bytes:
    """Whole, but with bytes of no meaning, at which libjpeg-turbo warns."""
    return data[:-2] + bytes(9) + data[-2:]


def assert_plain_and_pillows(data: bytes) -> None:
    pixels = decode(data)
    assert dimensions(data) == pixels.shape[:2]
    np.testing.assert_array_equal(pixels, by_pillow(data))


# The pixels


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_colour_has_the_pixels_of_pillow(photo: Pixels, subsampling: str, progressive: bool) -> None:
    sizes = [(9, 11), (17, 8), (63, 65), (200, 301)]
    for (height, width), quality in itertools.product(sizes, [10, 50, 75, 90, 98]):
        options = {"subsampling": subsampling, "progressive": progressive, "quality": quality}
        assert_plain_and_pillows(jpeg(photo[:height, :width], **options))


@pytest.mark.parametrize("subsampling", ["440", "411"])
def test_rarer_subsampling_has_the_pixels_of_pillow(photo: Pixels, subsampling: str) -> None:
    cut = np.ascontiguousarray(photo[:201, :303])
    assert_plain_and_pillows(simplejpeg.encode_jpeg(cut, colorsubsampling=subsampling))


@pytest.mark.parametrize(
    "options",
    [
        {"restart_marker_blocks": 3},
        {"restart_marker_rows": 1, "progressive": True},
        {"keep_rgb": True},
        {"comment": b"a remark"},
        {"icc_profile": bytes(70_000)},
        {"exif": oriented(1)},
        {"xmp": b"<x tiff:Make='none'/>"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_markers_that_turn_nothing_leave_a_jpeg_plain(photo: Pixels, options: dict[str, object]) -> None:
    assert_plain_and_pillows(jpeg(photo[:100, :130], **options))
    assert_plain_and_pillows(jpeg(photo[:100, :130, 1], **options | {"keep_rgb": False}))


def test_what_simplejpeg_would_show_otherwise_is_not_plain(photo: Pixels) -> None:
    cut = photo[:100, :130]
    inks = jpeg(Image.fromarray(cut).convert("CMYK"))
    turned = [jpeg(cut, exif=oriented(orientation)) for orientation in range(2, 9)]
    by_xmp = jpeg(cut, xmp=b'<x tiff:Orientation="6"/>')
    png = BytesIO()
    Image.fromarray(cut).save(png, "PNG")
    for data in (inks, *turned, by_xmp, png.getvalue(), b"", b"\xff\xd8"):
        assert dimensions(data) is None
    for data in (inks, *turned, by_xmp, png.getvalue()):
        np.testing.assert_array_equal(decode(data), by_pillow(data))
        np.testing.assert_array_equal(decode_at_least(data, 1, 1), by_pillow(data))
    assert decode(by_xmp).shape == (130, 100, 3)


def test_a_jpeg_of_several_pictures_keeps_its_name(photo: Pixels) -> None:
    buffer = BytesIO()
    Image.fromarray(photo).save(buffer, "MPO", save_all=True, append_images=[Image.fromarray(photo)])
    assert inspect(buffer.getvalue()).format == "MPO"
    assert inspect(jpeg(photo)).format == "JPEG"


def test_the_pixels_are_read_only(photo: Pixels) -> None:
    assert not decode(jpeg(photo)).flags.writeable
    assert not decode_at_least(jpeg(photo), 50, 50).flags.writeable


# The verdict


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, overwritten in the header or anywhere, or with a wrong marker inside."""
    changed = bytearray(data)
    match rng.integers(4):
        case 0:
            return data[: rng.integers(len(data))]
        case 1:
            changed[rng.integers(min(len(data), 640))] = rng.integers(256)
        case 2:
            for place in rng.integers(len(data), size=3):
                changed[place] = rng.integers(256)
        case 3:
            place = rng.integers(len(data) - 1)
            changed[place : place + 2] = bytes([255, rng.integers(0xC0, 0x100)])
    return bytes(changed)


def test_damage_has_the_verdict_and_the_pixels_of_pillow(photo: Pixels) -> None:
    rng, refused = np.random.default_rng(0), 0
    options = [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"exif": oriented(1)}, {"subsampling": 0}]
    sound = [jpeg(photo[100:132, 200:240], **chosen) for chosen in options]
    for draw in range(1_500):
        data = damaged(sound[draw % len(sound)], rng)
        try:
            expected = by_pillow(data)
        except Exception:
            refused += 1
            for read in (decode, inspect, lambda data: decode_at_least(data, 8, 8)):
                with pytest.raises(CorruptImage):
                    read(data)
        else:
            np.testing.assert_array_equal(decode(data), expected)
            decode_at_least(data, 8, 8)
    assert 300 < refused < 1_200


def test_every_cut_of_the_pixels_is_corrupt(photo: Pixels) -> None:
    data = jpeg(photo[:64, :64])
    for end in range(0, len(data) - 2, 7):
        with pytest.raises(CorruptImage):
            decode(data[:end])
        with pytest.raises(CorruptImage):
            decode_at_least(data[:end], 8, 8)


def test_where_libjpeg_warns_and_pillow_reads_the_picture_is_read(photo: Pixels) -> None:
    data = with_junk_before_its_end(jpeg(photo))
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(data)
    np.testing.assert_array_equal(decode(data), by_pillow(data))
    np.testing.assert_array_equal(decode_at_least(data, 50, 50), by_pillow(data))


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_jpeg_of_too_many_pixels_is_refused_before_it_is_decoded(photo: Pixels, side: int) -> None:
    data = claiming(jpeg(photo[:16, :16]), side, side)
    assert dimensions(data) is None
    for read in (decode, lambda data: decode_at_least(data, 8, 8)):
        with pytest.raises(CorruptImage, match="pixels"):
            read(data)


def test_dimensions_come_from_the_header_alone(photo: Pixels) -> None:
    data = jpeg(photo)
    header = data[: data.index(b"\xff\xda") + 20]
    assert dimensions(header) == (427, 640)
    with pytest.raises(CorruptImage):
        decode(header)


# The scale


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ((1, 1), (54, 80)),
        ((54, 80), (54, 80)),
        ((55, 1), (107, 160)),
        ((1, 161), (161, 240)),
        ((161, 240), (161, 240)),
        ((200, 320), (214, 320)),
        ((214, 321), (427, 640)),
        ((427, 640), (427, 640)),
        ((5_000, 9_000_000), (427, 640)),
    ],
)
def test_the_smallest_scale_with_the_pixels_asked_for(
    photo: Pixels, asked: tuple[int, int], given: tuple[int, int]
) -> None:
    data = jpeg(photo)
    scaled = decode_at_least(data, *asked)
    assert scaled.shape == (*given, 3)
    if given == photo.shape[:2]:
        np.testing.assert_array_equal(scaled, decode(data))


def test_a_scaled_picture_is_the_average_of_the_whole(photo: Pixels) -> None:
    for cut in (photo[:424], photo[:424, :, 1]):
        data = jpeg(cut, quality=95)
        for eighths in (1, 2, 3, 4):
            height, width = 53 * eighths, 80 * eighths
            average = cv2.resize(decode(data), (width, height), interpolation=cv2.INTER_AREA).astype(float)
            scaled = decode_at_least(data, height, width)
            assert scaled.shape == (height, width, 3)
            assert np.sqrt(np.mean((scaled - average) ** 2)) < 5
