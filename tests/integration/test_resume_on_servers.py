"""Runs whose processes are killed, on real servers: they go on by themselves, as often as is sensible."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient

from flows import automations
from flows.attended import MAX_RESUMES, RESUMED
from flows.recipes.digits import digits_smoke
from ns_core import artifacts
from ns_core.artifacts import Paths
from ns_core.storage import Storage, open_storage
from tests.deployed import ROOT, Deployed, deployed_on
from tests.servers import running_servers

pytestmark = [pytest.mark.integration, pytest.mark.servers, pytest.mark.timeout(1800)]

CAMPAIGN, NEXT, CHECKPOINT = "noisy-student/campaign", "generation/next", "evaluate/checkpoint"
LONGER = [
    "name=killed",
    "teacher.steps=160",
    "student.steps=120",
    "student.epoch_steps=20",
    "evaluate.corruptions=[]",
    "evaluate.perturbations=[]",
    "evaluate.fgsm_eps=[]",
    "evaluate.pgd_eps=[]",
]
"""Training that lasts long enough to be killed in the middle, and next to no evaluation."""
RECIPE = {"recipe": digits_smoke().override(LONGER).model_dump(mode="json")}
SILENCE_SECONDS = 60.0
"""Instead of 90: two heartbeats."""
SHORT_DELAY_SECONDS = 10.0
"""Where no worker is left that could report a crash twice."""
AGAIN_SECONDS = automations.DELAY_SECONDS + 90.0
"""From a crash to Running where a worker lives: 8 after the delay on an idle machine, no lease to wait for (300)."""
CRASH = """
import os, signal, sys
run = os.environ.get("PREFECT__FLOW_RUN_ID", "")
def _kill(event, arguments):
    if event == "import":
        with open(os.environ["NS_TEST_CRASHES"]) as crashes:
            if f"{run} {arguments[0]}" in crashes.read().splitlines():
                os.kill(os.getpid(), signal.SIGKILL)
if run:
    sys.addaudithook(_kill)
"""
"""A run of the list dies like a process whose native library is broken, whenever it imports the module of that name."""


@dataclass(frozen=True)
class Runs:
    """Three runs at the same time, of three deployments: the test kills the campaign, the others what they import."""

    deployed: Deployed
    campaign: str
    again_and_again: str
    """Dies in our code whenever it starts; an automation let it go on as often as it may."""
    unable: str
    """Dies before our code."""
    crashes: Path

    def mend(self) -> None:
        """Nothing is broken any more."""
        self.crashes.write_text("", encoding="utf-8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("worker")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(CRASH, encoding="utf-8")
    crashes = folder / "crashes.txt"
    extra = {"NS_TEST_CRASHES": str(crashes), "PYTHONPATH": f"{folder / 'site'}{os.pathsep}{ROOT}"}
    with running_servers() as servers, deployed_on(servers, folder, extra=extra) as made:
        ensure(made, automations.SILENT, silence_seconds=SILENCE_SECONDS)
        pause = "/work_pools/ns-process"
        made.api.patch(pause, json={"is_paused": True}).raise_for_status()
        often, unable = made.start(NEXT, RECIPE), made.start(CHECKPOINT, {"checkpoint": "latest"})
        for _ in range(MAX_RESUMES):  # as the automation does, without the minutes that it takes
            set_state(made, often, {"type": "SCHEDULED", "name": "AwaitingRetry", "message": RESUMED})
        crashes.write_text(f"{often} mlflow\n{unable} flows.subject\n", encoding="utf-8")
        campaign = made.start(CAMPAIGN, RECIPE)
        made.api.patch(pause, json={"is_paused": False}).raise_for_status()
        yield Runs(made, campaign, often, unable, crashes)


def ensure(deployed: Deployed, name: str, **seconds: float) -> None:
    """One of the automations with another window, the others as they are: they remember the runs under way."""
    wanted = [one for one in automations.automations(**seconds) if one.name == name]
    with SyncPrefectClient(deployed.environment["PREFECT_API_URL"]) as client:
        assert automations.ensure(client, wanted) == {name: automations.Change.CHANGED}


def set_state(deployed: Deployed, run: str, state: dict[str, str]) -> None:
    """As Prefect's page and its automations do."""
    body = {"state": state, "force": True}
    deployed.api.post(f"/flow_runs/{run}/set_state", json=body).raise_for_status()


def holds_a_checkpoint(storage: Storage, stage: str) -> bool:
    """Whether somebody left something in the middle of the stage's work."""
    return any("/resume/" in name for name in storage.list(stage))


def names(history: list[dict[str, Any]]) -> list[str]:
    return [state["name"] for state in history]


def seconds_to_run_again(history: list[dict[str, Any]]) -> list[float]:
    """From each crash to the next Running."""
    times = [(state["name"], datetime.fromisoformat(state["timestamp"])) for state in history]
    found = []
    for place, (name, crashed) in enumerate(times):
        if name == "Crashed":
            again = [when for later, when in times[place:] if later == "Running"]
            found += [(again[0] - crashed).total_seconds()] if again else []
    return found


