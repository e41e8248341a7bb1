"""The corruptions: official parameters, one result for one seed, harm that grows with severity."""

import colorsys
import hashlib
from functools import cache
from itertools import pairwise

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from ns_core.evaluation.corruptions import CORRUPTIONS, SEVERITIES, Pixels, corrupt, sample_seed, tier

TIERS = (32, 64, 224, 299)

GOLDEN = {
    "gaussian_noise": "cec2789f3b3eb148934e726deb3fe8794945b83c155c353ba990628d117c0d73",
    "shot_noise": "e8d1c9fa38d88a80eba0437994733a528af624390505add2fe73fa6033af4279",
    "impulse_noise": "8abb1fc4048684ce02e3857112a6eb3fee7bb0b57af318d631487f2e644fa47b",
    "defocus_blur": "ea6ab71b2e199ed2b39baea28e4bd9616306d31bb66a6331c37ee58e1181205a",
    "brightness": "4b0a3f2cd7bbd0ff0022bb821542eb961c6ab97ea15d8e968cfed642e6ebfdf8",
    "contrast": "fd9bf6f27ebafcb3ed66c02b4c80ab2e616b638f8df7c32b86e7f6de7d7f5e6f",
    "pixelate": "34daf3b49a30f7d6dad46ba64ce5b9b8d0dec1d925ea327f53d647b89b3fb848",
    "jpeg_compression": "64617e63e38c5b8095d4cd6e07a8930b2a7f815d47d975535c0cb87b13811955",
}
"""sha256 of the pixels of `integer_picture()` at severity 3, tier 32. Noise depends on numpy's Generator,
whose stream a new numpy may change; the tests of the laws below tell such a change from a mistake."""


def picture(height: int, width: int, seed: int = 0) -> Pixels:
    """Smooth waves, of another period in each channel."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 3 + seed) + np.cos(y / 5), np.sin((x + y) / 4), np.cos(x / 7 - seed) * np.sin(y / 2)]
    return np.asarray(np.stack([127.5 + 60 * wave for wave in waves], axis=2), dtype=np.uint8)


@cache
def photographs(size: int) -> tuple[Pixels, ...]:
    """scikit-learn's two photographs, square."""
    squares = [load_sample_image(name)[:420, :420] for name in ("china.jpg", "flower.jpg")]
    small = [cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA) for square in squares]
    return tuple(np.asarray(image, dtype=np.uint8) for image in small)


def integer_picture() -> Pixels:
    """32 x 32 by integer arithmetic alone, so that it is the same on every machine."""
    y, x = np.mgrid[:32, :32]
    channels = [(7 * x + 3 * y) % 256, (5 * x * y) % 256, (x * x + 11 * y) % 256]
    return np.asarray(np.stack(channels, axis=2), dtype=np.uint8)


def run(image: Pixels, name: str, severity: int, size: int, seed: int = 0) -> Pixels:
    return corrupt(image, name, severity, np.random.default_rng(seed), size)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_one_seed_gives_one_result(name: str) -> None:
    image = picture(32, 32)
    assert np.array_equal(run(image, name, 3, 32, seed=5), run(image, name, 3, 32, seed=5))


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise"])
def test_another_seed_gives_other_noise(name: str) -> None:
    image = picture(32, 32)
    assert not np.array_equal(run(image, name, 3, 32, seed=5), run(image, name, 3, 32, seed=6))


@pytest.mark.parametrize("name", ["defocus_blur", "brightness", "contrast", "pixelate", "jpeg_compression"])
def test_corruptions_without_noise_draw_nothing(name: str) -> None:
    rng = np.random.default_rng(0)
    corrupt(picture(32, 32), name, 3, rng, 32)
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


@pytest.mark.parametrize("size", TIERS)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_mean_error_on_photographs_grows_with_severity(name: str, size: int) -> None:
    images = photographs(size)
    errors = [
        np.mean([np.abs(run(image, name, severity, size).astype(int) - image).mean() for image in images])
        for severity in SEVERITIES
    ]
    assert errors[0] > 0
    assert all(mild < harsh for mild, harsh in pairwise(errors)), errors


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(("height", "width"), [(32, 48), (50, 31), (8, 8)])
def test_any_shape_comes_back_as_a_new_writable_byte_image(name: str, height: int, width: int) -> None:
    image = picture(height, width)
    before = image.copy()
    result = run(image, name, 5, 32)
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    result[:] = 0
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_view_gives_the_same_as_its_copy(name: str) -> None:
    view = picture(40, 64)[4:36, ::2]
    assert np.array_equal(run(view, name, 3, 32), run(view.copy(), name, 3, 32))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_pixels_of_severity_3_are_the_recorded_ones(name: str) -> None:
    rng = np.random.default_rng(sample_seed(0, name, 3, "golden"))
    pixels = corrupt(integer_picture(), name, 3, rng, 32)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == GOLDEN[name]


