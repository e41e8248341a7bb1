"""Pictures: PNG files of a readable size that show the data they were given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ns_core.evaluation.reports import pictures
from tests.drawings import Draw, pixels
from tests.example_document import example_document, supervised_document


def accuracy(document: dict[str, Any]) -> Draw:
    return lambda path: pictures.accuracy_by_generation(path, document)


CHARTS: dict[str, Draw] = {
    "accuracy": accuracy(example_document()),
    "accuracy of a run without generations": accuracy(supervised_document()),
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
    ],
)
def test_other_data_give_another_picture(tmp_path: Path, name: str, other: Draw) -> None:
    one, another = pixels(tmp_path, CHARTS[name]), pixels(tmp_path, other)
    assert one.shape != another.shape or (one != another).any()
