"""What holds for all corruptions: one result for one seed, in any thread; any shape; harm that grows."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest

from ns_core import config
from ns_core.evaluation.corruptions import (
    CORRUPTIONS,
    EXTRA,
    LEAST_SIDE,
    SEVERITIES,
    Pixels,
    corrupt,
    sample_seed,
    tier,
)
from tests.unit.evaluation.corruptions.pictures import photographs, waves, whole_numbers

TIERS = (32, 64, 224, 299)
WITHOUT_CHANCE = (
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "gaussian_blur",
    "saturate",
)

GOLDEN = {
    "gaussian_noise": "cec2789f3b3eb148934e726deb3fe8794945b83c155c353ba990628d117c0d73",
    "shot_noise": "43299018eb5fb6b54ed79a8f1de19169feda0c84418dcb6d3c3ffe4a3091250e",
    "impulse_noise": "8abb1fc4048684ce02e3857112a6eb3fee7bb0b57af318d631487f2e644fa47b",
    "contrast": "fd9bf6f27ebafcb3ed66c02b4c80ab2e616b638f8df7c32b86e7f6de7d7f5e6f",
    "pixelate": "34daf3b49a30f7d6dad46ba64ce5b9b8d0dec1d925ea327f53d647b89b3fb848",
    "jpeg_compression": "64617e63e38c5b8095d4cd6e07a8930b2a7f815d47d975535c0cb87b13811955",
    "speckle_noise": "8b36422f0ef0bf8a4c1a2dbd573dd5cf98c41e1220367d6ca80f14048daa9132",
}
"""sha256 of the pixels of `whole_numbers()` at severity 3, tier 32, for corruptions that no vector unit can round
otherwise. A new numpy may draw other noise; the laws' own tests tell that from a mistake."""

FLAT: dict[str, dict[int, tuple[int, ...]]] = {
    # More blur after the moves smooths what they did, and moves get farther in fewer rounds.
    "glass_blur": {32: (3, 5), 64: (2, 4), 224: (4,), 299: (2, 4)},
    # (6, 2) and (8, 2): the taps end at 13 of 17 pixels, at 6 sigma.
    "motion_blur": {32: (4,)},
    # Flakes grow from 2 to 4 times, and fewer pass the higher threshold.
    "snow": {32: (3,), 224: (3,), 299: (3,)},
    # The picture's share falls while the ice's stays.
    "frost": {32: (4, 5), 64: (3,), 224: (4,), 299: (4,)},
    # The affine map's jumps, which move most, shrink from level to level as the waves grow; from 244 * 0.2 to
    # 244 * 0.02 between 2 and 3.
    "elastic_transform": {32: (2, 3, 4, 5), 64: (2, 3, 4, 5), 224: (3, 4), 299: (3, 4)},
    # From water to mud.
    "spatter": {32: (4,), 64: (4,)},
    # 1 and 2 take colour away, 3 to 5 add it.
    "saturate": {32: (3,), 64: (3,), 224: (3,), 299: (3,)},
}
"""name -> tier -> severities that, with the official parameters, do not change a picture more than the one before."""


def run(image: Pixels, name: str, severity: int, size: int, seed: int = 0) -> Pixels:
    return corrupt(image, name, severity, np.random.default_rng(seed), size)


def test_the_names_are_those_of_the_settings() -> None:
    assert get_args(config.CORRUPTIONS) == CORRUPTIONS
    assert CORRUPTIONS[15:] == EXTRA == ("speckle_noise", "gaussian_blur", "spatter", "saturate")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_one_seed_gives_one_result_and_leaves_its_input(name: str) -> None:
    image = waves(40, 33)
    before = image.copy()
    image.flags.writeable = False
    for size in TIERS:
        for severity in SEVERITIES:
            once = run(image, name, severity, size, seed=5)
            assert np.array_equal(once, run(image, name, severity, size, seed=5)), (size, severity)
            assert (once.shape, once.dtype) == (image.shape, image.dtype)
            assert not np.shares_memory(once, image)
            once[:] = 0
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - set(WITHOUT_CHANCE)))
def test_another_seed_gives_another_picture(name: str) -> None:
    image = photographs(64, 64)[0]
    assert not np.array_equal(run(image, name, 3, 64, seed=5), run(image, name, 3, 64, seed=6))


