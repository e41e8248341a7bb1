"""The official set against a slow reading of the official code (google-research/noisystudent, randaugment.py)."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from ns_core.data.randaugment import Pixels, RandAugment
from ns_core.data.randaugment.sets import PAPER, OperationSet, official
from tests.randaugment_operations import argument, operate, sampled, texture

OFFICIAL = official()
GIVEN = {
    # at magnitude     0    2.5     5    10     20     27
    "Rotate": (0, 7.5, 15, 30, 60, 81),
    "ShearX": (0, 0.075, 0.15, 0.3, 0.6, 0.81),
    "ShearY": (0, 0.075, 0.15, 0.3, 0.6, 0.81),
    "TranslateX": (0, 25, 50, 100, 200, 270),
    "TranslateY": (0, 25, 50, 100, 200, 270),
    "Color": (0.1, 0.55, 1, 1.9, 3.7, 4.96),
    "Contrast": (0.1, 0.55, 1, 1.9, 3.7, 4.96),
    "Brightness": (0.1, 0.55, 1, 1.9, 3.7, 4.96),
    "Sharpness": (0.1, 0.55, 1, 1.9, 3.7, 4.96),
    "Posterize": (0, 1, 2, 4, 8, 10),
    "Solarize": (0, 64, 128, 256, 512, 691),
    "SolarizeAdd": (0, 27, 55, 110, 220, 297),
    "Cutout": (0, 10, 20, 40, 80, 108),
}
MAGNITUDES = [0.0, 2.5, 5.0, 10.0, 20.0, 27.0]
PHOTOMETRIC = ["AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd", "Brightness", "Contrast"]
BLENDS_OF_THE_PICTURE = ["Color", "Sharpness"]


def test_the_sixteen_operations_in_the_order_of_the_official_code() -> None:
    assert list(OFFICIAL.entries) == [
        "AutoContrast",
        "Equalize",
        "Invert",
        "Rotate",
        "Posterize",
        "Solarize",
        "Color",
        "Contrast",
        "Brightness",
        "Sharpness",
        "ShearX",
        "ShearY",
        "TranslateX",
        "TranslateY",
        "SolarizeAdd",
        "Cutout",
    ]
    assert OFFICIAL.one_in == 1
    assert OFFICIAL.fill == 128


@pytest.mark.parametrize("name", OFFICIAL.entries)
def test_arguments_are_those_of_the_official_code_at_any_magnitude(name: str) -> None:
    given = GIVEN.get(name, (0,) * len(MAGNITUDES))
    assert [argument(OFFICIAL, name, magnitude) for magnitude in MAGNITUDES] == pytest.approx(given)
    signed = name in {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}
    assert OFFICIAL.entries[name].signed == signed
    if signed:
        assert argument(OFFICIAL, name, -10.0) == -argument(OFFICIAL, name, 10.0)


def blended(other: np.ndarray, image: Pixels, factor: float) -> np.ndarray:
    return np.clip(other + factor * (image.astype(float) - other), 0, 255).astype(np.uint8)


def slowly(name: str, image: Pixels, magnitude: float) -> np.ndarray:
    level = magnitude / 10
    match name:
        case "AutoContrast":
            return np.asarray(ImageOps.autocontrast(Image.fromarray(image)))
        case "Equalize":
            return np.asarray(ImageOps.equalize(Image.fromarray(image)))
        case "Invert":
            return 255 - image
        case "Posterize":
            dropped = min(max(8 - int(4 * level), 0), 7)  # as TensorFlow's CPU kernel clamps a shift
            return image >> dropped << dropped
        case "Solarize":
            return np.where(image.astype(int) < int(256 * level), image, 255 - image)
        case "SolarizeAdd":
            return np.where(image < 128, np.minimum(image.astype(int) + int(110 * level), 255), image)
        case "Brightness":
            return blended(np.zeros_like(image, float), image, 0.1 + 1.8 * level)
        case "Contrast":
            grey = min(image.shape[0] * image.shape[1] / 256, 255)
            return blended(np.full(image.shape, float(int(grey))), image, 0.1 + 1.8 * level)
    raise AssertionError(name)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("name", PHOTOMETRIC)
def test_levels_are_those_of_the_official_code(name: str, magnitude: float) -> None:
    for image in (texture(), texture(100, 60) // 3 + 40, texture(224, 224)):
        ours = operate(OFFICIAL, name, image, magnitude).astype(int)
        allowed = 1 if name in {"AutoContrast", "Brightness", "Contrast"} else 0
        assert np.abs(ours - slowly(name, image, magnitude)).max() <= allowed


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("name", BLENDS_OF_THE_PICTURE)
def test_blends_with_a_version_of_the_picture_are_those_of_pillow(name: str, magnitude: float) -> None:
    """To within one level, and beyond a factor of 2 to within what it makes of a luma one level off."""
    factor = 0.1 + 0.18 * magnitude
    for image in (texture(), texture(100, 60) // 3 + 40):
        theirs = np.asarray(getattr(ImageEnhance, name)(Image.fromarray(image)).enhance(factor))
        ours = operate(OFFICIAL, name, image, magnitude).astype(int)
        assert np.abs(ours - theirs).max() <= (max(1, factor) if name == "Color" else 1)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_places_are_those_of_the_official_code(name: str, magnitude: float) -> None:
    """Nearest pixel, mapped by the centres of pixels; the official direction is drawn, and so is ours."""
    image = texture(96, 80)
    angle, shear, pixels = np.deg2rad(3 * magnitude), 0.03 * magnitude, 10 * magnitude
    cos, sin = np.cos(angle), np.sin(angle)
    source = {
        "Rotate": lambda x, y: (
            39.5 + cos * (x - 39.5) - sin * (y - 47.5),
            47.5 + sin * (x - 39.5) + cos * (y - 47.5),
        ),
        "ShearX": lambda x, y: (x + shear * y, y),
        "ShearY": lambda x, y: (x, y + shear * x),
        "TranslateX": lambda x, y: (x - pixels, y),
        "TranslateY": lambda x, y: (x, y - pixels),
    }[name]
    slow, clear = sampled(image, source, 128)
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(operate(OFFICIAL, name, image, magnitude)[clear], slow[clear])


def test_posterize_and_solarize_grow_weaker_and_do_nothing_at_27() -> None:
    """Which the paper's set turns round."""
    image = texture(64, 64)
    for name in ("Posterize", "Solarize"):
        changes = [float(np.abs(operate(OFFICIAL, name, image, m).astype(int) - image).mean()) for m in (2.5, 5, 9, 27)]
        assert changes == sorted(changes, reverse=True)
        assert changes[0] > changes[2]
        assert changes[3] == 0
        assert not np.array_equal(operate(PAPER, name, image, 27.0), image)