def test_every_corruption_has_a_recorded_result() -> None:
    assert set(GOLDEN) == set(CORRUPTIONS)


def test_order_and_batch_do_not_change_an_image() -> None:
    images = {f"image-{index}": picture(32, 32, index) for index in range(4)}
    tasks = [(name, severity, key) for name in CORRUPTIONS for severity in (1, 5) for key in images]

    def once(name: str, severity: int, key: str) -> bytes:
        rng = np.random.default_rng(sample_seed(7, name, severity, key))
        return corrupt(images[key], name, severity, rng, 32).tobytes()

    forward = {task: once(*task) for task in tasks}
    backward = {task: once(*task) for task in reversed(tasks)}
    assert forward == backward


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
        run(picture(32, 32), "gausian_noise", 1, 32)


def test_severity_0_does_not_pass_for_severity_5() -> None:
    with pytest.raises(AssertionError, match="severity 0"):
        run(picture(32, 32), "contrast", 0, 32)


def test_gaussian_noise_has_the_official_deviation() -> None:
    grey = np.full((224, 224, 3), 128, dtype=np.uint8)
    for size, sigma in ((32, 0.08), (64, 0.12), (224, 0.18)):
        deviation = run(grey, "gaussian_noise", 3, size).astype(float).std() / 255
        assert deviation == pytest.approx(sigma, rel=0.02)


def test_shot_noise_varies_as_the_square_root_of_the_light() -> None:
    for level in (32, 128):
        grey = np.full((224, 224, 3), level, dtype=np.uint8)
        deviation = run(grey, "shot_noise", 1, 32).astype(float).std() / 255
        assert deviation == pytest.approx((level / 255 / 500) ** 0.5, rel=0.03)


def test_impulse_noise_replaces_the_official_share_half_by_white_half_by_black() -> None:
    grey = np.full((224, 224, 3), 128, dtype=np.uint8)
    noisy = run(grey, "impulse_noise", 5, 224)
    assert (noisy == 0).mean() == pytest.approx(0.135, abs=0.005)
    assert (noisy == 255).mean() == pytest.approx(0.135, abs=0.005)
    assert ((noisy == 128) | (noisy == 0) | (noisy == 255)).all()
    assert (noisy[..., 0] != noisy[..., 1]).any(), "the channels are drawn apart"


def test_contrast_pulls_towards_each_channels_mean_and_cuts_the_fraction_off() -> None:
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[0, :, 0] = 201
    # Channel 0 has mean 100.5: at factor 0.4 its 201 becomes 140.7 and its 0 becomes 60.3.
    assert run(image, "contrast", 3, 32)[..., 0].tolist() == [[140, 140], [60, 60]]
    assert not run(image, "contrast", 3, 32)[..., 1:].any()


def test_brightness_raises_the_hsv_value_and_keeps_the_hue() -> None:
    image = picture(32, 32)
    image[:4] = 0
    image[4:8] = 255
    for severity, rise in zip(SEVERITIES, (0.05, 0.1, 0.15, 0.2, 0.3), strict=True):
        hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3) / 255]
        expected = np.array([colorsys.hsv_to_rgb(h, s, min(v + rise, 1)) for h, s, v in hsv]).reshape(image.shape)
        difference = run(image, "brightness", severity, 32) - expected * 255
        # Cutting the fraction off takes less than 1, up to the last bits of the two ways.
        assert difference.max() < 1e-6
        assert difference.min() > -1 - 1e-6


def test_defocus_spreads_a_point_into_the_official_disk() -> None:
    image = np.zeros((41, 41, 3), dtype=np.uint8)
    image[20, 20] = 255
    spread = run(image, "defocus_blur", 3, 64)[..., 0]
    # Radius 1.5 and no softening to speak of: 9 pixels share the light.
    assert np.argwhere(spread).min() == 19
    assert np.argwhere(spread).max() == 21
    assert (spread[19:22, 19:22] == 28).all()


def test_pixelate_leaves_blocks_of_the_mean_colour() -> None:
    image = picture(64, 64)
    blocks = run(image, "pixelate", 5, 64)
    means = image.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.array_equal(blocks[::2, ::2], blocks[1::2, 1::2])
    # Pillow rounds after each direction.
    assert np.abs(blocks[::2, ::2] - means).max() <= 1


@pytest.mark.parametrize(("size", "quality"), [(32, 40), (64, 25), (224, 7), (299, 5)])
def test_jpeg_is_that_of_another_codec_at_the_official_quality(size: int, quality: int) -> None:
    image = photographs(64)[0]
    _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    assert np.abs(run(image, "jpeg_compression", 5, size).astype(int) - decoded[..., ::-1]).max() <= 1
