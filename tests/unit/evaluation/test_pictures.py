"""Pictures: PNG files of a readable size that show the data they were given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ns_core.evaluation import pictures
from tests.example_document import example_document, supervised_document

Draw = Callable[[Path], None]

CONFIDENCE = np.random.default_rng(0).beta(4, 1, 500).astype(np.float32)
KEPT = CONFIDENCE >= 0.6
TEACHER = {"gaussian_noise": {"1": 0.3, "5": 0.5}, "contrast": {"1": 0.2, "5": 0.3}}
STUDENT = {"gaussian_noise": {"1": 0.2, "5": 0.4}, "contrast": {"1": 0.2, "5": 0.4}}


def pixels(tmp_path: Path, draw: Draw) -> NDArray[np.uint8]:
    """The decoded picture, uint8[H,W,3]."""
    path = tmp_path / "picture.png"
    draw(path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def accuracy(document: dict[str, Any]) -> Draw:
    return lambda path: pictures.accuracy_by_generation(path, document)


def histogram(confidence: NDArray[np.float32], kept: NDArray[np.bool_], lowest: float) -> Draw:
    return lambda path: pictures.confidence_histogram(path, confidence, kept, lowest)


def flat(red: int, height: int = 8, width: int = 8) -> NDArray[np.uint8]:
    """An image of one shade of red: text is grey, so none of its pixels looks like it."""
    return np.full((height, width, 3), (red, 0, 0), np.uint8)


def gallery(groups: list[tuple[str, list[tuple[NDArray[np.uint8], float]]]]) -> Draw:
    return lambda path: pictures.pseudo_label_gallery(path, groups)


CHARTS: dict[str, Draw] = {
    "accuracy": accuracy(example_document()),
    "accuracy of a run without generations": accuracy(supervised_document()),
    "histogram": histogram(CONFIDENCE, KEPT, 0.6),
    "corruptions": lambda path: pictures.corruption_bars(path, TEACHER, STUDENT),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_a_png_about_900_pixels_wide(tmp_path: Path, name: str) -> None:
    height, width, _ = pixels(tmp_path, CHARTS[name]).shape
    assert 850 <= width <= 950
    assert 250 <= height <= 700


@pytest.mark.parametrize("name", CHARTS)
def test_the_same_data_give_the_same_picture(tmp_path: Path, name: str) -> None:
    np.testing.assert_array_equal(pixels(tmp_path, CHARTS[name]), pixels(tmp_path, CHARTS[name]))


def other_accuracy() -> dict[str, Any]:
    document = example_document()
    document["generations"][1]["student"]["test_top1"] = 0.8
    return document


def other_verdict() -> dict[str, Any]:
    document = example_document()
    document["generations"][1]["gate"]["verdict"] = "promote"
    return document


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("accuracy", accuracy(other_accuracy())),
        ("accuracy", accuracy(other_verdict())),
        ("histogram", histogram(np.sqrt(CONFIDENCE), KEPT, 0.6)),
        ("histogram", histogram(CONFIDENCE, CONFIDENCE >= 0.8, 0.6)),
        ("histogram", histogram(CONFIDENCE, KEPT, 0.3)),
        ("corruptions", lambda path: pictures.corruption_bars(path, TEACHER, TEACHER)),
    ],
)
def test_other_data_give_another_picture(tmp_path: Path, name: str, other: Draw) -> None:
    one, another = pixels(tmp_path, CHARTS[name]), pixels(tmp_path, other)
    assert one.shape != another.shape or (one != another).any()


def test_bars_show_the_mean_over_severities_of_corruptions_that_both_have(tmp_path: Path) -> None:
    spread = {"gaussian_noise": {"1": 0.1, "5": 0.7}, "contrast": {"3": 0.25}, "unknown": {"1": 1.0}}
    np.testing.assert_array_equal(
        pixels(tmp_path, lambda path: pictures.corruption_bars(path, TEACHER, STUDENT)),
        pixels(tmp_path, lambda path: pictures.corruption_bars(path, spread, STUDENT)),
    )


def test_everything_kept_and_everything_at_one_confidence_can_be_drawn(tmp_path: Path) -> None:
    sure = np.ones(10, np.float32)
    assert pixels(tmp_path, histogram(sure, np.ones(10, bool), 1.0)).std() > 0


def places(picture: NDArray[np.uint8], red: int) -> NDArray[np.int64]:
    """Row and column, [N,2], of the pixels that show `flat(red)`."""
    return np.argwhere((picture == (red, 0, 0)).all(axis=2))


def test_the_gallery_enlarges_tiny_images_to_the_thumbnail_without_blurring_them(tmp_path: Path) -> None:
    halves = np.concatenate([flat(120, width=4), flat(180, width=4)], axis=1)
    picture = pixels(tmp_path, gallery([("a", [(halves, 0.9)])]))
    assert len(places(picture, 120)) == len(places(picture, 180)) == pictures.THUMBNAIL**2 // 2


def test_the_gallery_shrinks_large_images_and_keeps_their_shape(tmp_path: Path) -> None:
    found = places(pixels(tmp_path, gallery([("a", [(flat(77, height=300, width=600), 0.9)])])), 77)
    height, width = found.max(axis=0) - found.min(axis=0) + 1
    assert (height, width) == (pictures.THUMBNAIL // 2, pictures.THUMBNAIL)


def test_each_class_of_the_gallery_has_a_row_and_each_image_a_place_in_it(tmp_path: Path) -> None:
    groups = [("a", [(flat(61), 0.9), (flat(71), 0.7)]), ("b", [(flat(81), 0.8)])]
    picture = pixels(tmp_path, gallery(groups))
    first, second, below = (places(picture, red).mean(axis=0) for red in (61, 71, 81))
    assert first[0] == second[0] < below[0]
    assert first[1] == below[1] < second[1]


def test_classes_beyond_the_limit_are_a_note_and_not_rows(tmp_path: Path) -> None:
    limit = pictures.GALLERY_CLASSES
    groups = [(f"class {number}", [(flat(61 if number < limit else 81), 0.9)]) for number in range(limit + 99)]
    full, more = pixels(tmp_path, gallery(groups[:limit])), pixels(tmp_path, gallery(groups))
    assert len(places(full, 61)) == len(places(more, 61)) == limit * pictures.THUMBNAIL**2
    assert len(places(more, 81)) == 0
    assert 0 < more.shape[0] - full.shape[0] < 2 * pictures.THUMBNAIL


@pytest.mark.parametrize("name", ["", "$x_1$ & <b>", "名前", "far too long a name for its column " * 5])
def test_any_class_name_can_be_written_and_stays_clear_of_the_images(tmp_path: Path, name: str) -> None:
    picture = pixels(tmp_path, gallery([(name, [(flat(61), 0.5)]), ("without an image", [])]))
    found = places(picture, 61)
    assert len(found) == pictures.THUMBNAIL**2
    left, row = found[:, 1].min(), found[:, 0]
    assert (picture[row.min() : row.max(), left - 8 : left] == 255).all()
