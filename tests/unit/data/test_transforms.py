"""The clean view and the noisy view of a picture, decoded or encoded."""

import tracemalloc
from io import BytesIO
from itertools import product

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image
from sklearn.datasets import load_sample_image

from ns_core.data import transforms
from ns_core.data.images import CorruptImage, decode, dimensions, encode_png
from ns_core.data.randaugment import Pixels, RandAugment
from ns_core.data.randaugment.operation import Surroundings
from ns_core.data.randaugment.sets import Entry, OperationSet
from ns_core.data.transforms import TrainView, eval_view, random_area_box


def texture(height: int, width: int) -> Pixels:
    blobs = np.random.default_rng(1).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC)


def gradient(height: int, width: int) -> Pixels:
    """Red grows from 0 to 250 to the right, green downwards: a pixel tells where it came from."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 0] = np.linspace(0, 250, width).round()
    image[:, :, 1] = np.linspace(0, 250, height).round()[:, None]
    return image


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def plain(size: int, **changes: object) -> TrainView:
    settings = {"min_area": 1.0, "max_area": 1.0, "hflip": 0.0, "pad": 0, "randaugment": None}
    return TrainView(size, **settings | changes)


def jpeg(image: Pixels, **options: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **{"quality": 90} | options)
    return buffer.getvalue()


def noisy(size: int) -> TrainView:
    return TrainView(size, 0.08, 1.0, 0.5, 4, RandAugment(2, 27.0, "bilinear"))


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
def test_the_clean_view_is_the_centre_at_the_scale_of_the_short_side(shape: tuple[int, int], size: int) -> None:
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


def test_without_noise_a_picture_of_the_right_size_comes_back_unchanged() -> None:
    for seed in range(20):
        np.testing.assert_array_equal(plain(32)(texture(32, 32), rng(seed)), texture(32, 32))


def test_the_full_area_means_all_of_the_picture_and_no_chance() -> None:
    first, *others = [plain(64)(gradient(200, 90), rng(seed)) for seed in range(5)]
    assert all(np.array_equal(first, view) for view in others)
    assert max(first[:, 0, 0].max(), first[0, :, 1].max()) <= 3
    assert min(first[:, -1, 0].min(), first[-1, :, 1].min()) >= 247


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (500, 3), (24, 24), (32, 32), (406, 500)])
def test_the_noisy_view_is_a_square_of_the_size_asked_for(shape: tuple[int, int]) -> None:
    image, generator = texture(*shape), rng()
    image.setflags(write=False)
    for _ in range(200):
        result = noisy(32)(image, generator)
        assert result.shape == (32, 32, 3)
        assert result.dtype == np.uint8
        assert result.flags.c_contiguous


def test_the_same_seed_gives_the_same_view() -> None:
    image, data = texture(80, 70), jpeg(texture(300, 400))
    for make in (lambda seed: noisy(32)(image, rng(seed)), lambda seed: noisy(32).encoded(data, rng(seed))):
        views = [make(seed).tobytes() for seed in range(50)]
        assert views == [make(seed).tobytes() for seed in range(50)]
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
    generator = rng()
    boxes = [random_area_box((300, 400), 0.2, 0.6, generator) for _ in range(4_000)]
    areas = np.array([box.height * box.width / (300 * 400) for box in boxes])
    assert 0.195 < areas.min() < 0.205
    assert 0.595 < areas.max() < 0.605
    quarters = np.histogram(areas, bins=[0, 0.3, 0.4, 0.5, 1])[0]
    assert all(abs(count - 1_000) < 5 * 28 for count in quarters), quarters


def test_aspects_are_log_uniform_between_three_quarters_and_four_thirds() -> None:
    generator = rng()
    boxes = [random_area_box((400, 400), 0.1, 0.4, generator) for _ in range(4_000)]
    aspects = np.log([box.width / box.height for box in boxes]) / np.log(4 / 3)
    assert -1.03 < aspects.min() < -0.97
    assert 0.97 < aspects.max() < 1.03
    quarters = np.histogram(aspects, bins=[-2, -0.5, 0, 0.5, 2])[0]
    assert all(abs(count - 1_000) < 5 * 40 for count in quarters), quarters


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 100), (100, 100), (300, 20)])
def test_a_box_lies_inside_the_picture(shape: tuple[int, int]) -> None:
    generator = rng()
    boxes = [random_area_box(shape, 0.08, 1.0, generator) for _ in range(2_000)]
    assert all(box.top >= 0 and box.left >= 0 and box.height > 0 and box.width > 0 for box in boxes)
    assert max(box.top + box.height for box in boxes) <= shape[0]
    assert max(box.left + box.width for box in boxes) <= shape[1]


def test_a_box_can_reach_every_edge() -> None:
    generator = rng()
    boxes = [random_area_box((100, 100), 0.2, 0.3, generator) for _ in range(2_000)]
    assert min(box.top for box in boxes) == min(box.left for box in boxes) == 0
    assert max(box.top + box.height for box in boxes) == 100
    assert max(box.left + box.width for box in boxes) == 100


def test_a_picture_too_long_for_any_box_gives_its_centre() -> None:
    assert random_area_box((30, 3_000), 0.9, 1.0, rng()) == (0, 1_480, 30, 40)
    assert random_area_box((3_000, 30), 0.9, 1.0, rng()) == (1_480, 0, 40, 30)


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
    corners = list(product(range(2 * pad + 1), repeat=2))
    places = {padded[top : top + 32, left : left + 32].tobytes(): (top, left) for top, left in corners}
    view = plain(32, pad=pad)
    seen = [places[view(image, generator).tobytes()] for _ in range(1_000)]
    assert set(seen) == set(places.values())


def test_randaugment_comes_last_and_sees_the_square() -> None:
    def mark(image: Pixels, argument: float, around: Surroundings) -> Pixels:
        assert image.shape == (32, 32, 3)
        return np.full_like(image, around.fill)

    marks = OperationSet({"Mark": Entry(mark)}, fill=33)
    view = plain(32, hflip=1.0, pad=2, randaugment=RandAugment(1, 9.0, "bilinear", marks))
    assert (view(texture(50, 60), rng()) == 33).all()


def test_strong_shrinking_does_not_alias() -> None:
    """Every eighth column white: a bilinear read of two neighbours would see all or nothing."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::8] = 240
    assert (plain(32)(stripes, rng()) == 30).all()


