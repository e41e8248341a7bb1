"""What holds for each of RandAugment's four sets, and what a magnitude means to them."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

from ns_core.config import Augmentation
from ns_core.data.randaugment import Interpolation, Pixels, RandAugment
from ns_core.data.randaugment.operation import Surroundings
from ns_core.data.randaugment.sets import PAPER, TIMM, TORCHVISION, Entry, OperationSet, official
from tests.randaugment_operations import GEOMETRIC, SETS, argument, operate, sampled, smooth, texture

NEAREST = ["Rotate", "ShearX", "ShearY"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "bilinear")


@contextmanager
def opencv_threads(count: int) -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("name", SETS)
def test_no_draw_of_a_set_raises_or_alters_its_input(name: str) -> None:
    operations, largest = SETS[name]
    pictures = [texture(*size) for size in [(32, 32), (33, 20), (5, 2), (1, 1)]]
    for image in pictures:
        image.setflags(write=False)
    rng = np.random.default_rng(0)
    for interpolation in INTERPOLATIONS:
        augment = RandAugment(2, largest, interpolation, operations)
        for draw in range(10_000):
            image = pictures[draw % 4]
            result = augment(image, rng)
            assert result.shape == image.shape
            assert result.dtype == np.uint8


@pytest.mark.parametrize("name", SETS)
def test_the_same_generator_gives_the_same_bytes_on_any_number_of_threads(name: str) -> None:
    operations, largest = SETS[name]
    augment, image = RandAugment(3, largest, "nearest", operations), texture(64, 64)

    def pictures(seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        return b"".join(augment(image, rng).tobytes() for _ in range(30))

    with opencv_threads(1):
        alone = [pictures(seed) for seed in range(8)]
    with opencv_threads(4), ThreadPoolExecutor(4) as pool:
        assert list(pool.map(pictures, range(8))) == alone
    assert len(set(alone)) == 8


@pytest.mark.parametrize("name", ["Identity", "AutoContrast", "Equalize", "Invert", "SolarizeAdd"])
def test_what_sets_share_gives_the_same_bytes(name: str) -> None:
    of_ten = [operations for operations, _ in SETS.values() if name in operations.entries]
    assert len(of_ten) >= 2
    assert len({operate(operations, name, texture(), 10.0).tobytes() for operations in of_ten}) == 1


@pytest.mark.parametrize("name", GEOMETRIC)
def test_full_strength_in_torchvision_is_thirty_and_elsewhere_ten(name: str) -> None:
    image = texture(224, 224)
    if name not in {"TranslateX", "TranslateY"}:
        full = operate(PAPER, name, image, 10.0)
        for operations in (official(), TIMM):
            np.testing.assert_array_equal(operate(operations, name, image, 10.0), full)
        np.testing.assert_array_equal(operate(TORCHVISION, name, image, 30.0, fill=128), full)
    assert argument(TORCHVISION, name, 30.0, 1000) == {"T": 453, "R": 30, "S": 0.3}[name[0]]


TWENTY_SEVEN = {
    #             paper 27, official 27, timm 10, torchvision 27; translations of 224 px
    "Rotate": (81, 81, 30, 27),
    "ShearX": (0.81, 0.81, 0.3, 0.27),
    "ShearY": (0.81, 0.81, 0.3, 0.27),
    "TranslateX": (111, 270, 100.8, 91),
    "TranslateY": (111, 270, 100.8, 91),
    "Color": (3.43, 4.96, 1.9, 1.81),
    "Contrast": (3.43, 4.96, 1.9, 1.81),
    "Brightness": (3.43, 4.96, 1.9, 1.81),
    "Sharpness": (3.43, 4.96, 1.9, 1.81),
    "Posterize": (-3, 10, 0, 4),
    "Solarize": (0, 691, 0, 25.5),
    "SolarizeAdd": (None, 297, 110, None),
    "Cutout": (None, 108, None, None),
}


@pytest.mark.parametrize("name", TWENTY_SEVEN)
def test_what_27_means_in_each_set(name: str) -> None:
    """timm has no 27; 10 is its largest."""
    sets = [(PAPER, 27.0), (official(), 27.0), (TIMM, 10.0), (TORCHVISION, 27.0)]
    for (operations, magnitude), expected in zip(sets, TWENTY_SEVEN[name], strict=True):
        assert (name in operations.entries) == (expected is not None)
        if expected is not None:
            assert argument(operations, name, magnitude) == pytest.approx(expected)


def test_timms_set_has_no_magnitude_above_ten_and_torchvisions_none_above_thirty() -> None:
    for operations, beyond in [(TIMM, 10.5), (TORCHVISION, 31.0)]:
        with pytest.raises(AssertionError):
            RandAugment(2, beyond, "nearest", operations)
    with pytest.raises(ValueError, match="timm's scale ends at 10"):
        Augmentation(randaugment_set="timm", randaugment_magnitude=27.0)


@pytest.mark.parametrize("magnitude", [4.0, 9.0, 27.0])
@pytest.mark.parametrize("name", NEAREST)
def test_nearest_takes_the_nearest_pixel(name: str, magnitude: float) -> None:
    image, angle, shear = texture(64, 48), np.deg2rad(3 * magnitude), 0.03 * magnitude
    cos, sin = np.cos(angle), np.sin(angle)
    source = {
        "Rotate": lambda x, y: (
            23.5 + cos * (x - 23.5) - sin * (y - 31.5),
            31.5 + sin * (x - 23.5) + cos * (y - 31.5),
        ),
        "ShearX": lambda x, y: (x + shear * y, y),
        "ShearY": lambda x, y: (x, y + shear * x),
    }[name]
    slow, clear = sampled(image, source, 77)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(operate(PAPER, name, image, magnitude, 77)[clear], slow[clear])


@pytest.mark.parametrize("name", NEAREST)
def test_nearest_and_bilinear_show_the_same_place(name: str) -> None:
    image = smooth()
    nearest, bilinear = (operate(PAPER, name, image, 6.0, 0, how).astype(int) for how in INTERPOLATIONS)
    inside = operate(PAPER, name, np.full_like(image, 255), 6.0, 0, "bilinear") == 255
    assert inside.mean() > 0.7
    assert np.abs(nearest - bilinear)[inside].max() <= 2
    assert not np.array_equal(nearest, bilinear)


@pytest.mark.parametrize("name", NEAREST)
def test_nearest_invents_no_level_and_bilinear_does(name: str) -> None:
    image = (texture(64, 64) > 127).astype(np.uint8) * 255
    only = OperationSet({name: PAPER.entries[name]}, fill=255)
    nearest, bilinear = (RandAugment(1, 9.0, how, only)(image, np.random.default_rng(0)) for how in INTERPOLATIONS)
    assert set(np.unique(nearest)) == {0, 255}
    assert len(set(np.unique(bilinear))) > 2


def test_one_operation_in_two_is_left_out_where_the_set_says_so() -> None:
    drawn: list[tuple[str, float]] = []

    def recorder(name: str, signed: bool) -> Entry:
        def record(image: Pixels, argument: float, around: Surroundings) -> Pixels:
            drawn.append((name, argument))
            return image

        return Entry(record, lambda magnitude, size: magnitude, signed)

    entries = {"Either": recorder("Either", True), "One": recorder("One", False)}
    augment = RandAugment(2, 9.0, "nearest", OperationSet(entries, one_in=2))
    image, rng = texture(), np.random.default_rng(0)
    for _ in range(8_000):
        augment(image, rng)
    counts = Counter(drawn)
    # 16,000 operations drawn; the standard deviation is below 64.
    assert counts.keys() == {("Either", 9.0), ("Either", -9.0), ("One", 9.0)}
    assert abs(counts["Either", 9.0] - 2_000) < 5 * 64
    assert abs(counts["Either", -9.0] - 2_000) < 5 * 64
    assert abs(counts["One", 9.0] - 4_000) < 5 * 64


def test_the_settings_choose_the_set() -> None:
    def configured(**settings: object) -> RandAugment:
        augment = RandAugment.configured(Augmentation.model_validate(settings))
        assert augment is not None
        return augment

    assert configured().operations is PAPER
    assert configured(randaugment_set="timm").operations is TIMM
    assert configured(randaugment_set="torchvision").operations is TORCHVISION
    svhn = configured(randaugment_set="official", randaugment_translate=4.0, randaugment_cutout=8.0)
    assert argument(svhn.operations, "TranslateX", 5.0) == 2
    assert argument(svhn.operations, "Cutout", 5.0) == 4
    assert RandAugment.configured(Augmentation(randaugment_ops=0)) is None


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_the_settings_are_those_of_the_pictures(interpolation: Interpolation) -> None:
    settings = {"randaugment_ops": 3, "randaugment_magnitude": 7.0, "randaugment_interpolation": interpolation}
    configured = RandAugment.configured(Augmentation.model_validate(settings))
    assert configured is not None
    by_hand, image = RandAugment(3, 7.0, interpolation), texture()
    one, other = np.random.default_rng(0), np.random.default_rng(0)
    for _ in range(50):
        np.testing.assert_array_equal(configured(image, one), by_hand(image, other))
