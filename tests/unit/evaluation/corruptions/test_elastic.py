"""The elastic transform: within one level of the original, written out here, from the same random draws.

imagecorruptions-imaug is no oracle here: its `elastic_transform` is another algorithm, two to five times weaker.
"""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import gaussian_filter1d, map_coordinates
from scipy.stats import ks_2samp
from skimage.filters import gaussian

from ns_core.evaluation.corruptions.elastic import Level, _smooth, _stretched, elastic_transform
from ns_core.evaluation.corruptions.pixels import Pixels
from ns_core.evaluation.corruptions.tables import LEVELS
from tests.unit.evaluation.corruptions.pictures import extremes, photographs

TIERS = (32, 64, 224, 299)


def original(
    image: Pixels, level: Level, jumps: npt.NDArray[np.float32], fields: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """The official function, with what it draws handed in."""
    picture = np.array(image, dtype=np.float32) / 255.0
    shape = picture.shape
    center_square = np.float32(shape[:2]) // 2
    square_size = min(shape[:2]) // 3
    pts1 = np.float32(
        [
            center_square + square_size,
            [center_square[0] + square_size, center_square[1] - square_size],
            center_square - square_size,
        ]
    )
    affine = cv2.getAffineTransform(pts1, pts1 + jumps)
    picture = cv2.warpAffine(picture, affine, shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)
    dx, dy = (
        (gaussian(field.astype(float), level[1], mode="reflect", truncate=3) * level[0]).astype(np.float32)[..., None]
        for field in fields
    )
    x, y, z = np.meshgrid(np.arange(shape[1]), np.arange(shape[0]), np.arange(shape[2]))
    indices = np.reshape(y + dy, (-1, 1)), np.reshape(x + dx, (-1, 1)), np.reshape(z, (-1, 1))
    moved = map_coordinates(picture, indices, order=1, mode="reflect").reshape(shape)
    return np.uint8(np.clip(moved, 0, 1) * 255)


def draws(level: Level, height: int, width: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    jumps = rng.uniform(-level[2], level[2], (3, 2)).astype(np.float32)
    return jumps, rng.uniform(-1, 1, (2, height, width)).astype(np.float32)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("severity", range(1, 6))
def test_every_level_is_within_one_of_the_original_from_the_same_draws(tier: int, severity: int) -> None:
    level = LEVELS["elastic_transform"][tier][severity - 1]
    for image in (*photographs(tier, tier), extremes(tier, tier), photographs(40, 61)[0], photographs(61, 8)[1]):
        jumps, fields = draws(level, *image.shape[:2], seed=severity)
        ours = _stretched(image, level, jumps, fields if level[0] > 0 else None).astype(int)
        assert np.abs(ours - original(image, level, jumps, fields)).max() <= 1


def test_smoothing_is_the_filter_that_ends_at_three_sigma_and_mirrors_the_edges() -> None:
    field = np.random.default_rng(0).random((40, 23), dtype=np.float32)
    for sigma in (0.9, 6.4, 170.8):
        expected = field.astype(float)
        for axis in (0, 1):
            expected = gaussian_filter1d(expected, sigma, axis=axis, mode="reflect", truncate=3)
        np.testing.assert_allclose(_smooth(field, 2, sigma), 2 * expected, atol=1e-5)


@pytest.mark.parametrize(("tier", "severity"), [(32, 2), (224, 2), (224, 5)])
def test_the_change_has_the_law_of_the_originals(tier: int, severity: int) -> None:
    image = photographs(64, 64)[0]
    level = LEVELS["elastic_transform"][tier][severity - 1]
    ours, theirs = [], []
    for seed in range(150):
        ours.append(np.abs(elastic_transform(image, level, np.random.default_rng(seed)).astype(int) - image).mean())
        other = original(image, level, *draws(level, 64, 64, seed + 10_000)).astype(int)
        theirs.append(np.abs(other - image).mean())
    assert ks_2samp(ours, theirs).pvalue > 0.001


def test_levels_of_strength_zero_are_the_affine_map_alone_and_draw_six_numbers() -> None:
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    elastic_transform(photographs(32, 32)[0], LEVELS["elastic_transform"][32][0], rng)
    same.uniform(size=6)
    assert rng.bit_generator.state == same.bit_generator.state


def test_one_generator_gives_one_picture_in_any_thread_and_leaves_the_input_alone() -> None:
    image = photographs(64, 48)[0].copy()
    image.setflags(write=False)
    level = LEVELS["elastic_transform"][64][2]
    alone = [elastic_transform(image, level, np.random.default_rng(seed)) for seed in range(32)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: elastic_transform(image, level, np.random.default_rng(seed)), range(32)))
    np.testing.assert_array_equal(together, alone)
    assert len({one.tobytes() for one in alone}) == 32