# The noisy view of a file


def decibels(one: Pixels, other: Pixels) -> float:
    """Peak signal to noise ratio; 99 between equals."""
    return -20 * np.log10(np.sqrt(np.mean((one / 255 - other / 255) ** 2)) + 10**-4.95)


def test_a_file_that_is_decoded_whole_gives_the_view_of_its_picture() -> None:
    image, turned = texture(150, 180), Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    odd = jpeg(image)[:-2] + bytes(9) + jpeg(image)[-2:]  # libjpeg-turbo warns, Pillow reads it
    for data in (jpeg(image), jpeg(image[:, :, 0]), jpeg(image, exif=turned), encode_png(image), odd):
        view = noisy(32 if data == odd or dimensions(data) is None else 96)
        for seed in range(100):
            ours, theirs = rng(seed), rng(seed)
            np.testing.assert_array_equal(view.encoded(data, ours), view(decode(data), theirs))
            assert ours.bit_generator.state == theirs.bit_generator.state


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_a_file_that_is_decoded_at_a_scale_gives_nearly_the_view_of_its_picture(name: str) -> None:
    data = jpeg(np.asarray(load_sample_image(name)))
    assert 32 < decibels(plain(96).encoded(data, rng()), plain(96)(decode(data), rng())) < 45
    view, alike = plain(32, min_area=0.08, hflip=0.5, pad=2), []
    for seed in range(100):
        alike.append(decibels(view.encoded(data, ours := rng(seed)), view(decode(data), theirs := rng(seed))))
        assert ours.bit_generator.state == theirs.bit_generator.state
    assert min(alike) > 22
    assert 29.5 < np.median(alike) < 40


def test_a_scaled_box_shows_the_place_that_was_drawn() -> None:
    """The last rows and columns of 1,001 x 1,203 fill an eighth of a scaled pixel: no scale is exact."""
    data, view = jpeg(gradient(1_001, 1_203), quality=100, subsampling=0), plain(64, min_area=0.08)
    for seed in range(50):
        whole, scaled = view(decode(data), rng(seed)), view.encoded(data, rng(seed))
        assert np.abs(whole[:, :, :2].astype(int) - scaled[:, :, :2]).max() <= 4


@pytest.mark.parametrize("size", [1, 19, 64])
def test_nothing_grows_that_does_not_grow_when_decoded_whole(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: list[tuple[int, int]] = []
    resize = transforms._resize

    def record(image: Pixels, height: int, width: int, linear_to: float = 1) -> Pixels:
        boxes.append(image.shape[:2])
        return resize(image, height, width, linear_to)

    monkeypatch.setattr(transforms, "_resize", record)
    view, data, scaled = plain(size, min_area=0.02), jpeg(texture(255, 777)), 0
    picture = decode(data)
    for seed in range(500):
        boxes.clear()
        view(picture, rng(seed))
        view.encoded(data, rng(seed))
        whole, ours = boxes
        assert min(ours) >= min(size, *whole)
        scaled += ours != whole
    assert scaled > 100


def test_a_file_cut_short_is_corrupt_at_every_scale() -> None:
    data = jpeg(texture(300, 400))
    for size, end in product((16, 224), (0, 100, len(data) // 2, len(data) - 50)):
        with pytest.raises(CorruptImage):
            plain(size).encoded(data[:end], rng())
