"""The sequences: the official definition frame by frame, one result for one generator, any size."""

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import get_args

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import ks_2samp
from sklearn.datasets import load_sample_image

from ns_core import config
from ns_core.evaluation.perturbations import EXTRA, PERTURBATIONS, against_first, frames, sequence
from tests.unit.evaluation.perturbations import original

Pixels = npt.NDArray[np.uint8]

NOISES = ("gaussian_noise", "shot_noise", "speckle_noise")
DRAWN = (*NOISES, "snow", "spatter")


@cache
def photograph(height: int, width: int) -> Pixels:
    """Of a flower, with what no photograph has enough of in the corner: black, white and pure colours."""
    image = cv2.resize(load_sample_image("flower.jpg"), (width, height), interpolation=cv2.INTER_AREA)
    side = max(2, min(height, width) // 8)
    for place, colour in enumerate([(0, 0, 0), (255, 255, 255), (255, 0, 0), (3, 2, 0)]):
        image[:side, place * side : (place + 1) * side] = colour
    image.setflags(write=False)
    return np.asarray(image, dtype=np.uint8)


def run(image: Pixels, name: str, tier: int, seed: int = 0, difficulty: int = 1) -> npt.NDArray[np.uint8]:
    return sequence(image, name, np.random.default_rng(seed), tier, difficulty)


def distance(a: Pixels, b: Pixels) -> npt.NDArray[np.int16]:
    return np.abs(a.astype(np.int16) - b.astype(np.int16))


def test_the_perturbations_are_those_of_the_settings() -> None:
    assert get_args(config.PERTURBATIONS) == PERTURBATIONS
    assert EXTRA == ("speckle_noise", "gaussian_blur", "spatter", "shear")


def test_only_noises_are_compared_with_the_first_frame() -> None:
    assert [name for name in PERTURBATIONS if against_first(name)] == list(NOISES)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_sequences_have_the_official_number_of_frames(name: str) -> None:
    small, large = {"motion_blur": (21, 31), "translate": (16, 41)}.get(name, (31, 31))
    assert (frames(name, 32), frames(name, 64), frames(name, 224), frames(name, 299)) == (small, small, large, large)
    assert run(photograph(32, 32), name, 32).shape == (small, 32, 32, 3)
    assert run(photograph(240, 300), name, 224).shape == (large, 224, 224, 3)


@pytest.mark.parametrize("size", [(32, 32), (50, 37)])
@pytest.mark.parametrize("name", original.STILL)
def test_a_small_picture_moves_as_in_cifar_p(name: str, size: tuple[int, int]) -> None:
    image = photograph(*size)
    theirs = np.stack(list(original.STILL[name](image, False)))
    apart = distance(run(image, name, 32), theirs)
    assert apart.max() <= 1
    assert apart.mean() <= 0.03


@pytest.mark.parametrize("size", [(300, 400), (271, 256)])
@pytest.mark.parametrize("name", original.STILL)
def test_a_large_picture_moves_as_in_imagenet_p(name: str, size: tuple[int, int]) -> None:
    image = photograph(*size)
    whole = original.resized(image) if min(size) != 256 else image
    moves = name in ("zoom_blur", "translate", "rotate", "tilt", "scale", "shear")
    theirs = original.STILL[name](whole if moves else original.cropped(whole), True)
    apart = distance(run(image, name, 224), np.stack([original.cropped(one) if moves else one for one in theirs]))
    assert apart.max() <= 1
    assert apart.mean() <= 0.03


@pytest.mark.parametrize("large", [False, True])
def test_snow_falls_as_in_the_original(large: bool) -> None:
    image = photograph(300, 300) if large else photograph(32, 32)
    window = original.cropped(original.resized(image)) if large else image
    theirs = original.snow(window, large, np.random.default_rng(3))
    for ours, their in zip(run(image, "snow", 224 if large else 32, seed=3), theirs, strict=True):
        assert distance(ours, their).max() <= 1
        assert distance(ours, window).mean() > 10


@pytest.mark.parametrize("large", [False, True])
def test_water_runs_as_in_the_original(large: bool) -> None:
    image = photograph(300, 300) if large else photograph(32, 32)
    window = original.cropped(original.resized(image)) if large else image
    theirs = list(original.spatter(window, large, np.random.default_rng(3)))
    ours = run(image, "spatter", 224 if large else 32, seed=3)
    wet = [number for number, frame in enumerate(theirs) if frame.any()]
    assert len(wet) >= 20
    assert max(distance(ours[number], theirs[number]).max() for number in wet) <= 1
    assert min(distance(ours[number], window).max() for number in wet) > 50


def test_a_picture_without_a_drop_stays_dry() -> None:
    image = photograph(32, 32)
    dry = [
        (seed, number)
        for seed in range(20)
        for number, frame in enumerate(original.spatter(image, False, np.random.default_rng(seed)))
        if not frame.any()
    ]
    assert dry
    for seed, number in dry:
        np.testing.assert_array_equal(run(image, "spatter", 32, seed)[number], image)


def _defined_noise(name: str, unit: npt.NDArray[np.float64], level: float) -> Pixels:
    rng = np.random.default_rng(99)
    noisy = {
        "gaussian_noise": lambda: unit + level * rng.standard_normal(unit.shape),
        "shot_noise": lambda: rng.poisson(unit * level) / level,
        "speckle_noise": lambda: unit + unit * rng.normal(size=unit.shape, scale=level),
    }[name]()
    return np.uint8(255 * np.clip(noisy, 0, 1))


LEVELS = {
    ("gaussian_noise", 32): (0.02, 0.04, 0.06),
    ("gaussian_noise", 224): (0.03, 0.05, 0.08),
    ("shot_noise", 32): (700, 400, 200),
    ("shot_noise", 224): (300, 120, 60),
    ("speckle_noise", 32): (0.05, 0.07, 0.10),
    ("speckle_noise", 224): (0.05, 0.10, 0.15),
}


@pytest.mark.parametrize("grey", [30, 128, 250])
@pytest.mark.parametrize("difficulty", [1, 2, 3])
@pytest.mark.parametrize(("name", "tier"), LEVELS)
def test_noise_follows_the_official_law(name: str, tier: int, difficulty: int, grey: int) -> None:
    side = 256 if tier == 224 else 64
    made = run(np.full((side, side, 3), grey, np.uint8), name, tier, difficulty=difficulty)
    level = LEVELS[name, tier][difficulty - 1]
    theirs = _defined_noise(name, np.full((10, 64, 64, 3), grey / 255), level).reshape(-1)
    ours = made[1:11, :64, :64].reshape(-1)
    # A deviation that is wrong by a twentieth gives 1e-20.
    assert ks_2samp(ours, theirs).pvalue > 1e-4
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)


