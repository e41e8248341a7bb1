"""Frost: the blend and the crop of the original on the photographs; the drawings beside the photographs.

imagecorruptions-imaug is no oracle here: it takes all six photographs, enlarged by a tenth.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import chisquare, ks_2samp

from ns_core.errors import UserError
from ns_core.evaluation.corruptions import ice
from ns_core.evaluation.corruptions.tables import LEVELS
from ns_core.evaluation.corruptions.weather import _frosted, frost
from tests.unit.evaluation.corruptions.pictures import extremes, photographs

FILES = ["frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg", "frost6.jpg"]
SHRUNK = {32: 0.2, 64: 0.3, 224: 1, 299: 1}


@cache
def original_sheet(index: int, size: int) -> npt.NDArray[np.uint8]:
    """The official photograph for pictures of `size` pixels, BGR, as the package brings it."""
    spec = find_spec("imagecorruptions")
    assert spec is not None
    assert spec.submodule_search_locations
    picture = cv2.imread(str(Path(spec.submodule_search_locations[0]) / "frost" / FILES[index]))
    return picture if SHRUNK[size] == 1 else cv2.resize(picture, (0, 0), fx=SHRUNK[size], fy=SHRUNK[size])


def original_ice(rng: np.random.RandomState, size: int) -> npt.NDArray[np.uint8]:
    """The official choice and crop."""
    picture = original_sheet(rng.randint(5), size)
    x_start, y_start = rng.randint(0, picture.shape[0] - size), rng.randint(0, picture.shape[1] - size)
    return picture[x_start : x_start + size, y_start : y_start + size][..., [2, 1, 0]]


@pytest.mark.parametrize("tier", [32, 64, 224, 299])
@pytest.mark.parametrize("severity", range(1, 6))
def test_the_blend_is_that_of_the_original_to_the_last_bit(tier: int, severity: int) -> None:
    c = LEVELS["frost"][tier][severity - 1]
    picture, over = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    every_pair = np.stack([picture] * 3, axis=2), np.stack([over] * 3, axis=2)
    # In twentieths, whole numbers: 0.7 * 10 is a hair below 7 in floats and so is cut to 6, a level too dark.
    twentieths = round(20 * c[0]) * every_pair[0].astype(int) + round(20 * c[1]) * every_pair[1].astype(int)
    ours = _frosted(*every_pair[:1], c, every_pair[1])
    np.testing.assert_array_equal(ours, np.minimum(twentieths // 20, 255))
    theirs = np.uint8(np.clip(c[0] * every_pair[0] + c[1] * every_pair[1], 0, 255))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("size", [32, 64, 224, 299])
def test_the_sheets_are_the_originals_photographs_at_the_originals_scale(size: int) -> None:
    for index in range(5):
        expected = original_sheet(index, size)[..., [2, 1, 0]]
        np.testing.assert_array_equal(ice.sheet(index, size, size, photographs=True), expected)


@pytest.mark.parametrize("size", [32, 224])
def test_the_pieces_of_photographs_have_the_law_of_the_originals(size: int) -> None:
    black = np.zeros((size, size, 3), dtype=np.uint8)
    ours = [frost(black, (1, 1), np.random.default_rng(seed), photographs=True) for seed in range(300)]
    state = np.random.RandomState(0)
    theirs = [original_ice(state, size) for _ in range(300)]
    for figure in (np.mean, np.std, lambda one: one[..., 2].mean() - one[..., 0].mean()):
        assert ks_2samp([figure(one) for one in ours], [figure(one) for one in theirs]).pvalue > 0.001


def test_each_of_the_five_sheets_is_as_likely() -> None:
    black, counts = np.zeros((8, 8, 3), dtype=np.uint8), np.zeros(5)
    sheets = [ice.sheet(index, 8, 8, photographs=False) for index in range(5)]
    windows = [
        {
            np.ascontiguousarray(one[y : y + 8, x : x + 8]).tobytes()
            for y in range(one.shape[0] - 8)
            for x in range(one.shape[1] - 8)
        }
        for one in sheets
    ]
    for seed in range(500):
        piece = frost(black, (1, 1), np.random.default_rng(seed), photographs=False).tobytes()
        places = [index for index, pieces in enumerate(windows) if piece in pieces]
        assert len(places) == 1
        counts[places[0]] += 1
    assert chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("index", range(5))
def test_a_drawing_has_its_photographs_size_colour_and_contrast(index: int) -> None:
    drawn, taken = ice.drawing(index), ice.photograph(index)
    assert drawn.shape == taken.shape
    np.testing.assert_allclose(drawn.mean(axis=(0, 1)), taken.mean(axis=(0, 1)), atol=2)
    grey, real = drawn.mean(axis=2), taken.mean(axis=2)
    assert grey.std() == pytest.approx(real.std(), rel=0.1)
    fine, really = (one - cv2.GaussianBlur(one, (0, 0), 8) for one in (grey, real))
    assert fine.std() == pytest.approx(really.std(), rel=0.15)


@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("severity", range(1, 6))
def test_drawn_ice_changes_a_picture_about_as_much_as_the_photographs(size: int, severity: int) -> None:
    level = LEVELS["frost"][size][severity - 1]
    changes = []
    for kind in (False, True):
        frosted = [
            frost(image, level, np.random.default_rng(seed), photographs=kind).astype(int) - image
            for image in photographs(size, size)
            for seed in range(40)
        ]
        changes.append(float(np.abs(frosted).mean()))
    assert changes[0] == pytest.approx(changes[1], rel=0.15)


def test_a_drawing_drawn_again_is_the_same() -> None:
    first = ice.drawing(3)
    ice._drawn.cache_clear()
    np.testing.assert_array_equal(ice.drawing(3), first)


@pytest.mark.parametrize("kind", [False, True])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 300), (120, 33), (315, 560), (700, 500)])
def test_any_size_is_covered_and_sheets_that_are_too_small_grow(kind: bool, height: int, width: int) -> None:
    for index in range(5):
        one = ice.sheet(index, height, width, photographs=kind)
        assert one.shape[0] > height
        assert one.shape[1] > width
    image = extremes(height, width)
    assert frost(image, (0.8, 0.6), np.random.default_rng(0), photographs=kind).shape == image.shape


def test_photographs_that_are_not_installed_are_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    ice.photograph.cache_clear()
    monkeypatch.setattr(ice, "find_spec", lambda name: None)
    with pytest.raises(UserError) as told:
        frost(extremes(224, 224), (1, 0.4), np.random.default_rng(0), photographs=True)
    assert "pip install imagecorruptions-imaug" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("kind", [False, True])
def test_one_generator_gives_one_picture_in_any_thread_and_leaves_the_input_alone(kind: bool) -> None:
    image = photographs(64, 48)[0].copy()
    image.setflags(write=False)
    for cached in (ice._drawn, ice.photograph, ice._scaled):
        cached.cache_clear()

    def frosted(seed: int) -> npt.NDArray[np.uint8]:
        return frost(image, (0.8, 0.6), np.random.default_rng(seed), photographs=kind)

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(frosted, range(32)))
    np.testing.assert_array_equal(together, [frosted(seed) for seed in range(32)])
