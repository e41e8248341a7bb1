"""The blurs: within one level of the originals, written out here, and of imagecorruptions-imaug."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from imagecorruptions import corruptions as library
from scipy.ndimage import convolve, gaussian_filter, zoom
from scipy.stats import chisquare

from ns_core.evaluation.corruptions import SEVERITIES, Pixels, corrupt
from ns_core.evaluation.corruptions.blur import glass_interior, glass_sources
from ns_core.evaluation.corruptions.motion import motion_blurred, motion_taps
from ns_core.evaluation.corruptions.tables import LEVELS
from tests.unit.evaluation.corruptions.pictures import extremes, photographs

TIERS = (32, 64, 224, 299)
SHAPES = ((40, 61), (64, 48))


def run(image: Pixels, name: str, severity: int, size: int, seed: int = 0) -> Pixels:
    return corrupt(image, name, severity, np.random.default_rng(seed), size)


def farthest(ours: Pixels, theirs: npt.NDArray[np.uint8]) -> int:
    return int(np.abs(ours.astype(int) - theirs).max())


def as_bytes(unit: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    return np.asarray(np.clip(unit, 0, 1) * 255, dtype=np.uint8)


def original_gaussian(image: Pixels, sigma: float) -> npt.NDArray[np.uint8]:
    """skimage's `gaussian(channel_axis=-1)`."""
    return as_bytes(gaussian_filter(image / 255.0, (sigma, sigma, 0), mode="nearest", truncate=4.0))


def original_defocus(image: Pixels, radius: float, alias_blur: float) -> npt.NDArray[np.uint8]:
    line = np.arange(-8, 8 + 1) if radius <= 8 else np.arange(-radius, radius + 1)
    window = (3, 3) if radius <= 8 else (5, 5)
    x, y = np.meshgrid(line, line)
    disk = np.array((x**2 + y**2) <= radius**2, dtype=np.float32)
    kernel = cv2.GaussianBlur(disk / np.sum(disk), ksize=window, sigmaX=alias_blur)
    channels = [convolve(image[..., one] / 255.0, kernel.astype(float), mode="mirror") for one in range(3)]
    return as_bytes(np.stack(channels, axis=2))


def original_zoom(image: Pixels, factors: tuple[float, ...]) -> npt.NDArray[np.uint8]:
    unit = image / 255.0
    height, width = image.shape[:2]
    total = np.zeros_like(unit)
    for factor in factors:
        rows, columns = int(np.ceil(height / factor)), int(np.ceil(width / factor))
        top, left = (height - rows) // 2, (width - columns) // 2
        layer = zoom(unit[top : top + rows, left : left + columns], (factor, factor, 1), order=1)
        top, left = (layer.shape[0] - height) // 2, (layer.shape[1] - width) // 2
        total += layer[top : top + height, left : left + width]
    return as_bytes((unit + total) / (len(factors) + 1))


