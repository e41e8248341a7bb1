"""Lists of a dataset's pictures, and lists made of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ns_core.data.dataset import Images
from ns_core.errors import StageFailed
from ns_core.evaluation.sources import Drawn, SplitSamples, reading
from tests.evaluation_lists import Pictures, labels_of, noise
from tests.factories import training_context


@pytest.fixture
def images(digits_folder: Path, tmp_path: Path) -> Images:
    return Images.open(training_context(tmp_path, dataset=digits_folder))


def test_a_split_is_its_images_in_the_order_of_the_index(images: Images) -> None:
    samples, split = SplitSamples(images, "test"), images.index.split("test")
    assert (list(samples.keys), samples.labels.tolist()) == (split.keys.tolist(), split.labels.tolist())
    assert (samples.classes, samples.view) == (None, "clean")
    assert samples.image(5).shape == (split.heights[5], split.widths[5], 3)


def test_an_image_of_a_dataset_that_cannot_be_read_ends_the_stage(images: Images) -> None:
    samples = SplitSamples(images, "test")
    sizes = samples.rows.sizes.copy()
    sizes[3] //= 2
    samples.rows = replace(samples.rows, sizes=sizes)
    samples.image(2)
    with pytest.raises(StageFailed, match=f"image {samples.keys[3]} cannot be read"):
        samples.image(3)


def test_a_draw_of_a_draw_is_read_from_the_list_below() -> None:
    whole = Pictures(noise(9, 8, 8, 3), labels_of(9), classes=np.array([1, 2]), view="whole")
    odd = Drawn(Drawn(whole, np.array([1, 3, 5, 7])), np.array([0, 2]))
    assert list(odd.keys) == [whole.keys[1], whole.keys[5]]
    assert odd.labels.tolist() == [1, 5]
    assert (odd.view, odd.classes) == ("whole", whole.classes)
    assert odd.image(1) is whole.pictures[5]


def test_shards_are_told_which_row_is_read_next_through_all_lists(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list[int]()
    monkeypatch.setattr("ns_core.data.read_ahead.SequentialAhead.at", lambda _, row: rows.append(row))
    split = SplitSamples(images, "test")
    with reading(Drawn(Drawn(split, np.array([5, 10, 20, 30])), np.array([1, 2, 3]))) as at:
        at(0)
        at(2)
    with reading(split) as at:
        at(7)
    with reading(Pictures([], labels_of(0))) as at:
        at(99)
    assert rows == [10, 30, 7]
