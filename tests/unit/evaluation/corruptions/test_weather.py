"""Snow and fog: as the originals, written out here, and as imagecorruptions-imaug, from the same random draws."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from imagecorruptions import corruptions as library
from scipy.ndimage import zoom
from scipy.stats import ks_2samp

from ns_core.evaluation.corruptions.motion import motion_taps
from ns_core.evaluation.corruptions.pixels import Pixels
from ns_core.evaluation.corruptions.tables import LEVELS
from ns_core.evaluation.corruptions.weather import SnowLevel, _fogged, _snowed, fog, plasma, snow
from tests.unit.evaluation.corruptions.pictures import extremes, photographs

TIERS = (32, 64, 224, 299)
OFFICIAL_MAP = {32: 32, 64: 64, 224: 256, 299: 512}
Unit = npt.NDArray[np.float64]


def original_plasma(mapsize: int, wibbledecay: float, draw: Unit) -> Unit:
    """The official `plasma_fractal`, with its uniform draws of -1 to 1 handed in."""
    maparray = np.empty((mapsize, mapsize))
    maparray[0, 0] = 0
    stepsize, wibble, used = mapsize, 100.0, 0

    def wibbledmean(array: Unit) -> Unit:
        nonlocal used
        uniform = wibble * draw[used : used + array.size].reshape(array.shape)
        used += array.size
        return array / 4 + wibble * uniform

    while stepsize >= 2:
        half = stepsize // 2
        cornerref = maparray[0:mapsize:stepsize, 0:mapsize:stepsize]
        squareaccum = cornerref + np.roll(cornerref, shift=-1, axis=0)
        squareaccum += np.roll(squareaccum, shift=-1, axis=1)
        maparray[half:mapsize:stepsize, half:mapsize:stepsize] = wibbledmean(squareaccum)
        drgrid = maparray[half:mapsize:stepsize, half:mapsize:stepsize]
        ulgrid = maparray[0:mapsize:stepsize, 0:mapsize:stepsize]
        ltsum = drgrid + np.roll(drgrid, 1, axis=0) + ulgrid + np.roll(ulgrid, -1, axis=1)
        maparray[0:mapsize:stepsize, half:mapsize:stepsize] = wibbledmean(ltsum)
        ttsum = drgrid + np.roll(drgrid, 1, axis=1) + ulgrid + np.roll(ulgrid, -1, axis=0)
        maparray[half:mapsize:stepsize, 0:mapsize:stepsize] = wibbledmean(ttsum)
        stepsize //= 2
        wibble /= wibbledecay
    assert used == draw.size
    maparray -= maparray.min()
    return maparray / maparray.max()


def original_fog(image: Pixels, level: tuple[float, float], cloud: Unit) -> npt.NDArray[np.uint8]:
    x = image / 255.0
    max_val = x.max()
    x += level[0] * cloud[: image.shape[0], : image.shape[1], np.newaxis]
    return np.uint8(np.clip(x * max_val / (max_val + level[0]), 0, 1) * 255)


def clipped_zoom(layer: Unit, factor: float) -> Unit:
    """The official function, for each side what it does for the one side of a square."""
    (h, w), ch, cw = layer.shape, *(int(np.ceil(side / factor)) for side in layer.shape)
    top, left = (h - ch) // 2, (w - cw) // 2
    layer = zoom(layer[top : top + ch, left : left + cw], (factor, factor), order=1)
    top, left = (layer.shape[0] - h) // 2, (layer.shape[1] - w) // 2
    return layer[top : top + h, left : left + w]


def magick_motion_blur(layer: npt.NDArray[np.uint8], radius: float, sigma: float, angle: float) -> Unit:
    """Rounded to bytes and back to 0 to 1, as the official function decodes it."""
    total = np.zeros(layer.shape)
    rows, columns = np.indices(layer.shape)
    for (down, right), weight in motion_taps(radius, sigma, angle).items():
        row = np.clip(rows + down, 0, layer.shape[0] - 1)
        total += weight * layer[row, np.clip(columns + right, 0, layer.shape[1] - 1)]
    return np.round(total) / 255.0


def original_snow(image: Pixels, level: SnowLevel, layer: Unit, angle: float) -> npt.NDArray[np.uint8]:
    """The official function; `layer` is its normal draw of the whole picture's size."""
    c, (h, w) = level, image.shape[:2]
    x = np.array(image, dtype=np.float32) / 255.0
    layer = clipped_zoom(layer, c[2])
    layer[layer < c[3]] = 0
    layer = magick_motion_blur((np.clip(layer, 0, 1) * 255).astype(np.uint8), c[4], c[5], angle)[..., np.newaxis]
    grey = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY).reshape(h, w, 1)
    x = c[6] * x + (1 - c[6]) * np.maximum(x, grey * 1.5 + 0.5)
    return np.uint8(np.clip(x + layer + np.rot90(layer, k=2), 0, 1) * 255)


