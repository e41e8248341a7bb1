"""The sets `timm` and `torchvision` against these libraries, and two traps of timm's."""

import random
from dataclasses import replace

import numpy as np
import PIL
import pytest
from PIL import Image, ImageOps
from timm.data import auto_augment as timm
from torchvision.transforms import InterpolationMode
from torchvision.transforms import autoaugment as torchvision

from ns_core.data.randaugment import Pixels, RandAugment
from ns_core.data.randaugment.sets import PAPER, TIMM, TORCHVISION
from tests.randaugment_operations import argument, operate, smooth, texture

TIMMS = {name.removesuffix("Increasing").removesuffix("Rel"): name for name in timm._RAND_INCREASING_TRANSFORMS}
"""Our names -> timm's."""
EXACT = {"Identity", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd", "TranslateX", "TranslateY"}
SHEARS = {"ShearX", "ShearY"}
MAGNITUDES = [0.0, 3.0, 4.0, 7.0, 9.0, 10.0]


def differing(ours: Pixels, theirs: Pixels) -> float:
    """Share of the pixels that differ."""
    return float((ours != theirs).any(axis=2).mean())


def of_timm(name: str, magnitude: float) -> set[tuple[float, ...]]:
    """All that timm's level function can give."""
    function = timm.LEVEL_TO_ARG[TIMMS[name]]
    random.seed(0)
    return {() if function is None else function(magnitude, {}) for _ in range(40)}


def test_timms_operations_and_their_probability() -> None:
    drawn = timm.rand_augment_transform("rand-m9-n2-inc1")
    assert [operation.name for operation in drawn.ops] == [TIMMS[name] for name in TIMM.entries]
    assert {(operation.prob, operation.magnitude_std) for operation in drawn.ops} == {(1 / TIMM.one_in, 0)}
    assert set(timm._FILL) == {TIMM.fill}


@pytest.mark.parametrize("name", TIMM.entries)
def test_arguments_are_timms(name: str) -> None:
    for magnitude in np.arange(0, 10.01, 0.25).tolist():
        theirs = of_timm(name, magnitude)
        scale = 224 if name.startswith("Translate") else 1
        signs = (1, -1) if TIMM.entries[name].signed else (1,)
        ours = {argument(TIMM, name, sign * magnitude, 224) for sign in signs}
        expected = {scale * given[0] if given else 0 for given in theirs}
        assert sorted(ours) == pytest.approx(sorted(expected))


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("name", TIMM.entries)
def test_pictures_are_timms(name: str, magnitude: float) -> None:
    """Nearest pixel on both sides. timm's translations run the other way, its shears half a shear further."""
    image = smooth(80, 64) if name in SHEARS else texture(80, 64)
    for given in of_timm(name, magnitude):
        opposite = bool(given) and given[0] < (1 if name in {"Color", "Contrast", "Brightness", "Sharpness"} else 0)
        signed = -magnitude if opposite and TIMM.entries[name].signed else magnitude
        ours = operate(TIMM, name, image, -signed if name.startswith("Translate") else signed)
        if name == "Posterize" and given[0] < 1:
            given = (1,)
        how = {"fillcolor": (128, 128, 128), "resample": Image.Resampling.NEAREST}
        theirs = np.asarray(timm.NAME_TO_OP[TIMMS[name]](Image.fromarray(image), *given, **how))
        if name in EXACT:
            np.testing.assert_array_equal(ours, theirs)
        elif name == "Rotate":
            assert differing(ours, theirs) < 0.002
        elif name in SHEARS:
            inside = (ours != 128).all(axis=2) & (theirs != 128).all(axis=2)
            assert inside.mean() > 0.7
            assert np.abs(ours.astype(int) - theirs)[inside].max() <= 2
        else:
            assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_timm_clips_27_to_10_without_a_word() -> None:
    def pictures(config: str) -> list[bytes]:
        random.seed(0)
        np.random.seed(0)
        augment = timm.rand_augment_transform(config)
        return [augment(Image.fromarray(texture())).tobytes() for _ in range(60)]

    assert pictures("rand-m27-n2") == pictures("rand-m10-n2")
    assert pictures("rand-m9-n2") != pictures("rand-m10-n2")
    assert pictures("rand-m27-n2-mmax30") != pictures("rand-m10-n2")


@pytest.mark.parametrize("side", [32, 64, 224])
def test_timm_blanks_a_quarter_of_the_pictures_at_an_unclipped_27_and_ours_none(side: int) -> None:
    """Both operations applied: one translation by 121 % of the side is all it takes, and posterizing adds to it."""
    image = texture(side, side) // 2 + 10
    random.seed(0)
    np.random.seed(0)
    augment = timm.rand_augment_transform("rand-m27-n2-mmax30-p1.0")
    theirs = [np.asarray(augment(Image.fromarray(image))) for _ in range(300)]
    assert 0.18 < np.mean([picture.min() == picture.max() for picture in theirs]) < 0.32
    for operations, magnitude in [(PAPER, 27.0), (TORCHVISION, 27.0), (TIMM, 10.0)]:
        ours, rng = RandAugment(2, magnitude, "nearest", operations), np.random.default_rng(0)
        assert not any((ours(image, rng) == operations.fill).all() for _ in range(600))


def test_timm_asks_at_full_strength_for_no_bits_and_ours_keeps_one() -> None:
    """Black up to Pillow 12, an error from Pillow 13 on."""
    image = texture()
    assert argument(TIMM, "Posterize", 10.0) == 0
    if int(PIL.__version__.split(".")[0]) < 13:
        assert not np.asarray(ImageOps.posterize(Image.fromarray(image), 0)).any()
    else:
        with pytest.raises(ValueError, match="bits"):
            ImageOps.posterize(Image.fromarray(image), 0)
    np.testing.assert_array_equal(operate(TIMM, "Posterize", image, 10.0), image & 128)


@pytest.mark.parametrize("side", [32, 75, 224, 331])
def test_arguments_are_torchvisions(side: int) -> None:
    space = torchvision.RandAugment()._augmentation_space(31, (side, side))
    assert list(space) == list(TORCHVISION.entries)
    for name, (magnitudes, signed) in space.items():
        assert TORCHVISION.entries[name].signed == signed
        for magnitude in range(31):
            theirs = magnitudes[magnitude].item() if magnitudes.ndim else 0.0
            ours = argument(TORCHVISION, name, float(magnitude), side)
            if name in {"Color", "Contrast", "Brightness", "Sharpness"}:
                theirs += 1
            elif name.startswith("Translate"):
                theirs = int(theirs + 1e-4)  # float32 puts some whole numbers just below
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("magnitude", [0, 3, 9, 20, 27, 30])
@pytest.mark.parametrize("name", TORCHVISION.entries)
def test_pictures_are_torchvisions(name: str, magnitude: int) -> None:
    image = smooth(80, 64) if name in SHEARS else texture(80, 64)
    magnitudes, signed = torchvision.RandAugment()._augmentation_space(31, image.shape[:2])[name]
    given = magnitudes[magnitude].item() if magnitudes.ndim else 0.0
    for sign in (1, -1) if signed else (1,):
        ours = operate(TORCHVISION, name, image, sign * magnitude, fill=0)
        picture, nearest = Image.fromarray(image), InterpolationMode.NEAREST
        theirs = np.asarray(torchvision._apply_op(picture, name, sign * given, nearest, None))
        if name in EXACT:
            np.testing.assert_array_equal(ours, theirs)
        elif name == "Rotate":
            assert differing(ours, theirs) < 0.002
        elif name in SHEARS:
            inside = (ours != 0).any(axis=2) & (theirs != 0).any(axis=2)
            assert inside.mean() > 0.7
            assert np.abs(ours.astype(int) - theirs)[inside].max() <= 2
        else:
            assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_torchvision_fills_with_black() -> None:
    assert torchvision.RandAugment().fill is None
    shear = replace(TORCHVISION, entries={"ShearX": TORCHVISION.entries["ShearX"]})
    sheared = RandAugment(1, 30.0, "nearest", shear)(np.full((32, 32, 3), 255, np.uint8), np.random.default_rng(0))
    assert set(np.unique(sheared)) == {0, 255}
