"""The doctor's lines: what is well, what is not and what to do, and never a traceback."""

import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

import pytest

from flows.doctor import (
    Check,
    check_device,
    check_prefect,
    check_store,
    check_tracking,
    diagnose,
    show,
)


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """The doctor sets Prefect's variables as a run does; here they end with the test."""
    with patch.dict(os.environ):
        yield


def by_name(checks: list[Check]) -> dict[str, Check]:
    assert [check.name for check in checks] == [
        "python",
        "disk",
        "store",
        "tracking",
        "device",
        "prefect",
        "ui",
    ]
    assert all("\n" not in check.detail for check in checks)
    return {check.name: check for check in checks}


def test_a_fresh_home_is_well_and_no_scratch_file_stays(tmp_path: Path) -> None:
    home = tmp_path / "home"
    checks = by_name(diagnose(home, str(home / "store"), f"sqlite:///{home}/mlflow.db"))

    assert [check for check in checks.values() if not check.ok] == []
    assert "torch 2" in checks["python"].detail
    assert "cores" in checks["device"].detail
    assert checks["ui"].detail.startswith("not running")
    left = {path.name for path in home.rglob("*") if path.is_file()}
    assert "mlflow.db" not in left
    assert not any(name.startswith((".doctor", ".probe", "tmp")) for name in left)


def test_everything_wrong_at_once_is_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    home = tmp_path / "file" / "home"
    checks = by_name(diagnose(home, "s3://", "postgresql://host/db"))

    wrong = {check.name for check in checks.values() if not check.ok}
    assert wrong == {"disk", "store", "tracking", "prefect"}
    assert checks["disk"].detail == f"{home} cannot be written (Not a directory); mend that or set NS_HOME"
    assert "s3://bucket" in checks["store"].detail
    assert "sqlite:////absolute/path/mlflow.db" in checks["tracking"].detail


def test_a_store_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    check = check_store(str(tmp_path / "file" / "store"))

    assert not check.ok
    assert str(tmp_path / "file") in check.detail
    assert "choose another store" in check.detail


def test_a_database_that_is_none_and_one_that_another_holds_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.doctor.ANSWER_SECONDS", 0.1)
    database, uri = tmp_path / "mlflow.db", f"sqlite:///{tmp_path}/mlflow.db"
    database.write_text("these are no pages of a database, whatever else they may be" * 20)
    assert "not a database" in check_tracking(uri).detail

    database.unlink()
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("create table t (x)")
    assert check_tracking(uri) == Check("tracking", True, f"{database}: writable")
    holder.execute("begin immediate")
    check = check_tracking(uri)
    holder.close()

    assert (check.ok, "database is locked" in check.detail) == (False, True)


def test_a_database_whose_folder_is_missing_names_the_folder(tmp_path: Path) -> None:
    check = check_tracking(f"sqlite:///{tmp_path}/missing/mlflow.db")

    assert (check.ok, f"{tmp_path}/missing is no folder" in check.detail) == (False, True)


class Healthy(BaseHTTPRequestHandler):
    """Answers as MLflow does."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def test_a_tracking_server_is_well_when_it_answers() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert check_tracking(address) == Check("tracking", True, f"{address}: answers")
        assert not check_tracking(f"{address}/elsewhere").ok
        server.shutdown()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    check = check_tracking(closed)
    assert (check.ok, "Connection refused" in check.detail) == (False, True)


def test_a_fastapi_that_prefect_does_not_start_with_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site" / "fastapi-0.165.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: fastapi\nVersion: 0.165.0\n")
    monkeypatch.syspath_prepend(installed.parent)
    check = check_prefect(tmp_path)

    assert not check.ok
    assert "fastapi 0.165.0" in check.detail
    assert "fastapi>=0.139,<0.151" in check.detail


def test_a_torch_that_crashes_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("import os; os.kill(os.getpid(), 11)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = check_device()

    assert (check.ok, check.detail) == (False, "torch does not load (exit status -11); install it again")


def test_the_exit_status_is_1_when_anything_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    well, ill = Check("disk", True, "/home: writable"), Check("store", False, "s3://x is away")

    assert show([well]) == 0
    assert capsys.readouterr().out == "ok    disk  /home: writable\n"
    assert show([well, ill]) == 1
    assert capsys.readouterr().out == "ok    disk   /home: writable\nFAIL  store  s3://x is away\n"
