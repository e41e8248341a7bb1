"""The clean view and the noisy view of a decoded picture."""

import tracemalloc

import cv2
import numpy as np
import pytest

from ns_core.data.randaugment import Pixels, RandAugment
from ns_core.data.transforms import TrainView, eval_view, random_area_box


def texture(height: int, width: int) -> Pixels:
    shape = height // 8 + 2, width // 8 + 2, 3
    blobs = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    return cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC)


def gradient(height: int, width: int) -> Pixels:
    """Red grows from 0 to 250 to the right, green downwards: a pixel tells where it came from."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 0] = np.linspace(0, 250, width).round()
    image[:, :, 1] = np.linspace(0, 250, height).round()[:, None]
    return image


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# The clean view


def test_a_picture_of_the_right_size_comes_back_unchanged() -> None:
    np.testing.assert_array_equal(eval_view(texture(32, 32), 32, 1.0), texture(32, 32))


@pytest.mark.parametrize("crop_pct", [0.5, 0.875, 0.95, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 3), (31, 33), (47, 200), (406, 50)])
def test_the_clean_view_is_a_square_of_the_size(shape: tuple[int, int], crop_pct: float) -> None:
    for size in (1, 32, 65):
        view = eval_view(texture(*shape), size, crop_pct)
        assert view.shape == (size, size, 3)
        assert view.dtype == np.uint8
        assert view.flags.c_contiguous


@pytest.mark.parametrize("size", [112, 113, 320])
@pytest.mark.parametrize("shape", [(240, 320), (320, 241), (64, 64), (64, 65), (65, 64), (64, 500)])
def test_the_clean_view_is_the_centre_at_the_scale_of_the_short_side(
    shape: tuple[int, int],
    size: int,
) -> None:
    view = eval_view(gradient(*shape), size, 0.875).astype(float)
    source_pixels = min(shape) / round(size / 0.875)
    for channel, side in ((0, shape[1]), (1, shape[0])):
        step = 250 / (side - 1) * source_pixels
        profile = view[:, :, channel].mean(axis=channel)
        assert profile.mean() == pytest.approx(125, abs=0.5 * step + 0.5)
        assert profile[-1] - profile[0] == pytest.approx((size - 1) * step, abs=step + 2)


@pytest.mark.parametrize("side", [50, 300])
def test_the_clean_view_of_a_square_is_resized_then_cropped(side: int) -> None:
    how = cv2.INTER_AREA if side > 128 else cv2.INTER_CUBIC
    whole = cv2.resize(texture(side, side), (128, 128), interpolation=how)
    np.testing.assert_array_equal(eval_view(texture(side, side), 112, 0.875), whole[8:-8, 8:-8])


def test_shrinking_averages_what_a_pixel_covers() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert (eval_view(stripes, 32, 1.0) == 100).all()


def test_growing_is_cubic() -> None:
    expected = cv2.resize(texture(20, 20), (64, 64), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(eval_view(texture(20, 20), 64, 1.0), expected)


def test_a_long_strip_is_not_blown_up() -> None:
    """Resized as a whole these would take 200 MB."""
    for strip in (gradient(1, 1_000), gradient(1_000, 1)):
        tracemalloc.start()
        eval_view(strip, 224, 0.875)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert 224 * 224 * 3 < peak < 2_000_000


# The noisy view


def plain(size: int, **changes: object) -> TrainView:
    settings = {
        "min_area": 1.0,
        "max_area": 1.0,
        "hflip": 0.0,
        "pad": 0,
        "randaugment": None,
    } | changes
    return TrainView(size, **settings)


def test_without_noise_a_picture_of_the_right_size_comes_back_unchanged() -> None:
    for seed in range(20):
        np.testing.assert_array_equal(plain(32)(texture(32, 32), rng(seed)), texture(32, 32))


def test_the_full_area_means_all_of_the_picture_and_no_chance() -> None:
    views = [plain(64)(gradient(200, 90), rng(seed)) for seed in range(5)]
    assert all(np.array_equal(views[0], view) for view in views)
    assert views[0][:, 0, 0].max() <= 3
    assert views[0][:, -1, 0].min() >= 247
    assert views[0][0, :, 1].max() <= 3
    assert views[0][-1, :, 1].min() >= 247


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (500, 3), (24, 24), (32, 32), (406, 500)])
def test_the_noisy_view_is_a_square_of_the_size_asked_for(shape: tuple[int, int]) -> None:
    view = TrainView(32, 0.08, 1.0, 0.5, 4, RandAugment(2, 27.0))
    image, generator = texture(*shape), rng()
    image.setflags(write=False)
    for _ in range(200):
        result = view(image, generator)
        assert result.shape == (32, 32, 3)
        assert result.dtype == np.uint8
        assert result.flags.c_contiguous


def test_the_same_seed_gives_the_same_view() -> None:
    view = TrainView(32, 0.08, 1.0, 0.5, 4, RandAugment(2, 9.0))
    image = texture(80, 70)
    views = [view(image, rng(seed)).tobytes() for seed in range(50)]
    assert views == [view(image, rng(seed)).tobytes() for seed in range(50)]
    assert len(set(views)) == 50


def test_the_flip_has_the_probability_asked_for() -> None:
    image = gradient(32, 32)

    def flipped(probability: float) -> int:
        view, generator = plain(32, hflip=probability), rng()
        results = [view(image, generator) for _ in range(1_000)]
        flips = [np.array_equal(result, image[:, ::-1]) for result in results]
        assert sum(np.array_equal(result, image) for result in results) == 1_000 - sum(flips)
        return sum(flips)

    assert flipped(0.0) == 0
    assert flipped(1.0) == 1_000
    assert abs(flipped(0.5) - 500) < 5 * 16  # the standard deviation is 16


def test_areas_keep_to_their_bounds_and_are_uniform_within_them() -> None:
    image, generator = gradient(300, 400), rng()
    boxes = [random_area_box(image, 0.2, 0.6, generator) for _ in range(4_000)]
    areas = np.array([box.height * box.width / (300 * 400) for box in boxes])
    assert 0.195 < areas.min() < 0.205
    assert 0.595 < areas.max() < 0.605
    quarters = np.histogram(areas, bins=[0, 0.3, 0.4, 0.5, 1])[0]
    assert all(abs(count - 1_000) < 5 * 28 for count in quarters), quarters


def test_aspects_are_log_uniform_between_three_quarters_and_four_thirds() -> None:
    generator = rng()
    boxes = [random_area_box(gradient(400, 400), 0.1, 0.4, generator) for _ in range(4_000)]
    aspects = np.log([box.width / box.height for box in boxes]) / np.log(4 / 3)
    assert -1.03 < aspects.min() < -0.97
    assert 0.97 < aspects.max() < 1.03
    quarters = np.histogram(aspects, bins=[-2, -0.5, 0, 0.5, 2])[0]
    assert all(abs(count - 1_000) < 5 * 40 for count in quarters), quarters


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 100), (100, 100), (300, 20)])
def test_a_box_lies_inside_the_picture(shape: tuple[int, int]) -> None:
    generator = rng()
    boxes = [random_area_box(gradient(*shape), 0.08, 1.0, generator) for _ in range(2_000)]
    assert all(box.top >= 0 and box.left >= 0 and box.height > 0 and box.width > 0 for box in boxes)
    assert max(box.top + box.height for box in boxes) <= shape[0]
    assert max(box.left + box.width for box in boxes) <= shape[1]


def test_a_box_can_reach_every_edge() -> None:
    generator = rng()
    boxes = [random_area_box(gradient(100, 100), 0.2, 0.3, generator) for _ in range(2_000)]
    assert min(box.top for box in boxes) == min(box.left for box in boxes) == 0
    assert max(box.top + box.height for box in boxes) == 100
    assert max(box.left + box.width for box in boxes) == 100


def test_a_picture_too_long_for_any_box_gives_its_centre() -> None:
    assert random_area_box(gradient(30, 3_000), 0.9, 1.0, rng()) == (0, 1_480, 30, 40)
    assert random_area_box(gradient(3_000, 30), 0.9, 1.0, rng()) == (1_480, 0, 40, 30)


def test_the_view_shows_the_area_that_was_drawn() -> None:
    view, image, generator = plain(64, min_area=0.25, max_area=0.25), gradient(256, 256), rng()
    for _ in range(200):
        shown = view(image, generator).astype(int)
        wide, tall = shown[0, -1, 0] - shown[0, 0, 0], shown[-1, 0, 1] - shown[0, 0, 1]
        assert wide * tall / 250**2 == pytest.approx(0.25, abs=0.02)
        assert 0.7 < wide / tall < 1.43


def test_the_padded_crop_moves_by_up_to_pad_pixels_and_reflects() -> None:
    image, pad, generator = texture(32, 32), 2, rng()
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    places = {
        padded[top : top + 32, left : left + 32].tobytes(): (top, left)
        for top in range(2 * pad + 1)
        for left in range(2 * pad + 1)
    }
    view = plain(32, pad=pad)
    seen = [places[view(image, generator).tobytes()] for _ in range(1_000)]
    assert set(seen) == set(places.values())


def test_randaugment_comes_last_and_sees_the_square() -> None:
    def mark(image: Pixels, magnitude: float, fill: int) -> Pixels:
        assert image.shape == (32, 32, 3)
        return np.full_like(image, fill)

    view = plain(32, hflip=1.0, pad=2, randaugment=RandAugment(1, 9.0, fill=33, ops={"Mark": mark}))
    assert (view(texture(50, 60), rng()) == 33).all()


def test_strong_shrinking_does_not_alias() -> None:
    """Every eighth column white: a bilinear read of two neighbours would see all or nothing."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::8] = 240
    assert (plain(32)(stripes, rng()) == 30).all()
