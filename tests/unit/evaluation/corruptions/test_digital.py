"""Light, colour and storage: within one level of the originals, written out here, and of imagecorruptions-imaug."""

import colorsys
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from imagecorruptions import corruptions as library
from PIL import Image

from ns_core.evaluation.corruptions import SEVERITIES, Pixels, corrupt
from ns_core.evaluation.corruptions.tables import LEVELS
from tests.unit.evaluation.corruptions.pictures import extremes, photographs, waves

TIERS = (32, 64, 224, 299)


def run(image: Pixels, name: str, severity: int, size: int) -> Pixels:
    return corrupt(image, name, severity, np.random.default_rng(0), size)


def farthest(ours: Pixels, theirs: npt.NDArray[np.uint8]) -> int:
    return int(np.abs(ours.astype(int) - theirs).max())


def in_hsv(image: Pixels, channel: int, factor: float, rise: float) -> Pixels:
    """The original's detour: clip(channel * factor + rise) of HSV, by Python's colorsys."""
    made = np.empty((*image.shape[:2], 3))
    for place in np.ndindex(image.shape[:2]):
        hsv = list(colorsys.rgb_to_hsv(*(image[place] / 255)))
        hsv[channel] = min(max(hsv[channel] * factor + rise, 0), 1)
        made[place] = colorsys.hsv_to_rgb(*hsv)
    return np.asarray(np.clip(made, 0, 1) * 255, dtype=np.uint8)


@pytest.mark.parametrize("size", TIERS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_and_saturate_are_the_originals(severity: int, size: int) -> None:
    image = extremes(20, 24)
    rise = LEVELS["brightness"][size][severity - 1]
    assert farthest(run(image, "brightness", severity, size), in_hsv(image, 2, 1, rise)) <= 1
    factor, rise = LEVELS["saturate"][size][severity - 1]
    assert farthest(run(image, "saturate", severity, size), in_hsv(image, 1, factor, rise)) <= 1


def test_grey_turns_red_where_saturation_is_added() -> None:
    grey = np.full((8, 8, 3), 200, dtype=np.uint8)
    assert (run(grey, "saturate", 5, 224) == (200, 160, 160)).all()
    assert np.array_equal(run(grey, "saturate", 3, 224), grey)


@pytest.mark.parametrize("size", TIERS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_is_the_original(severity: int, size: int) -> None:
    factor = LEVELS["contrast"][size][severity - 1]
    for image in (extremes(40, 31), waves(30, 50), *photographs(64, 80)):
        unit = image / 255.0
        means = unit.mean(axis=(0, 1), keepdims=True)
        expected = np.asarray(np.clip((unit - means) * factor + means, 0, 1) * 255, dtype=np.uint8)
        assert farthest(run(image, "contrast", severity, size), expected) <= 1


def test_contrast_cuts_the_fraction_off() -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    image[:4, :, 0] = 201
    # Channel 0 has mean 100.5: at factor 0.4 its 201 becomes 140.7 and its 0 becomes 60.3.
    assert np.unique(run(image, "contrast", 3, 32)[..., 0]).tolist() == [60, 140]
    assert not run(image, "contrast", 3, 32)[..., 1:].any()


@pytest.mark.parametrize("size", TIERS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_is_the_original(severity: int, size: int) -> None:
    scale = LEVELS["pixelate"][size][severity - 1]
    for height, width in ((50, 37), (64, 64), (8, 9)):
        image = extremes(height, width)
        small = (int(width * scale), int(height * scale))
        box = Image.Resampling.BOX
        expected = np.asarray(Image.fromarray(image).resize(small, box).resize((width, height), box))
        assert np.array_equal(run(image, "pixelate", severity, size), expected)


def test_pixelate_leaves_blocks_of_the_mean_colour() -> None:
    image = waves(64, 64)
    blocks = run(image, "pixelate", 5, 64)
    means = image.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.array_equal(blocks[::2, ::2], blocks[1::2, 1::2])
    # Pillow rounds after each direction.
    assert np.abs(blocks[::2, ::2] - means).max() <= 1


@pytest.mark.parametrize(("size", "quality"), [(32, 40), (64, 25), (224, 7), (299, 5)])
def test_jpeg_is_that_of_another_codec_at_the_official_quality(size: int, quality: int) -> None:
    image = photographs(64, 64)[0]
    _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    assert farthest(run(image, "jpeg_compression", 5, size), np.asarray(decoded[..., ::-1], dtype=np.uint8)) <= 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_is_the_original(severity: int) -> None:
    for image in photographs(90, 61):
        stream = BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=LEVELS["jpeg_compression"][64][severity - 1])
        assert np.array_equal(run(image, "jpeg_compression", severity, 64), np.asarray(Image.open(stream)))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["brightness", "contrast", "pixelate", "jpeg_compression", "saturate"])
def test_the_library_agrees_within_one_level(name: str, severity: int) -> None:
    for image in photographs(168, 224):
        theirs = np.uint8(getattr(library, name)(Image.fromarray(image), severity))
        assert farthest(run(image, name, severity, 224), np.asarray(theirs)) <= 1
