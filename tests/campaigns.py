"""What tests ask of a campaign on real servers: its tasks, what it shows and says, the process of a stage, its runs in
MLflow."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from flows.environment import EXPERIMENT
from flows.recipes.digits import digits_smoke
from flows.servers.services import BUCKET
from ns_core.config import Recipe
from ns_core.launch.spec import WorkerSpec
from tests.deployed import ENDED, Deployed, Document, deployed_on
from tests.servers import ServerSet

CAMPAIGN = "noisy-student/campaign"
WORKER = "ns_core.worker"
STAGE_SECONDS = 600.0
"""For a stage to begin, on a machine that does much else."""
EVENT_SECONDS = 60.0
"""For what Prefect's server hears of by events."""
SMALLEST = (
    "evaluate.corruptions=[]",
    "evaluate.perturbations=[]",
    "evaluate.fgsm_eps=[]",
    "evaluate.pgd_eps=[]",
)


@contextmanager
def deployed_in_s3(servers: ServerSet, folder: Path) -> Iterator[Deployed]:
    """All deployments and a worker, with a store of its own in the servers' bucket."""
    with deployed_on(servers, folder, store=f"s3://{BUCKET}/{uuid4().hex}") as made:
        yield made


def smallest(*overrides: str) -> Recipe:
    """Every stage once, as small as it gets, and one attempt at each."""
    return digits_smoke().override([*SMALLEST, "compute.retries=0", *overrides])


def parameters(recipe: Recipe) -> Document:
    """What the form sends for `recipe`."""
    return {"recipe": recipe.model_dump(mode="json")}


@dataclass(frozen=True)
class Campaign:
    """One run of the deployment `campaign`."""

    deployed: Deployed
    id: str

    @classmethod
    def start(cls, deployed: Deployed, recipe: Recipe | None = None) -> "Campaign":
        """None: with the deployment's own parameters, as the button *Quick run* sends."""
        return cls(deployed, deployed.start(CAMPAIGN, {} if recipe is None else parameters(recipe)))

    @property
    def state(self) -> Document:
        found: Document = self.deployed.read(self.id)["state"]
        return found

    def ended(self, seconds: float = STAGE_SECONDS) -> Document:
        """The run once it has ended."""
        return self.deployed.ended(self.id, seconds)

    def completed(self, seconds: float = STAGE_SECONDS) -> Document:
        run = self.ended(seconds)
        assert run["state"]["type"] == "COMPLETED", f"{run['state']}\n{self.deployed.words()}"
        return run

    def until_running(self) -> None:
        self.deployed.until(lambda: bool(self.state["type"] == "RUNNING"), STAGE_SECONDS, f"run {self.id} begins")

    def _all(self, kind: str, where: Document) -> list[Document]:
        """Of Prefect's `/kind/filter`, page by page."""
        found: list[Document] = []
        while True:
            body = {**where, "limit": 200, "offset": len(found)}
            page = self.deployed.api.post(f"/{kind}/filter", json=body).raise_for_status().json()
            found += page
            if len(page) < body["limit"]:
                return found

    def subflows(self) -> dict[str, Document]:
        """By name."""
        where = {"flow_runs": {"parent_flow_run_id": {"any_": [self.id]}}}
        return {run["name"]: run for run in self._all("flow_runs", where)}

    def flow_runs(self) -> list[str]:
        """The ids of the run and of its generations."""
        return [self.id, *(run["id"] for run in self.subflows().values())]

    def tasks(self) -> list[Document]:
        """The task runs, those that call a generation left out."""
        found = self._all("task_runs", {"flow_runs": {"id": {"any_": self.flow_runs()}}})
        return [task for task in found if not task["state"]["state_details"]["child_flow_run_id"]]

    def until_tasks_ended(self) -> None:
        """A task's last state is an event, which the server may take up after the flow's."""
        self.deployed.until(
            lambda: all(task["state"]["type"] in ENDED for task in self.tasks()),
            EVENT_SECONDS,
            "the tasks' states arrive",
        )

    def log(self) -> list[str]:
        """The lines of the run, its generations and its tasks, in their order."""
        where = {"logs": {"flow_run_id": {"any_": self.flow_runs()}}, "sort": "TIMESTAMP_ASC"}
        return [str(line["message"]) for line in self._all("logs", where)]

    def artifacts(self) -> list[Document]:
        return self._all("artifacts", {"artifacts": {"flow_run_id": {"any_": self.flow_runs()}}})

    def said(self, words: str, seconds: float = STAGE_SECONDS) -> str:
        """The first line of its log that holds `words`, once there is one."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [line for line in self.log() if words in line]
            return bool(found)

        self.deployed.until(look, seconds, f"run {self.id} says {words!r}")
        return found[0]

    def worker_of(self, stage: str) -> psutil.Process:
        """The process that does the stage, once there is one."""
        found: list[psutil.Process] = []

        def look() -> bool:
            found[:] = [process for process, spec in workers(self.deployed) if spec.stage == stage]
            assert found or self.state["type"] not in ENDED, f"the run ended, and no process did {stage}: {self.state}"
            return bool(found)

        self.deployed.until(look, STAGE_SECONDS, f"{stage} begins")
        (process,) = found
        return process

    def checkpointed(self, stage: str) -> psutil.Process:
        """The process that does the stage, once it has saved a checkpoint."""
        process = self.worker_of(stage)
        self.deployed.until(lambda: bool(checkpoints(self.deployed, stage)), STAGE_SECONDS, f"{stage} saves")
        assert process.is_running(), "it ended before it could be stopped: give it more updates"
        return process

    def mlflow(self) -> MlflowRun:
        """Its parent run; exactly one is linked to the run in Prefect."""
        (run,) = mlflow_runs(
            self.deployed, f"tags.`prefect.flow_run_id` = '{self.id}' and tags.`ns.level` = 'pipeline'"
        )
        return run


def workers(deployed: Deployed) -> Iterator[tuple[psutil.Process, WorkerSpec]]:
    """The processes of stages, and what each was told."""
    for process in deployed.family():
        with suppress(psutil.Error, FileNotFoundError):
            command = process.cmdline()
            if WORKER in command:
                yield process, WorkerSpec.model_validate_json(Path(command[-1]).read_text(encoding="utf-8"))


def checkpoints(deployed: Deployed, stage: str) -> list[int]:
    """The updates of the stage's checkpoints, of unfinished attempts at it."""
    names = [Path(key) for key in deployed.storage.list(f"{stage}/") if "/resume/step-" in key]
    return sorted(int(name.stem.removeprefix("step-")) for name in names if name.suffix == ".json")


def mlflow_client(deployed: Deployed) -> MlflowClient:
    with patch.dict(os.environ, {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}):
        return MlflowClient(deployed.environment["NS_TRACKING_URI"])


def mlflow_runs(deployed: Deployed, where: str) -> list[MlflowRun]:
    """Of the experiment of all campaigns."""
    client = mlflow_client(deployed)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], where))


def records(deployed: Deployed) -> dict[str, Any]:
    """Key -> record, of every artifact that was committed."""
    keys = [key for key in deployed.storage.list("") if key.endswith("/.artifact.json")]
    return {key: json.loads(deployed.storage.read(key)) for key in keys}
