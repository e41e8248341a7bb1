"""Labelling in slices gives what one call gives, and stops between them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ns_core.config import ComputeConfig
from ns_core.data.dataset import Images
from ns_core.data.index import DatasetIndex
from ns_core.data.rows import OneHot, Rows, rows_of
from ns_core.inference import watched
from ns_core.inference.labelling import Labeller
from ns_core.inference.watched import WatchedLabeller
from ns_core.models.checkpoint import ModelCard
from ns_core.models.factory import create_network
from ns_core.models.fast import fast_predictor
from ns_core.stage import Stopped
from tests.factories import TINY_MODEL, training_context

BATCH, BAD = 9, (5, 40)


@pytest.fixture
def holdout(digits_folder: Path, tmp_path: Path) -> tuple[Labeller, Rows]:
    """60 images of which two cannot be read, and a labeller that gives features too."""
    folder = Path(shutil.copytree(digits_folder, tmp_path / "damaged"))
    split = DatasetIndex.load(folder).split("holdout")
    for row in BAD:
        with (folder / split.shard_names[split.shard_codes[row]]).open("r+b") as stream:
            stream.seek(int(split.offsets[row]))
            stream.write(b"no picture")
    context = training_context(tmp_path, dataset=folder)
    context.compute = ComputeConfig(threads=1)
    torch.manual_seed(0)
    card = ModelCard(model=TINY_MODEL, class_names=tuple("0123456789"), train_size=16, test_size=16, crop_pct=1)
    predictor = fast_predictor(create_network(TINY_MODEL, 10).eval(), card, torch.device("cpu"), features=True)
    labeller = Labeller(Images.open(context, pixels=0).source, predictor, (16, 1.0), BATCH, 1)
    return labeller, rows_of(split, OneHot(split.labels, 10))


@pytest.mark.parametrize(("seconds", "looks"), [(0.0, [9, 18, 27, 36, 45, 54, 60]), (1e9, [9, 60])])
def test_slices_give_the_numbers_of_one_call(
    holdout: tuple[Labeller, Rows], monkeypatch: pytest.MonkeyPatch, seconds: float, looks: list[int]
) -> None:
    monkeypatch.setattr(watched, "_SECONDS", seconds)
    labeller, rows = holdout
    slices, done = WatchedLabeller(labeller, BATCH, lambda: False), list[int]()
    found = slices.label(rows, lambda: done.append(slices.pace.images))
    expected = labeller.label(rows)
    assert found.features is not None
    assert expected.features is not None
    np.testing.assert_array_equal(found.logits, expected.logits)
    np.testing.assert_array_equal(found.features, expected.features)
    assert found.unreadable == expected.unreadable
    assert tuple(found.unreadable) == BAD
    assert done == looks


def test_it_stops_between_batches(holdout: tuple[Labeller, Rows], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "_SECONDS", 0.0)
    labeller, rows = holdout
    with pytest.raises(Stopped):
        WatchedLabeller(labeller, BATCH, lambda: labeller.pace.images >= 20).label(rows)
    assert labeller.pace.images == 27
