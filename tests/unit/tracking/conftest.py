"""MLflow for the tests of this folder: a sqlite file, a tracker of it, and a server of it."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ns_core.tracking import Tracker
from tests.mlflow_lines import Server, open_tracker


@pytest.fixture(autouse=True)
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database: 3 s of CPU once, and not in every test."""
    file = tmp_path_factory.mktemp("template") / "mlflow.db"
    Tracker(f"sqlite:///{file}", "template", file.parent / "spool").close()
    return file


@pytest.fixture
def database(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(template, tmp_path / "mlflow.db"))


@pytest.fixture
def tracker(database: Path) -> Iterator[Tracker]:
    made = open_tracker(database)
    yield made
    made.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The background thread does not wait between its tries."""
    for wait in ("FLUSH_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(f"ns_core.tracking.tracker.{wait}", 0.1)


@pytest.fixture
def server(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{database}")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", str(database.parent / "served"))
    for process_wide in ("_tracking_store", "_model_registry_store"):
        monkeypatch.setattr(f"mlflow.server.handlers.{process_wide}", None)
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setattr(logging.getLogger("werkzeug"), "disabled", True)
    running = Server()
    yield running
    running.stop()
