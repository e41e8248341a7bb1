"""A campaign outlives its servers: each is killed in mid-run, stays away for 20 s, and is started again with its data.

One run that nothing happens to is the measure: runs of the same recipe in stores of their own have to end with the
same fingerprints and the same bytes. The tests share servers and a worker.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import sleep
from unittest.mock import patch

import psutil
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from flows.recipes.digits import digits_smoke
from ns_core.artifacts import Paths, load
from ns_core.storage import Storage, open_storage
from tests.deployed import Deployed, Document, deployed_on
from tests.servers import ServerSet, running_servers

pytestmark = [pytest.mark.integration, pytest.mark.servers, pytest.mark.timeout(3000)]

CAMPAIGN = "noisy-student/campaign"
DOWN_SECONDS = 20.0
RUN_SECONDS = 1500.0
SETTINGS = [
    *("evaluate.corruptions=[]", "evaluate.perturbations=[]", "evaluate.fgsm_eps=[]", "evaluate.pgd_eps=[]"),
    # Checkpoints all the time, so that an outage of the store meets some.
    *("teacher.steps=100", "teacher.checkpoint_steps=4", "student.checkpoint_steps=4"),
]
TIMED = {"metrics.jsonl"}
"""Files that hold times of day."""
Key = tuple[str, int]
"""(stage, generation)."""


@dataclass
class Campaign:
    """Runs of one recipe, which differs by its seed, in a store of their own."""

    deployed: Deployed
    name: str
    seed: int

    def __post_init__(self) -> None:
        self.store = f"{self.deployed.environment['NS_STORE']}-{self.name}"
        aws = {name: value for name, value in self.deployed.environment.items() if name.startswith("AWS_")}
        with patch.dict(os.environ, aws):
            self.storage: Storage = open_storage(self.store)
        recipe = digits_smoke().override([f"seed={self.seed}", *SETTINGS])
        self.parameters = {"recipe": recipe.model_dump(mode="json")}

    def start(self) -> None:
        body = {"parameters": self.parameters, "job_variables": {"env": {"NS_STORE": self.store}}}
        deployment = self.deployed.deployment(CAMPAIGN)["id"]
        made = self.deployed.api.post(f"/deployments/{deployment}/create_flow_run", json=body).raise_for_status()
        self.id = str(made.json()["id"])

    def until(self, stage: str, mark: str) -> None:
        """Until a key of the stage holds `mark`: `/resume/step-` in its middle, `/.artifact.json` at its end."""

        def there() -> bool:
            return any(mark in key for key in self.storage.list(f"{stage}/"))

        self.deployed.until(there, RUN_SECONDS, f"{stage} has a {mark}")

    def end(self) -> Document:
        """The run, which has to end well and at its first attempt."""
        run = self.deployed.ended(self.id, RUN_SECONDS)
        log = "\n".join(self.deployed.logs(self.id))
        assert run["state"]["type"] == "COMPLETED", f"{run['state']['message']}\n{log}"
        assert run["run_count"] == 1, log
        self.document: Document = json.loads(self.storage.read(f"runs/{run['name']}/run.json"))
        return run

    @property
    def states(self) -> set[str]:
        return {one["state"] for one in self.document["stages"]}

    @property
    def fingerprints(self) -> dict[Key, str]:
        return {(one["stage"], one["generation"]): one["fingerprint"] for one in self.document["stages"]}

    @property
    def digests(self) -> dict[Key, dict[str, str]]:
        """sha256 of every file of every artifact."""
        found = {}
        for key, fingerprint in self.fingerprints.items():
            record = load(self.storage, Paths(key[0], fingerprint))
            assert record is not None, key
            found[key] = {name: file.sha256 for name, file in record.files.items() if name not in TIMED}
        return found

    @property
    def tasks(self) -> dict[str, tuple[str, int]]:
        """Prefect's own word on the run's tasks, those of its subflows among them: name -> state, attempts."""
        runs = [self.id]
        for one in self._asked("flow_runs", {"flow_runs": {"parent_flow_run_id": {"any_": runs}}}):
            runs.append(one["id"])
        found = self._asked("task_runs", {"task_runs": {"flow_run_id": {"any_": runs}}, "limit": 200})
        return {one["name"]: (one["state"]["type"], one["run_count"]) for one in found}

    def _asked(self, what: str, filters: Document) -> list[Document]:
        found: list[Document] = self.deployed.api.post(f"/{what}/filter", json=filters).raise_for_status().json()
        return found

    def until_prefect_knows(self) -> None:
        """Until Prefect shows every task as completed; what it missed it is told again within half a minute or so."""

        def known() -> bool:
            return {state for state, _ in self.tasks.values()} == {"COMPLETED"}

        self.deployed.until(known, 90.0, f"every task is completed in Prefect: {self.tasks}")
        assert {attempts for _, attempts in self.tasks.values()} == {1}, self.tasks


@contextmanager
def away(servers: ServerSet, name: str, seconds: float = DOWN_SECONDS) -> Iterator[None]:
    """The server and its children get SIGKILL; after the block, and `seconds`, it is started again."""
    family = psutil.Process(servers.state.processes[name].pid).children(recursive=True)
    servers.kill(name)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    yield
    sleep(seconds)
    again = servers("up")
    assert again.status == 0, again.stderr


@pytest.fixture(scope="module")
def servers() -> Iterator[ServerSet]:
    with running_servers() as started:
        yield started


@pytest.fixture(scope="module")
def deployed(servers: ServerSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with deployed_on(servers, tmp_path_factory.mktemp("worker")) as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(deployed: Deployed) -> Campaign:
    """A run that nothing happened to."""
    campaign = Campaign(deployed, "undisturbed", 7)
    campaign.start()
    campaign.end()
    return campaign


def test_s3_away_while_a_stage_writes_and_while_one_reads_costs_time_and_nothing_else(
    undisturbed: Campaign, deployed: Deployed, servers: ServerSet
) -> None:
    campaign = Campaign(deployed, "s3", undisturbed.seed)
    campaign.start()
    campaign.until("train-teacher", "/resume/step-")
    with away(servers, "s3"):
        pass
    campaign.until("train-teacher", "/.artifact.json")
    with away(servers, "s3", 2.0):
        pass
    campaign.end()
    assert campaign.states == {"computed"}
    assert campaign.fingerprints == undisturbed.fingerprints
    assert campaign.digests == undisturbed.digests
    campaign.until_prefect_knows()
    log = deployed.logs(campaign.id)
    assert [line for line in log if "does not answer" in line and "trying again for up to" in line]
    assert [line for line in log if "is back after" in line]


def test_postgresql_away_and_then_prefects_server_while_stages_end_and_begin_costs_nothing(
    undisturbed: Campaign, deployed: Deployed, servers: ServerSet
) -> None:
    campaign = Campaign(deployed, "prefect", undisturbed.seed)
    campaign.start()
    campaign.until("train-teacher", "/resume/step-")
    with away(servers, "postgres"):
        pass
    campaign.until("infer-unlabeled", "/.artifact.json")
    with away(servers, "prefect"):
        pass
    campaign.end()
    assert campaign.states == {"computed"}
    assert campaign.fingerprints == undisturbed.fingerprints
    assert campaign.digests == undisturbed.digests
    campaign.until_prefect_knows()


@dataclass
class Told:
    """What MLflow holds of the runs of a seed."""

    client: MlflowClient
    seed: int

    def __post_init__(self) -> None:
        (self.experiment,) = self.client.search_experiments(filter_string="name = 'noisy-student'")
        found = self.client.search_runs([self.experiment.experiment_id], f"tags.`ns.seed` = '{self.seed}'")
        self.runs = {self._name(run): run for run in found}

    def _name(self, run: Run) -> str:
        """By what is the same for every seed."""
        return f"{run.data.tags['ns.level']} {run.data.tags.get('ns.generation', '')}"

    @property
    def ends(self) -> dict[str, str]:
        return {name: run.info.status for name, run in self.runs.items()}

    @property
    def shape(self) -> dict[str, object]:
        """Of each run the steps of every metric, its tags, parameters, datasets and registered versions, by name."""
        return {f"{name}: {what}": held for name, run in self.runs.items() for what, held in self._held(run).items()}

    def _held(self, run: Run) -> dict[str, object]:
        def points(key: str) -> list[int]:
            steps = [point.step for point in self.client.get_metric_history(run.info.run_id, key)]
            # Runs on other stores are the same run here, and tell what they compute anew.
            return sorted(set(steps))

        assert run.inputs is not None
        versions = self.client.search_model_versions(f"run_id = '{run.info.run_id}'")
        return {
            **{key: points(key) for key in run.data.metrics},
            # By its handle a run is found again that could not be opened at once.
            "tags": set(run.data.tags) - {"ns.handle"},
            "params": set(run.data.params),
            "datasets": sorted(one.dataset.name for one in run.inputs.dataset_inputs),
            "versions": len(versions),
        }


def test_mlflow_away_as_a_run_begins_and_again_as_it_ends_loses_nothing(
    undisturbed: Campaign, deployed: Deployed, servers: ServerSet
) -> None:
    """What it could not be told before the run's end it is told by the next run, of another recipe."""
    client = MlflowClient(deployed.environment["NS_TRACKING_URI"])
    expected = Told(client, undisturbed.seed)
    assert set(expected.ends.values()) == {"FINISHED"}
    campaign = Campaign(deployed, "mlflow", undisturbed.seed + 1)
    with away(servers, "mlflow", 0.0):
        campaign.start()
        campaign.until("train-teacher", "/.artifact.json")
    campaign.until("train-noisy-student", "/resume/step-")
    with away(servers, "mlflow", 0.0):
        campaign.end()
    assert campaign.states == {"computed"}
    undisturbed.start()
    undisturbed.end()
    assert undisturbed.states == {"cached"}
    told = Told(client, campaign.seed)
    assert told.ends == expected.ends
    ours, awaited = told.shape, expected.shape
    assert not {key: (ours.get(key), awaited.get(key)) for key in ours | awaited if ours.get(key) != awaited.get(key)}
