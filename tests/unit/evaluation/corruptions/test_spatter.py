"""Spatter: within one level of the original, written out here, and of imagecorruptions-imaug, from the same draws."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from imagecorruptions import corruptions as library
from PIL import Image
from scipy.stats import ks_2samp
from skimage.filters import gaussian

from ns_core.evaluation.corruptions.pixels import Pixels
from ns_core.evaluation.corruptions.spatter import Level, _spattered, spatter
from ns_core.evaluation.corruptions.tables import LEVELS
from tests.unit.evaluation.corruptions.pictures import extremes, photographs

TIERS = (32, 64, 224, 299)


def original(image: Pixels, level: Level, draw: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """The official function, with what it draws handed in."""
    x = np.array(image, dtype=np.float32) / 255.0
    liquid_layer = gaussian(level[0] + level[1] * draw, sigma=level[2])
    liquid_layer[liquid_layer < level[3]] = 0
    if level[5] == 0:
        liquid_layer = (liquid_layer * 255).astype(np.uint8)
        dist = 255 - cv2.Canny(liquid_layer, 50, 150)
        dist = cv2.distanceTransform(dist, cv2.DIST_L2, 5)
        _, dist = cv2.threshold(dist, 20, 20, cv2.THRESH_TRUNC)
        dist = cv2.blur(dist, (3, 3)).astype(np.uint8)
        dist = cv2.equalizeHist(dist)
        dist = cv2.filter2D(dist, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
        dist = cv2.blur(dist, (3, 3)).astype(np.float32)
        m = cv2.cvtColor(liquid_layer * dist, cv2.COLOR_GRAY2BGRA)
        m /= np.max(m, axis=(0, 1))
        m *= level[4]
        water = np.float32([175, 238, 238]) / 255.0
        return np.uint8(np.clip(x + m[..., :3] * water, 0, 1) * 255)
    m = gaussian(np.where(liquid_layer > level[3], 1, 0).astype(np.float32), sigma=level[4])
    m[m < 0.8] = 0
    mud = np.array([63, 42, 20]) / 255.0
    return np.uint8(np.clip(x * (1 - m[..., np.newaxis]) + mud * m[..., np.newaxis], 0, 1) * 255)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("severity", range(1, 6))
def test_every_level_is_within_one_of_the_original_from_the_same_draws(tier: int, severity: int) -> None:
    level = LEVELS["spatter"][tier][severity - 1]
    for seed, image in enumerate((*photographs(tier, tier), extremes(tier, tier), photographs(90, 61)[0])):
        draw = np.random.default_rng(seed).standard_normal(image.shape[:2])
        ours, theirs = _spattered(image, level, draw), original(image, level, draw)
        assert np.abs(ours.astype(int) - theirs).max() <= 1
        assert (np.abs(ours.astype(int) - image) > 1).any()


@pytest.mark.parametrize("severity", range(1, 6))
def test_photographs_are_within_one_of_the_librarys(severity: int) -> None:
    level = LEVELS["spatter"][224][severity - 1]
    for image in photographs(224, 224):
        draw = np.random.RandomState(severity).normal(size=(224, 224), loc=level[0], scale=level[1])
        np.random.seed(severity)
        theirs = np.uint8(library.spatter(Image.fromarray(image), severity))
        ours = _spattered(image, level, (draw - level[0]) / level[1])
        assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize(("tier", "severity"), [(32, 2), (32, 4), (224, 3), (224, 5)])
def test_the_change_has_the_law_of_the_originals(tier: int, severity: int) -> None:
    image = photographs(64, 64)[0]
    level = LEVELS["spatter"][tier][severity - 1]
    ours, theirs = [], []
    for seed in range(150):
        ours.append(np.abs(spatter(image, level, np.random.default_rng(seed)).astype(int) - image).mean())
        draw = np.random.default_rng(seed + 10_000).standard_normal((64, 64))
        theirs.append(np.abs(original(image, level, draw).astype(int) - image).mean())
    assert ks_2samp(ours, theirs).pvalue > 0.001


def test_a_picture_without_a_drop_stays_dry_where_the_originals_turn_it_black() -> None:
    image = extremes(32, 32)
    level = LEVELS["spatter"][32][0]
    dry = np.zeros((32, 32))
    with np.errstate(invalid="ignore"):
        assert original(image, level, dry).max() == 0
    assert np.abs(_spattered(image, level, dry).astype(int) - image).max() <= 1


def test_one_generator_gives_one_picture_in_any_thread_and_leaves_the_input_alone() -> None:
    image = photographs(64, 48)[0].copy()
    image.setflags(write=False)
    for level in LEVELS["spatter"][64]:
        alone = [spatter(image, level, np.random.default_rng(seed)) for seed in range(16)]
        with ThreadPoolExecutor(8) as pool:
            together = list(
                pool.map(lambda seed, level=level: spatter(image, level, np.random.default_rng(seed)), range(16))
            )
        np.testing.assert_array_equal(together, alone)