def test_factors_have_no_sign_and_five_leaves_the_picture_alone() -> None:
    image = texture()
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        np.testing.assert_array_equal(operate(OFFICIAL, name, image, 5.0), image)
        np.testing.assert_array_equal(operate(OFFICIAL, name, image, -9.0), operate(OFFICIAL, name, image, 9.0))


def test_contrast_looks_at_the_size_of_the_picture_and_not_at_its_levels() -> None:
    """tensorflow/tpu, issue 1057. A tenth of black and nine tenths of 4, of 196, of white."""
    for side, level in [(32, 4), (224, 196), (256, 255), (300, 255)]:
        black = np.zeros((side, side, 3), np.uint8)
        assert np.unique(operate(OFFICIAL, "Contrast", black, 0.0)).tolist() == [int(0.9 * level)]


@pytest.mark.parametrize(("side", "magnitude", "left"), [(224, 27.0, False), (600, 27.0, True), (224, 9.0, True)])
def test_a_translation_is_in_pixels_whatever_the_size(side: int, magnitude: float, left: bool) -> None:
    image = np.full((side, side, 3), 255, np.uint8)
    for name in ("TranslateX", "TranslateY"):
        assert (operate(OFFICIAL, name, image, magnitude) == 255).any() == left


def cut(operations: OperationSet, magnitude: float, side: int) -> list[np.ndarray]:
    """Masks of what 2,000 cut-outs cover, the same in each channel."""
    only = OperationSet({"Cutout": operations.entries["Cutout"]})
    augment, rng = RandAugment(1, magnitude, "nearest", only), np.random.default_rng(0)
    pictures = [augment(np.zeros((side, side, 3), np.uint8), rng) for _ in range(2_000)]
    assert all(set(np.unique(picture)) <= {0, 128} for picture in pictures)
    assert all((picture == picture[..., :1]).all() for picture in pictures)
    return [picture[..., 0] == 128 for picture in pictures]


def test_a_cutout_is_a_grey_square_centred_on_any_pixel_and_cut_by_the_edges() -> None:
    masks = cut(official(cutout=4), 10.0, 16)
    rows = [np.flatnonzero(mask.any(axis=1)) for mask in masks]
    columns = [np.flatnonzero(mask.any(axis=0)) for mask in masks]
    extents = {(int(line[0]), int(line[-1]) + 1) for line in rows}
    assert extents == {(max(0, centre - 4), min(16, centre + 4)) for centre in range(16)}
    assert {(int(line[0]), int(line[-1]) + 1) for line in columns} == extents
    for mask, row, column in zip(masks, rows, columns, strict=True):
        assert mask.sum() == len(row) * len(column)
    # A full square needs its centre among 9 of 16 rows and columns: 633 expected, standard deviation 21.
    assert abs(sum(mask.sum() == 64 for mask in masks) - 633) < 5 * 21


def test_a_cutout_of_nothing_and_one_of_everything() -> None:
    assert not any(mask.any() for mask in cut(OFFICIAL, 0.0, 8))
    assert all(mask.all() for mask in cut(OFFICIAL, 27.0, 8))