def start_undisturbed(deployed: Deployed, folder: Path) -> "subprocess.Popen[bytes]":
    """The same recipe by the command line, on a store of its own."""
    settings = [word for assignment in LONGER for word in ("--set", assignment)]
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", "digits_smoke", *settings],
        cwd=folder,
        env={**deployed.environment, "NS_HOME": str(folder), "NS_STORE": str(folder / "store")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


class TestKilled:
    """In order: one set of servers."""

    def test_a_killed_campaign_goes_on_by_itself_and_ends_with_the_weights_of_one_left_alone(
        self, runs: Runs, tmp_path: Path
    ) -> None:
        deployed, run, storage = runs.deployed, runs.campaign, runs.deployed.storage
        deployed.until(lambda: holds_a_checkpoint(storage, "train-teacher"), 600, "the teacher has a checkpoint")
        flow = deployed.flow_processes(run)
        assert flow
        for process in flow:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        deployed.until(lambda: deployed.read(run)["run_count"] == 2, 400, "the worker takes it again")

        deployed.until(lambda: holds_a_checkpoint(storage, "train-noisy-student"), 600, "the student has a checkpoint")
        ensure(deployed, automations.RESUME, delay_seconds=SHORT_DELAY_SECONDS)
        deployed.kill_worker()
        deployed.start_worker()
        undisturbed = start_undisturbed(deployed, tmp_path)
        try:
            deployed.until(lambda: deployed.read(run)["run_count"] == 3, 600, "the new worker takes it")
            ended = deployed.ended(run, 900)
            assert undisturbed.wait(900) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(undisturbed.pid, signal.SIGKILL)
            undisturbed.wait()

        assert ended["state"]["type"] == "COMPLETED", ended["state"]["message"]
        history = deployed.history(run)
        crash, silence = (state["message"] for state in history if state["name"] == "Crashed")
        assert "-9" in crash
        assert silence.startswith(f"no sign of life for {SILENCE_SECONDS:.0f} s")
        assert [state["message"] for state in history if state["name"] == "AwaitingRetry"] == [RESUMED] * 2
        going_on = [line for line in deployed.logs(run) if "going on from update" in line]
        assert len(going_on) == 2, "each interrupted training went on from its checkpoint"
        for (stage, _), fingerprint in deployed.fingerprints(ended).items():
            paths = Paths(stage, fingerprint)
            disturbed, alone = (artifacts.load(one, paths) for one in (storage, open_storage(str(tmp_path / "store"))))
            assert disturbed is not None
            assert alone is not None, f"{stage} has another identity"
            for name in ("model.safetensors", "index.parquet"):
                assert disturbed.files.get(name) == alone.files.get(name), (stage, name)

    def test_it_got_its_place_back_at_once(self, runs: Runs) -> None:
        history = runs.deployed.history(runs.campaign)

        assert "AwaitingConcurrencySlot" not in names(history)
        reported, silent = seconds_to_run_again(history)
        assert automations.DELAY_SECONDS <= reported < AGAIN_SECONDS
        assert SHORT_DELAY_SECONDS <= silent < AGAIN_SECONDS
        assert runs.deployed.deployment(CAMPAIGN)["global_concurrency_limit"]["active_slots"] == 0

    def test_a_crash_that_comes_again_and_again_ends_as_failed_in_one_line(self, runs: Runs) -> None:
        deployed, run = runs.deployed, runs.again_and_again
        deployed.until(lambda: deployed.read(run)["state"]["type"] == "FAILED", 300, "it is given up")

        message = deployed.read(run)["state"]["message"]
        assert message.startswith(f"crashed {MAX_RESUMES + 1} times in a row")
        assert "the last time: Process exited with status code: -9" in message
        assert "\n" not in message
        assert names(deployed.history(run)).count("Crashed") == 1, "the one more that was allowed"

    def test_and_a_person_may_retry_it_afterwards(self, runs: Runs) -> None:
        deployed, run = runs.deployed, runs.again_and_again
        runs.mend()
        before = deployed.read(run)["run_count"]
        deployed.retry(run)
        deployed.until(lambda: deployed.read(run)["run_count"] > before, 120, "it is started")
        tasks = {"flow_runs": {"id": {"any_": [run]}}}
        deployed.until(lambda: bool(deployed.api.post("/task_runs/filter", json=tasks).json()), 240, "it has a stage")
        deployed.cancel(run)
        assert deployed.ended(run)["state"]["type"] == "CANCELLED"

    def test_a_crash_before_our_code_was_not_started_again(self, runs: Runs) -> None:
        history = runs.deployed.history(runs.unable)

        assert names(history)[-1] == "Crashed"
        assert names(history).count("Pending") == 1
        assert "Running" not in names(history)

    def test_a_run_whose_worker_died_before_it_ran_has_crashed(self, runs: Runs) -> None:
        deployed = runs.deployed
        deployed.stop_worker()
        ensure(deployed, automations.STARTING, start_seconds=10)
        run = deployed.start(CAMPAIGN, RECIPE)
        began = [-60.0]

        def crashed() -> bool:
            """Until the server has the new window the run is left, anew, as a dead worker leaves it."""
            if monotonic() > began[0] + 25:
                began[0] = monotonic()
                set_state(deployed, run, {"type": "PENDING", "name": "Submitting"})
            return bool(deployed.read(run)["state"]["type"] == "CRASHED")

        deployed.until(crashed, 120, "it is noticed")
        assert deployed.read(run)["state"]["message"].startswith("a worker took it 10 s ago")
