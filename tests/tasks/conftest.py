"""One temporary Prefect server for the tests of this folder, its settings set before Prefect is imported."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A real server on loopback with a database of its own."""
    from flows import environment

    environment.prepare(tmp_path_factory.mktemp("prefect-home"))
    from prefect.logging.configuration import setup_logging
    from prefect.testing.utilities import prefect_test_harness

    # Otherwise a process's first flow does it, which takes the handlers away that its test listens with.
    setup_logging()
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"
