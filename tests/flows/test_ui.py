"""The pages over the local state: real Prefect and MLflow servers, and nothing of them left afterwards."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch
from urllib.request import urlopen

import psutil
import pytest

from flows.ui import running_api, serve
from ns_core.errors import UserError
from ns_core.tracking import Tracker

ROOT = Path(__file__).parents[2]
PROGRAM = (
    "import sys; from pathlib import Path; from flows.ui import serve; "
    "sys.exit(serve(Path(sys.argv[1]), sys.argv[1] + '/store', 0, 0))"
)
OURS = ("NS_", "PREFECT_", "MLFLOW_")
PICTURE = b"\x89PNG not much of a picture"


@dataclass
class Pages:
    """A running `serve` on free ports."""

    home: Path
    process: subprocess.Popen[str]
    addresses: dict[str, str]
    """As it printed them, by name."""

    def family(self) -> list[psutil.Process]:
        """Itself, the servers and what those started."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]


@contextmanager
def serving(home: Path) -> Iterator[Pages]:
    """Both servers up, inside the block. As from a shell's `&`, where SIGINT is ignored."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(home)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(OURS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert all(lines), process.communicate()[1]
        yield Pages(home, process, dict(line.strip().split(maxsplit=1) for line in lines))
    finally:
        process.terminate()
        process.communicate()


def get(url: str) -> tuple[int, str, bytes]:
    with urlopen(url, timeout=30) as reply:
        return reply.status, reply.headers["content-type"], reply.read()


def none_left(family: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(family, timeout=20)
    return not alive


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """`serve` sets variables for its children; here they end with the test."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def picture_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home where a run has logged a picture, and the run's id."""
    home = tmp_path_factory.mktemp("a home")
    (home / "curve.png").write_bytes(PICTURE)
    tracker = Tracker(f"sqlite:///{home}/mlflow.db", "noisy-student", home / "mlflow-spool")
    run = tracker.parent("digits", "key", {}, {})
    tracker.artifact(run, home / "curve.png", "plots")
    tracker.close()
    return home, run


@pytest.fixture(scope="module")
def pages(picture_run: tuple[Path, str]) -> Iterator[Pages]:
    with serving(picture_run[0]) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(400)
class TestServed:
    """In order: the last test stops the servers."""

    def test_both_pages_are_there_and_ask_their_own_server(self, pages: Pages) -> None:
        for name in ("Prefect", "MLflow"):
            status, kind, body = get(pages.addresses[name].partition("#")[0])
            assert (status, kind.partition(";")[0]) == (200, "text/html")
            assert b"<html" in body
        settings = json.loads(get(f"{pages.addresses['Prefect']}/ui-settings")[2])
        assert settings["api_url"] == f"{pages.addresses['Prefect']}/api"

    def test_a_picture_that_a_run_logged_can_be_seen(self, pages: Pages, picture_run: tuple[Path, str]) -> None:
        base = pages.addresses["MLflow"].partition("#")[0]
        kind, body = get(f"{base}get-artifact?path=plots/curve.png&run_uuid={picture_run[1]}")[1:]

        assert (kind, body) == ("image/png", PICTURE)

    def test_the_printed_address_is_the_experiment_of_our_runs(self, pages: Pages) -> None:
        base, _, path = pages.addresses["MLflow"].partition("#")
        experiment = path.split("/")[2]
        reply = get(f"{base}api/2.0/mlflow/experiments/get?experiment_id={experiment}")[2]

        assert json.loads(reply)["experiment"]["name"] == "noisy-student"

    def test_a_run_finds_the_api_and_a_second_ui_is_refused(self, pages: Pages) -> None:
        assert running_api(pages.home) == f"{pages.addresses['Prefect']}/api"
        with pytest.raises(UserError, match="up already"):
            serve(pages.home, str(pages.home / "store"), 0, 0)

    def test_ctrl_c_stops_both_and_leaves_nothing(self, pages: Pages) -> None:
        family = pages.family()
        assert len(family) >= 3
        pages.process.send_signal(signal.SIGINT)

        assert pages.process.wait(timeout=30) == 0
        assert none_left(family)
        assert not (pages.home / "ui.json").exists()
        assert running_api(pages.home) is None


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_when_one_server_dies_the_other_is_stopped_and_it_is_told(tmp_path: Path) -> None:
    with serving(tmp_path) as pages:
        assert (tmp_path / "mlflow.db").exists()
        family = pages.family()
        (prefect,) = (process for process in family if "prefect" in process.cmdline())
        prefect.kill()
        errors = pages.process.communicate(timeout=60)[1]
        assert none_left(family)

    assert pages.process.returncode == 1
    assert "Prefect ended by itself (exit status -9)" in errors
    assert "  Check out the dashboard at http://127.0.0.1:" in errors, "the log's last lines"
    assert not (tmp_path / "ui.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_servers_die_with_a_killed_parent_and_its_state_file_is_not_believed(tmp_path: Path) -> None:
    with serving(tmp_path) as pages:
        family = pages.family()
        pages.process.kill()
        pages.process.wait()

        assert none_left(family)
    assert (tmp_path / "ui.json").exists()
    assert running_api(tmp_path) is None


@pytest.mark.parametrize("option", ["--prefect-port", "--mlflow-port"])
def test_a_busy_port_names_itself_and_its_option(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        ports = {"--prefect-port": 0, "--mlflow-port": 0, option: port}
        with pytest.raises(UserError, match=rf"port {port} .*in use.* {option}"):
            serve(tmp_path, str(tmp_path / "store"), *ports.values())


def test_one_port_for_both_and_a_port_that_is_none_are_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    with pytest.raises(UserError, match=rf"port {port} .* --mlflow-port"):
        serve(tmp_path, str(tmp_path / "store"), port, port)
    with pytest.raises(UserError, match=r"port 70000 .*65535.* --prefect-port"):
        serve(tmp_path, str(tmp_path / "store"), 70000, 0)


def test_a_tracking_address_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NS_TRACKING_URI", "postgresql://host/mlflow")
    with pytest.raises(UserError, match="NS_TRACKING_URI"):
        serve(tmp_path, str(tmp_path / "store"), 0, 0)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"prefect_api": "http://127.0.0.1:9/api"}'])
def test_a_state_file_that_says_nothing_is_no_running_ui(tmp_path: Path, content: str) -> None:
    (tmp_path / "ui.json").write_text(content)

    assert running_api(tmp_path) is None


def test_a_server_that_does_not_answer_is_no_running_ui_and_costs_a_second(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        (tmp_path / "ui.json").write_text(json.dumps({"prefect_api": api, "pid": os.getpid()}))
        started = time.monotonic()

        assert running_api(tmp_path) is None
        assert time.monotonic() - started < 3