@pytest.mark.parametrize("name", WITHOUT_CHANCE)
def test_corruptions_without_chance_draw_nothing(name: str) -> None:
    rng = np.random.default_rng(0)
    corrupt(waves(32, 32), name, 3, rng, 32)
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_numpys_global_generator_is_left_alone(name: str) -> None:
    np.random.seed(3)
    before = run(waves(32, 32), name, 3, 32)
    state = np.random.get_state(legacy=False)["state"]["key"]
    np.random.seed(4)
    assert np.array_equal(run(waves(32, 32), name, 3, 32), before)
    np.random.seed(3)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], state)


@pytest.mark.parametrize("size", TIERS)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_harm_grows_with_severity_but_where_the_official_tables_stand_still(name: str, size: int) -> None:
    pictures = [(image, seed) for image in photographs(size, size) for seed in range(4)]
    harms = [
        np.mean([np.abs(run(image, name, severity, size, seed).astype(int) - image).mean() for image, seed in pictures])
        for severity in SEVERITIES
    ]
    assert harms[0] > 0
    for severity, (mild, harsh) in enumerate(pairwise(harms), start=2):
        if severity in FLAT.get(name, {}).get(size, ()):
            assert harsh < 1.1 * mild, (severity, harms)
        else:
            assert harsh > mild, (severity, harms)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(("height", "width"), [(32, 48), (50, 31), (8, 8), (8, 300), (23, 9)])
def test_any_shape_comes_back_at_every_tier(name: str, height: int, width: int) -> None:
    image = waves(height, width)
    for size in TIERS:
        for severity in SEVERITIES:
            assert run(image, name, severity, size).shape == image.shape, (size, severity)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_view_gives_the_same_as_its_copy(name: str) -> None:
    view = waves(80, 64)[4:76:2, ::2][:, ::-1]
    assert np.array_equal(run(view, name, 3, 32), run(view.copy(), name, 3, 32))


@pytest.mark.parametrize("name", GOLDEN)
def test_pixels_of_severity_3_are_the_recorded_ones(name: str) -> None:
    rng = np.random.default_rng(sample_seed(0, name, 3, "golden"))
    pixels = corrupt(whole_numbers(), name, 3, rng, 32)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == GOLDEN[name]


def test_order_and_threads_do_not_change_an_image() -> None:
    images = {f"image-{index}": waves(48, 40, index) for index in range(4)}
    tasks = [(name, severity, key) for name in CORRUPTIONS for severity in SEVERITIES for key in images]

    def once(task: tuple[str, int, str]) -> bytes:
        name, severity, key = task
        rng = np.random.default_rng(sample_seed(7, name, severity, key))
        return corrupt(images[key], name, severity, rng, 64).tobytes()

    # Threads first, so that they are the ones to fill the caches, at once.
    with ThreadPoolExecutor(8) as pool:
        together = dict(zip(tasks[::-1], pool.map(once, tasks[::-1]), strict=True))
    assert together == {task: once(task) for task in tasks}


def test_sample_seeds_differ_in_every_part_and_stay_the_same_for_ever() -> None:
    base = (0, "gaussian_noise", 1, "a")
    others = [(1, *base[1:]), (0, "shot_noise", 1, "a"), (0, "gaussian_noise", 2, "a"), (*base[:3], "b")]
    assert len({sample_seed(*base), *(sample_seed(*other) for other in others)}) == 5
    # The parts are kept apart: severity 1 of key "1a" is not severity 11 of key "a".
    assert sample_seed(0, "x", 1, "1a") != sample_seed(0, "x", 11, "a")
    assert sample_seed(*base) == 7755436327490749650


def test_tier_follows_the_short_side() -> None:
    sides = (8, 48, 49, 144, 145, 260, 261, 800)
    assert [tier(side) for side in sides] == [32, 32, 64, 64, 224, 224, 299, 299]


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ValueError, match="'gausian_noise' \\(did you mean 'gaussian_noise'\\?\\)"):
        run(waves(32, 32), "gausian_noise", 1, 32)


def test_an_image_that_is_too_small_is_refused_with_its_size() -> None:
    with pytest.raises(ValueError, match="40 x 7 pixels is too small to corrupt: 8 a side or more"):
        run(waves(LEAST_SIDE - 1, 40), "contrast", 1, 32)


def test_the_ice_is_drawn_unless_photographs_are_asked_for() -> None:
    image = photographs(64, 64)[0]
    drawn, asked, photographed = (
        corrupt(image, "frost", 3, np.random.default_rng(0), 64, *ice) for ice in ((), ("drawn",), ("photographs",))
    )
    assert np.array_equal(drawn, asked)
    assert not np.array_equal(drawn, photographed)


def test_severity_0_does_not_pass_for_severity_5() -> None:
    with pytest.raises(AssertionError, match="severity 0"):
        run(waves(32, 32), "contrast", 0, 32)
