"""`noisy-student serve`: runs from Prefect's page without a worker, on the servers of a laptop."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import psutil
import pytest
from prefect.client.base import PrefectHttpxSyncClient

from flows.recipes.digits import digits_smoke
from ns_core.storage import open_storage
from tests.flows.command import Command

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
RECIPE = digits_smoke().override(
    [
        "generations=0",
        "teacher.steps=160",
        "evaluate.corruptions=[]",
        "evaluate.perturbations=[]",
        "evaluate.fgsm_eps=[]",
        "evaluate.pgd_eps=[]",
    ]
)
"""A teacher that trains long enough to be stopped, and not much besides."""
NOWHERE = {"source": "folder", "labeled": "/nowhere", "unlabeled": "/nowhere"}


@dataclass(frozen=True)
class Served:
    """A running `serve` whose page can be used."""

    command: Command
    process: "subprocess.Popen[str]"
    api: httpx.Client

    def deployment(self, name: str = "noisy-student/campaign") -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/deployments/name/{name}").raise_for_status().json()
        return found

    def start(self, recipe: dict[str, Any]) -> str:
        """What the form's button sends."""
        body = {"parameters": {"recipe": recipe}, "state": {"type": "SCHEDULED"}}
        made = self.api.post(f"/deployments/{self.deployment()['id']}/create_flow_run", json=body)
        return str(made.raise_for_status().json()["id"])

    def read(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/flow_runs/{run}").raise_for_status().json()
        return found

    def set_state(self, run: str, state: dict[str, str], force: bool = False) -> None:
        """What the buttons Retry and Cancel send."""
        self.api.post(f"/flow_runs/{run}/set_state", json={"state": state, "force": force}).raise_for_status()

    def until(self, true: Any, what: str, seconds: float = 600.0) -> None:
        deadline = monotonic() + seconds
        while monotonic() < deadline and self.process.poll() is None:
            with suppress(httpx.HTTPError):
                if true():
                    return
            sleep(0.5)
        log = self.command.home / "logs" / "serve.log"
        pytest.fail(f"{what}: not so; the last words:\n{log.read_text(encoding='utf-8')[-4000:]}")

    def ended(self, run: str) -> dict[str, Any]:
        self.until(lambda: self.read(run)["state"]["type"] in ENDED, "the run ends")
        return self.read(run)

    def workers(self) -> list[psutil.Process]:
        """Processes of stages."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "ns_core.worker" in process.cmdline():
                    found.append(process)
        return found


@contextmanager
def serving(command: Command) -> Iterator[Served]:
    """`serve` on free ports, stopped after the block if it is not by then."""
    process = command.start("serve", "--prefect-port", "0", "--mlflow-port", "0")
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert all(lines), process.communicate()[1]
        address = f"{lines[0].split()[-1]}/api"
        with PrefectHttpxSyncClient(base_url=address, trust_env=False, timeout=30, raise_on_all_errors=False) as api:
            yield Served(command, process, api)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(tmp_path_factory.mktemp("laptop"))


@pytest.fixture(scope="module")
def interrupted(command: Command) -> str:
    """A run that was training when Ctrl-C came."""
    with serving(command) as served:
        run = served.start(RECIPE.model_dump(mode="json"))
        storage = open_storage(str(command.home / "store"))
        served.until(lambda: any("/resume/" in name for name in storage.list("train-teacher")), "the teacher trains")
        family = psutil.Process(served.process.pid).children(recursive=True)
        assert served.workers()
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(timeout=120) == 0
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive, "Ctrl-C stops all"
        assert not (command.home / "ui.json").exists()
    return run


@pytest.fixture(scope="module")
def served(command: Command, interrupted: str) -> Iterator[Served]:
    """Started again."""
    with serving(command) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(1500)
class TestServed:
    """In order: one home."""

    def test_a_run_that_ctrl_c_stopped_goes_on_when_it_is_served_again(self, served: Served, interrupted: str) -> None:
        run = served.ended(interrupted)

        assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
        assert run["run_count"] == 2

    def test_the_deployments_are_those_of_the_file_without_a_pool(self, served: Served) -> None:
        for name in ("noisy-student/campaign", "generation/next", "evaluate/checkpoint"):
            made = served.deployment(name)
            assert made["work_pool_name"] is None
            assert made["description"]
            assert made["global_concurrency_limit"]["limit"] == 1
            assert "autoresume" in made["tags"]

    def test_retry_in_the_page_starts_a_failed_run_again(self, served: Served) -> None:
        recipe = RECIPE.model_dump(mode="json")
        run = served.start({**recipe, "data": {**recipe["data"], **NOWHERE}})
        assert served.ended(run)["state"]["message"].startswith("data.labeled: /nowhere does not exist")

        served.set_state(run, {"type": "SCHEDULED", "name": "AwaitingRetry"}, force=True)
        served.until(lambda: served.read(run)["run_count"] == 2, "it is started again")
        assert served.ended(run)["state"]["type"] == "FAILED"

    def test_cancel_in_the_page_stops_the_run_and_its_worker(self, served: Served) -> None:
        run = served.start(RECIPE.override(["seed=5"]).model_dump(mode="json"))
        served.until(lambda: bool(served.workers()), "a stage has a worker")
        served.set_state(run, {"type": "CANCELLING", "name": "Cancelling"})

        assert served.ended(run)["state"]["type"] == "CANCELLED"
        served.until(lambda: not served.workers(), "no worker is left", 60)

    def test_nothing_left_the_machine(self, served: Served) -> None:
        connections = served.command.connections
        assert not connections.exists(), connections.read_text(encoding="utf-8")


def test_a_server_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = Command(tmp_path)
    environment = {**command.environment(), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    monkeypatch.setattr(command, "environment", lambda: environment)
    outcome = command("serve")

    assert outcome.status == 2
    assert outcome.stderr.startswith("noisy-student: no Prefect server answers at http://127.0.0.1:9/api")
    assert outcome.stderr.count("\n") == 1
