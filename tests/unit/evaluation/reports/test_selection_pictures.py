"""Pictures of a selection: PNG files of a readable size that show the data they were given."""

from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ns_core.evaluation.reports import selection_pictures as pictures
from ns_core.evaluation.reports.gallery import SIDE, Thumbnail, shrunk
from ns_core.evaluation.reports.selection_classes import ClassFigures
from ns_core.evaluation.reports.selection_survey import BINS, JUDGED, KEPT, LEAST_SURE, SUREST, Survey
from tests.drawings import Draw, pixels


def found(**images: int) -> Survey:
    """A survey with so many images of each outcome, all in the bin of 0.5."""
    histograms = {name: np.zeros(BINS, np.int64) for name in (KEPT, *JUDGED)}
    for name, count in images.items():
        histograms[name][BINS // 2] = count
    return Survey(histograms, np.array([0, 1]), [])


def figures(label: int, kept: int, rows: int, pool: int = 50) -> ClassFigures:
    return ClassFigures(label, f"class {label}", pool, kept, rows, dict.fromkeys(JUDGED, 0), 0.5, 0.6)


def histogram(**images: int) -> Draw:
    return partial(pictures.confidence_histogram, survey=found(**images))


def sizes(count: int, rows: int = 30) -> Draw:
    return partial(pictures.class_sizes, classes=[figures(label, 20, rows) for label in range(count)])


CHARTS: dict[str, Draw] = {
    "histogram": histogram(kept=10, class_full=5, duplicate=2, below_threshold=8),
    "few classes": sizes(10),
    "many classes": sizes(1000),
    "one class of which nothing is in the pool": partial(pictures.class_sizes, classes=[figures(0, 0, 0, 0)]),
    "nothing but kept images": histogram(kept=3),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_a_png_about_900_pixels_wide(tmp_path: Path, name: str) -> None:
    height, width, _ = pixels(tmp_path, CHARTS[name]).shape
    assert 850 <= width <= 950
    assert 250 <= height <= 700


@pytest.mark.parametrize("name", CHARTS)
def test_the_same_data_give_the_same_picture(tmp_path: Path, name: str) -> None:
    np.testing.assert_array_equal(pixels(tmp_path, CHARTS[name]), pixels(tmp_path, CHARTS[name]))


def area(picture: NDArray[np.uint8], colour: str) -> int:
    """Pixels of just this colour, legends included; the palette may be off by a little."""
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
    return int((np.abs(picture.astype(int) - wanted).max(axis=2) <= 3).sum())


@pytest.mark.parametrize("name", [KEPT, *JUDGED])
def test_a_histogram_shows_each_outcome_in_its_colour(tmp_path: Path, name: str) -> None:
    others = {other: 10 for other in (KEPT, *JUDGED) if other != name}
    colour = pictures.COLOURS[name]
    shown = area(pixels(tmp_path, histogram(**others, **{name: 10})), colour)
    assert shown > area(pixels(tmp_path, histogram(**others)), colour) + 300


def test_bars_of_classes_grow_with_their_rows(tmp_path: Path) -> None:
    some, more = (area(pixels(tmp_path, sizes(5, rows)), pictures.ORANGE) for rows in (21, 40))
    assert more > 1.5 * some


def flat(red: int, height: int = 8, width: int = 8) -> NDArray[np.uint8]:
    """An image of one shade of red: text is grey, so none of its pixels looks like it."""
    return np.full((height, width, 3), (red, 0, 0), np.uint8)


def shot(red: int, group: str = SUREST, confidence: float = 0.9) -> Thumbnail:
    """Lossless: `shrunk` takes the smaller file, which is the PNG of an image of one colour."""
    return Thumbnail(group, confidence, shrunk(flat(red)))


def gallery(shots: dict[int, list[Thumbnail]], hidden: int = 0, names: tuple[str, ...] = ()) -> Draw:
    classes = [
        ClassFigures(label, names[label] if names else f"class {label}", 9, 5, 5, {}, 0.5, 0.5) for label in range(5)
    ]
    return partial(pictures.selection_gallery, classes=classes, shots=shots, hidden=hidden)


def places(picture: NDArray[np.uint8], red: int) -> NDArray[np.int64]:
    """Row and column, [N,2], of the pixels that show `flat(red)`."""
    return np.argwhere((picture == (red, 0, 0)).all(axis=2))


def test_tiny_images_are_enlarged_without_blurring_them() -> None:
    halves = np.concatenate([flat(120, width=4), flat(180, width=4)], axis=1)
    with Image.open(BytesIO(shrunk(halves))) as image:
        assert image.format == "PNG"
        thumbnail = np.asarray(image.convert("RGB"))
    assert len(places(thumbnail, 120)) == len(places(thumbnail, 180)) == SIDE**2 // 2


def test_large_images_shrink_and_keep_their_shape() -> None:
    with Image.open(BytesIO(shrunk(flat(77, height=300, width=600)))) as image:
        assert image.size == (SIDE, SIDE // 2)


def test_a_photograph_becomes_a_jpeg() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    with Image.open(BytesIO(shrunk(noise))) as image:
        assert image.format == "JPEG"


def test_each_class_has_a_row_and_each_group_a_column(tmp_path: Path) -> None:
    shots = {0: [shot(61), shot(71), shot(91, "class_full")], 1: [shot(81), shot(101, "class_full")]}
    picture = pixels(tmp_path, gallery(shots))
    first, second, full, below, full_below = (places(picture, red).mean(axis=0) for red in (61, 71, 91, 81, 101))
    assert first[0] == second[0] == full[0] < below[0] == full_below[0]
    assert first[1] == below[1] < second[1] < full[1] == full_below[1]


def test_of_the_surest_the_first_are_shown_and_of_the_least_sure_the_last(tmp_path: Path) -> None:
    shots = [shot(61 + red) for red in range(5)] + [shot(101 + red, LEAST_SURE) for red in range(5)]
    picture = pixels(tmp_path, gallery({0: shots}))
    assert [red for red in range(256) if len(places(picture, red)) == SIDE**2] == [61, 62, 63, 103, 104, 105]


def test_classes_that_are_not_shown_are_a_note(tmp_path: Path) -> None:
    whole, more = (pixels(tmp_path, gallery({0: [shot(61)]}, hidden)) for hidden in (0, 99))
    assert 0 < more.shape[0] - whole.shape[0] < SIDE


def test_a_gallery_without_an_image_can_be_drawn(tmp_path: Path) -> None:
    assert pixels(tmp_path, gallery({})).std() > 0


@pytest.mark.parametrize("name", ["", "$x_1$ & <b>", "名前", "far too long a name for its column " * 5])
def test_any_class_name_can_be_written_and_stays_clear_of_the_images(tmp_path: Path, name: str) -> None:
    picture = pixels(tmp_path, gallery({0: [shot(61)]}, names=(name, "b", "c", "d", "e")))
    found = places(picture, 61)
    assert len(found) == SIDE**2
    left, row = found[:, 1].min(), found[:, 0]
    assert (picture[row.min() : row.max(), left - 8 : left] == 255).all()
