"""A pool of 120 images of 4 classes, and its labels."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ns_core.data.index import DatasetIndex, SplitIndex
from tests.factories import hashed_probabilities, label_folder, pool_without_pictures

IMAGES, CLASSES = 120, 4


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return pool_without_pictures(tmp_path / "dataset", IMAGES, CLASSES)


@pytest.fixture
def pool(dataset: Path) -> SplitIndex:
    return DatasetIndex.load(dataset).split("pool")


@pytest.fixture
def probabilities(pool: SplitIndex) -> NDArray[np.float32]:
    """Class 3 is rare: two thirds of its images lean to class 0."""
    scores = hashed_probabilities(pool.keys, CLASSES)
    turned = (scores.argmax(axis=1) == 3) & (np.arange(IMAGES) % 3 > 0)
    scores[turned] = scores[turned][:, [3, 1, 2, 0]]
    return scores


@pytest.fixture
def labels(dataset: Path, probabilities: NDArray[np.float32], tmp_path: Path) -> Path:
    return label_folder(tmp_path / "labels", dataset, probabilities)