@pytest.mark.parametrize("name", NOISES)
def test_noise_starts_with_the_clean_picture(name: str) -> None:
    large, small = photograph(300, 400), photograph(50, 37)
    np.testing.assert_array_equal(run(large, name, 224)[0], original.cropped(original.resized(large)))
    np.testing.assert_array_equal(run(small, name, 32)[0], small)


@pytest.mark.parametrize("name", NOISES)
def test_noise_is_drawn_anew_for_each_frame_and_channel(name: str) -> None:
    grey = np.full((96, 96, 3), 100, np.uint8)
    grain = run(grey, name, 64)[1:].astype(np.float64) - 100
    layers = grain.transpose(0, 3, 1, 2).reshape(90, -1)
    likeness = np.corrcoef(layers) - np.eye(90)
    assert np.abs(likeness).max() < 5 / np.sqrt(layers.shape[1])


@pytest.mark.parametrize("name", [name for name in PERTURBATIONS if name not in NOISES])
def test_difficulty_does_not_change_what_is_not_noise(name: str) -> None:
    image = photograph(28, 28)
    np.testing.assert_array_equal(run(image, name, 32, difficulty=3), run(image, name, 32))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_one_generator_gives_one_sequence(name: str) -> None:
    image = photograph(50, 37)
    np.testing.assert_array_equal(run(image, name, 32, seed=5), run(image, name, 32, seed=5))
    assert (name in DRAWN) == bool((run(image, name, 32, seed=5) != run(image, name, 32, seed=6)).any())


@pytest.mark.parametrize("name", [name for name in PERTURBATIONS if name not in DRAWN])
def test_what_is_not_random_draws_nothing(name: str) -> None:
    rng = np.random.default_rng(1)
    before = copy.deepcopy(rng.bit_generator.state)
    sequence(photograph(28, 28), name, rng, 32)
    assert rng.bit_generator.state == before


@pytest.mark.parametrize(
    ("size", "tier"), [((8, 8), 32), ((28, 28), 32), ((32, 32), 32), ((50, 37), 32), ((64, 64), 64), ((96, 128), 64)]
)
@pytest.mark.parametrize("name", PERTURBATIONS)
def test_small_pictures_keep_their_size_and_are_not_written_into(name: str, size: tuple[int, int], tier: int) -> None:
    image = photograph(*size)
    before = image.copy()
    made = run(image, name, tier)
    assert made.shape == (frames(name, tier), *size, 3)
    assert made.dtype == np.uint8
    assert made.flags.writeable
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("size", [(224, 224), (300, 400), (400, 300), (150, 600)])
@pytest.mark.parametrize("name", ["shot_noise", "snow", "translate", "tilt"])
def test_large_pictures_become_224_and_are_not_written_into(name: str, size: tuple[int, int]) -> None:
    image = photograph(*size)
    before = image.copy()
    assert run(image, name, 299).shape == (frames(name, 299), 224, 224, 3)
    np.testing.assert_array_equal(image, before)


def test_a_large_picture_turns_with_its_margin_and_a_small_one_shows_black_corners() -> None:
    white = np.full((256, 400, 3), 255, np.uint8)
    assert run(white, "translate", 224).min() == 255
    assert run(white[:32, :32], "translate", 32)[0, :, -7:].max() == 0
    assert run(white[:32, :32], "rotate", 32)[0, 0, 0].max() == 0


def test_a_picture_of_a_few_pixels_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="a picture of 7 x 32 pixels is too small to perturb: 8 a side or more"):
        run(np.zeros((32, 7, 3), np.uint8), "translate", 32)


def test_threads_make_what_one_thread_makes() -> None:
    image = photograph(64, 64)
    jobs = [(name, seed) for name in PERTURBATIONS for seed in range(3)]
    alone = [run(image, name, 64, seed) for name, seed in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: run(image, job[0], 64, job[1]), jobs))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["motion_blur", "zoom_blur", "gaussian_blur"])
def test_an_even_picture_does_not_flicker_under_a_blur(name: str) -> None:
    for level in range(0, 256, 5):
        even = np.full((16, 16, 3), level, np.uint8)
        assert run(even, name, 32)[:, 6:10, 6:10].tolist() == [even[6:10, 6:10].tolist()] * frames(name, 32)