def original_motion(image: Pixels, radius: float, sigma: float, angle: float) -> npt.NDArray[np.uint8]:
    """ImageMagick's `MotionBlurImage`, with its virtual pixels outside of the picture those of its edge."""
    width = int(2 * np.ceil(radius) + 1)
    weights = np.exp(-(np.arange(width) ** 2) / (2.0 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma)
    x, y = width * np.sin(np.deg2rad(angle)), width * np.cos(np.deg2rad(angle))
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    total = np.zeros(image.shape)
    for step, weight in enumerate(weights / weights.sum()):
        right, down = int(np.ceil(step * y / np.hypot(x, y) - 0.5)), int(np.ceil(step * x / np.hypot(x, y) - 0.5))
        row, column = np.clip(rows + down, 0, rows.max()), np.clip(columns + right, 0, columns.max())
        total += weight * image[row, column]
    return np.asarray(np.clip(np.rint(total), 0, 255), dtype=np.uint8)


def original_shuffle(image: Pixels, farthest: int, moves: npt.NDArray[np.uint8]) -> Pixels:
    """The official loop, its swap of numpy views included; `moves` in place of its draws, in their order."""
    x = image.copy()
    height, width = image.shape[:2]
    for turn in moves:
        draws = iter(turn.reshape(-1).tolist())
        for h in range(height - farthest, farthest, -1):
            for w in range(width - farthest, farthest, -1):
                down, right = divmod(next(draws), 2 * farthest)
                h_prime, w_prime = h + down - farthest, w + right - farthest
                x[h, w], x[h_prime, w_prime] = x[h_prime, w_prime], x[h, w]
    return x


@pytest.mark.parametrize("size", TIERS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_blurs_without_chance_are_the_originals(severity: int, size: int) -> None:
    for shape in SHAPES:
        image = extremes(*shape)
        expected = original_gaussian(image, LEVELS["gaussian_blur"][size][severity - 1])
        assert farthest(run(image, "gaussian_blur", severity, size), expected) <= 1
        expected = original_defocus(image, *LEVELS["defocus_blur"][size][severity - 1])
        assert farthest(run(image, "defocus_blur", severity, size), expected) <= 1
        expected = original_zoom(image, LEVELS["zoom_blur"][size][severity - 1])
        assert farthest(run(image, "zoom_blur", severity, size), expected) <= 1


@pytest.mark.parametrize("size", TIERS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_blur_is_the_original_at_the_angle_drawn(severity: int, size: int) -> None:
    radius, sigma = LEVELS["motion_blur"][size][severity - 1]
    for seed, shape in enumerate(((24, 40), (8, 9), (61, 30))):
        image = extremes(*shape)
        expected = original_motion(image, radius, sigma, np.random.default_rng(seed).uniform(-45, 45))
        assert farthest(run(image, "motion_blur", severity, size, seed), expected) <= 1


@pytest.mark.parametrize("angle", [-150, -135, -90, -60, -45, 0, 30, 45, 90, 120, 180])
def test_motion_goes_any_way(angle: float) -> None:
    image = extremes(30, 33)
    ours = np.asarray(np.rint(motion_blurred(image.astype(np.float32), 9, 4, angle)), dtype=np.uint8)
    assert farthest(ours, original_motion(image, 9, 4, angle)) <= 1
    layer = image[..., 0].astype(np.float32)
    assert np.array_equal(
        motion_blurred(layer, 9, 4, angle), motion_blurred(image.astype(np.float32), 9, 4, angle)[..., 0]
    )


def test_motion_looks_half_a_gaussian_ahead() -> None:
    taps = motion_taps(2, 1, 0)
    assert list(taps) == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]
    weights = np.exp([0, -0.5, -2, -4.5, -8])
    assert list(taps.values()) == pytest.approx(list(weights / weights.sum()))


@pytest.mark.parametrize("farthest_move", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shape", [(26, 41), (37, 20), (11, 12)])
def test_pixels_behind_glass_are_those_of_the_official_loop(shape: tuple[int, int], farthest_move: int) -> None:
    image = extremes(*shape)
    size = (4, *glass_interior(*shape, farthest_move))
    moves = np.random.default_rng(farthest_move).integers(4 * farthest_move**2, size=size, dtype=np.uint8)
    sources = glass_sources(*shape, farthest_move, moves)
    assert np.array_equal(
        image.reshape(-1, 3)[sources].reshape(image.shape), original_shuffle(image, farthest_move, moves)
    )


@pytest.mark.parametrize("size", TIERS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_blur_is_the_original_with_the_moves_drawn(severity: int, size: int) -> None:
    sigma, reach, rounds = LEVELS["glass_blur"][size][severity - 1]
    image = photographs(40, 52)[0]
    moves = np.random.default_rng(9).integers(
        4 * reach**2, size=(rounds, *glass_interior(40, 52, reach)), dtype=np.uint8
    )

    def blurred(picture: Pixels) -> Pixels:
        # In exact numbers an even area stays; in float64 it may lose a level to the cut in each of the two blurs.
        exact = gaussian_filter(picture / 255.0, (sigma, sigma, 0), mode="nearest", truncate=4.0) + 1e-9
        return as_bytes(exact)

    expected = blurred(original_shuffle(blurred(image), reach, moves))
    difference = np.abs(run(image, "glass_blur", severity, size, 9).astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.03


def test_pixels_come_from_all_places_in_reach_alike() -> None:
    # One round over numbered rows: a source at or before the pixel in reading order is not yet overwritten.
    reach, side = 2, 300
    size = (1, *glass_interior(side, side, reach))
    moves = np.random.default_rng(0).integers(4 * reach**2, size=size, dtype=np.uint8)
    assert chisquare(np.bincount(moves.reshape(-1), minlength=16)).pvalue > 1e-3
    sources = glass_sources(side, side, reach, moves)
    pixels = np.arange(side * side)
    direct = np.divmod(sources, side)[0] - np.divmod(pixels, side)[0]
    assert direct.min() == -reach
    assert direct.max() > reach, "a value travels on with those that copy it"
    border = np.ones((side, side), dtype=bool)
    border[reach + 1 : side - reach + 1, reach + 1 : side - reach + 1] = False
    assert np.array_equal(sources[border.reshape(-1)], pixels[border.reshape(-1)])


@pytest.mark.parametrize("name", ["defocus_blur", "zoom_blur", "gaussian_blur"])
def test_an_even_area_stays_as_it_is(name: str) -> None:
    for grey in range(256):
        area = np.full((12, 12, 3), grey, dtype=np.uint8)
        # The official disk at level 4 and 5 loses up to a thousandth of the light to its cut-off margin.
        assert farthest(run(area, name, 3, 224), area) <= (name == "defocus_blur")


def test_defocus_spreads_a_point_into_the_official_disk() -> None:
    image = np.zeros((41, 41, 3), dtype=np.uint8)
    image[20, 20] = 255
    spread = run(image, "defocus_blur", 3, 64)[..., 0]
    # Radius 1.5 and no softening to speak of: 9 pixels share the light.
    assert np.argwhere(spread).min() == 19
    assert np.argwhere(spread).max() == 21
    assert (spread[19:22, 19:22] == 28).all()


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["defocus_blur", "zoom_blur", "gaussian_blur"])
def test_the_library_agrees_within_one_level(name: str, severity: int) -> None:
    for image in photographs(168, 224):
        theirs = np.asarray(getattr(library, name)(image, severity), dtype=np.uint8)
        assert farthest(run(image, name, severity, 224), theirs) <= 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_librarys_motion_agrees_within_one_level(severity: int) -> None:
    image = photographs(168, 224)[1]
    angle = np.random.default_rng(severity).uniform(-45, 45)
    radius, sigma = LEVELS["motion_blur"][224][severity - 1]
    theirs = as_bytes(library._motion_blur(image, radius, sigma, angle) / 255)
    assert farthest(run(image, "motion_blur", severity, 224, severity), theirs) <= 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_moves_light_as_far_as_the_librarys(severity: int) -> None:
    """The spread of a bright line, over 40 seeds: the library has another generator, so only the law can be equal."""
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[:, 30:32] = 255
    ours = np.mean(
        [run(image, "glass_blur", severity, 224, seed)[16:48].mean(axis=(0, 2)) for seed in range(40)], axis=0
    )
    theirs = np.mean(
        [library.glass_blur(image, severity, seed=seed)[16:48].mean(axis=(0, 2)) for seed in range(40)],
        axis=0,
    )
    assert np.abs(ours - theirs).max() < 4
