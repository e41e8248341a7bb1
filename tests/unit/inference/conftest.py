"""The labelled digits, as they are read for labelling."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ns_core.data.image_source import ImageSource
from ns_core.data.index import DatasetIndex
from ns_core.data.reading import ShardReader
from ns_core.data.rows import OneHot, Rows, rows_of


@pytest.fixture
def source(digits_folder: Path) -> Iterator[ImageSource]:
    """Nothing decoded is kept."""
    with ShardReader(digits_folder) as reader:
        yield ImageSource(reader, 0)


@pytest.fixture
def rows(digits_folder: Path) -> Rows:
    """50 images."""
    split = DatasetIndex.load(digits_folder).split("labeled")
    return rows_of(split, OneHot(split.labels, 10))