def middle(layer: Unit, factor: float) -> Unit:
    """What the official zoom keeps of a layer."""
    (h, w), ch, cw = layer.shape, *(int(np.ceil(side / factor)) for side in layer.shape)
    return layer[(h - ch) // 2 : (h - ch) // 2 + ch, (w - cw) // 2 : (w - cw) // 2 + cw]


def farthest(ours: Pixels, theirs: npt.NDArray[np.uint8]) -> int:
    return int(np.abs(ours.astype(int) - theirs).max())


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("severity", range(1, 6))
def test_snow_is_within_one_of_the_original_from_the_same_draws(tier: int, severity: int) -> None:
    level = LEVELS["snow"][tier][severity - 1]
    shapes = (*photographs(tier, tier), extremes(tier, tier), photographs(40, 61)[0], photographs(8, 23)[1])
    for seed, image in enumerate(shapes):
        rng = np.random.default_rng(seed)
        draw, angle = rng.standard_normal(image.shape[:2]), rng.uniform(-135, -45)
        theirs = original_snow(image, level, level[0] + level[1] * draw, angle)
        assert farthest(_snowed(image, level, middle(draw, level[2]), angle), theirs) <= 1


@pytest.mark.parametrize("severity", range(1, 6))
def test_snow_is_within_three_of_the_librarys(severity: int) -> None:
    """But for the edges at severities 1, 4 and 5, where the zoom makes 225 pixels: the library blurs before it trims
    them to 224, the original after."""
    level = LEVELS["snow"][224][severity - 1]
    image = photographs(224, 224)[0]
    state = np.random.RandomState(severity)
    layer, angle = state.normal(size=(224, 224), loc=level[0], scale=level[1]), state.uniform(-135, -45)
    np.random.seed(severity)
    theirs = np.uint8(library.snow(image, severity))
    ours = _snowed(image, level, middle((layer - level[0]) / level[1], level[2]), angle)
    reach = 2 * level[4] + 1 if severity in (1, 4, 5) else 0
    inner = slice(reach, 224 - reach)
    assert farthest(ours[inner, inner], theirs[inner, inner]) <= 3


@pytest.mark.parametrize(("tier", "severity"), [(32, 1), (32, 5), (224, 2), (224, 4)])
def test_the_snow_that_lies_has_the_law_of_the_originals(tier: int, severity: int) -> None:
    """On a black picture: the share that is snowed on, and how bright."""
    black = np.zeros((64, 64, 3), dtype=np.uint8)
    level = LEVELS["snow"][tier][severity - 1]
    ours, theirs = [], []
    for seed in range(150):
        ours.append(snow(black, level, np.random.default_rng(seed)))
        rng = np.random.default_rng(seed + 10_000)
        layer, angle = rng.normal(level[0], level[1], (64, 64)), rng.uniform(-135, -45)
        theirs.append(original_snow(black, level, layer, angle))
    bare = int(255 * (1 - level[6]) * 0.5)
    for figure in (lambda one: one.mean(), lambda one: (one > bare + 1).mean()):
        assert ks_2samp([figure(one) for one in ours], [figure(one) for one in theirs]).pvalue > 0.001


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("severity", range(1, 6))
def test_fog_is_within_one_of_the_original_from_the_same_draws(tier: int, severity: int) -> None:
    level = LEVELS["fog"][tier][severity - 1]
    side = OFFICIAL_MAP[tier]
    draw = np.random.default_rng(severity).uniform(-1, 1, side * side - 1).astype(np.float32)
    ours, theirs = plasma(draw, level[1]), original_plasma(side, level[1], draw.astype(float))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for image in (*photographs(tier, tier), extremes(tier, tier), extremes(tier - 9, tier - 20)):
        assert farthest(_fogged(image, level, ours), original_fog(image, level, theirs)) <= 1


@pytest.mark.parametrize("severity", range(1, 6))
def test_fog_is_within_one_of_the_librarys(severity: int) -> None:
    level = LEVELS["fog"][224][severity - 1]
    draw = np.random.RandomState(severity).uniform(-1, 1, 256 * 256 - 1).astype(np.float32)
    for image in (*photographs(224, 224), extremes(180, 130)):
        np.random.seed(severity)
        theirs = np.uint8(library.fog(image, severity))
        assert farthest(_fogged(image, level, plasma(draw, level[1])), theirs) <= 1


@pytest.mark.parametrize(
    ("height", "width", "side"), [(8, 8, 8), (32, 32, 32), (33, 20, 64), (224, 224, 256), (299, 9, 512)]
)
def test_fogs_cloud_is_the_power_of_two_that_covers_the_longer_side(height: int, width: int, side: int) -> None:
    rng, same = np.random.default_rng(0), np.random.default_rng(0)
    foggy = fog(extremes(height, width), (1.5, 2), rng)
    cloud = plasma(2 * same.random(side * side - 1, dtype=np.float32) - 1, 2)
    assert rng.bit_generator.state == same.bit_generator.state
    np.testing.assert_array_equal(foggy, _fogged(extremes(height, width), (1.5, 2), cloud))


@pytest.mark.parametrize("decay", [1.4, 2, 3])
def test_the_cloud_has_the_law_of_the_originals(decay: float) -> None:
    ours, theirs = [], []
    for seed in range(150):
        grey = np.full((64, 64, 3), 255, dtype=np.uint8)
        ours.append(fog(grey, (3, decay), np.random.default_rng(seed)).astype(float))
        cloud = original_plasma(64, decay, np.random.default_rng(seed + 10_000).uniform(-1, 1, 64 * 64 - 1))
        theirs.append(original_fog(grey, (3, decay), cloud).astype(float))
    for figure in (np.mean, np.std, lambda one: np.abs(np.diff(one, axis=0)).mean()):
        assert ks_2samp([figure(one) for one in ours], [figure(one) for one in theirs]).pvalue > 0.001


def test_a_black_picture_stays_black_in_fog() -> None:
    black = np.zeros((16, 16, 3), dtype=np.uint8)
    assert fog(black, (3, 1.4), np.random.default_rng(0)).max() == 0


@pytest.mark.parametrize("apply", [snow, fog])
def test_one_generator_gives_one_picture_in_any_thread_and_leaves_the_input_alone(apply: type) -> None:
    image = photographs(64, 48)[0].copy()
    image.setflags(write=False)
    level = LEVELS[apply.__name__][64][3]
    alone = [apply(image, level, np.random.default_rng(seed)) for seed in range(32)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: apply(image, level, np.random.default_rng(seed)), range(32)))
    np.testing.assert_array_equal(together, alone)
    assert len({one.tobytes() for one in alone}) == 32
