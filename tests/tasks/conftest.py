"""Prefect's server for the tasks of this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prefect_server import flows_on


@pytest.fixture(scope="module")
def prefect_server(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The session's."""
    with flows_on(prefect_api, tmp_path_factory.mktemp("prefect-home")):
        yield


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"
