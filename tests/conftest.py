"""What every test may use: one compute thread, unhurried examples, and a small dataset made once a session."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from ns_core.config import DataConfig
from tests.factories import settled, stage_context
from tests.prefect_server import prefect_server


def pytest_configure() -> None:
    """Before torch is loaded: two OpenMP threads beside a busy core are 30 times slower than one.

    Nor does a busy core make an example of hypothesis fail for taking longer than the one before.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    settings.register_profile("unhurried", deadline=None)
    settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Digests and copies that a test leaves are not for the next session, nor for the person's own runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Prefect server's API, with a database of the session."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as api:
        yield api


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits as a dataset artifact: 50 labelled, 1,587 pool, 60 holdout and 100 test images."""
    from ns_core.data import prepare

    context = stage_context(tmp_path_factory.mktemp("digits"))
    prepare.run(DataConfig(holdout_images=60, test_images=100, shard_images=400), context)
    return settled(context)
