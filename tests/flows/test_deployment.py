"""Runs from Prefect's page: a real server, `noisy-student deploy`, a real process worker."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from time import monotonic
from typing import Any
from unittest.mock import patch

import httpx
import kubernetes_validate
import psutil
import pytest
import yaml
from prefect.client.base import PrefectHttpxSyncClient
from prefect.client.schemas.objects import State, StateType
from prefect.utilities.templating import apply_values

from flows import automations, deploy, environment, place
from flows.attended import RESUMED, resumes
from flows.recipes.digits import digits, digits_smoke
from ns_core.errors import UserError
from tests.campaigns import SMALLEST
from tests.flows.command import Command, Outcome

ROOT = Path(__file__).parents[2]
PREFECT = str(Path(sys.executable).with_name("prefect"))
ALL = ("noisy-student/campaign", "generation/next", "evaluate/checkpoint", "ablation/study", "audit/labels")
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
SMOKE = digits_smoke().override(list(SMALLEST)).model_dump(mode="json")
NOWHERE = {"source": "folder", "labeled": "/nowhere", "unlabeled": "/nowhere"}


@dataclass(frozen=True)
class Deployed:
    """A server that holds the deployments, and a worker that takes their runs."""

    command: Command
    api: httpx.Client
    worker: "subprocess.Popen[bytes]"
    printed: Outcome
    """Of the first `noisy-student deploy`."""

    def deployment(self, name: str = "noisy-student/campaign") -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/deployments/name/{name}").raise_for_status().json()
        return found

    def submit(self, recipe: dict[str, Any], name: str = "noisy-student/campaign", **more: Any) -> httpx.Response:
        """What the form's button sends."""
        body = {"parameters": {"recipe": recipe, **more}, "state": {"type": "SCHEDULED"}}
        return self.api.post(f"/deployments/{self.deployment(name)['id']}/create_flow_run", json=body)

    def run(self, recipe: dict[str, Any]) -> dict[str, Any]:
        """A run that has ended, as the server has it."""
        reply = self.submit(recipe)
        assert reply.status_code == 201, reply.text
        return self.ended(reply.json()["id"])

    def ended(self, run: str, seconds: float = 480.0) -> dict[str, Any]:
        """Asks twice a second, and no longer than the worker lives."""
        deadline = monotonic() + seconds
        while monotonic() < deadline and self.worker.poll() is None:
            found: dict[str, Any] = self.api.get(f"/flow_runs/{run}").json()
            if found["state"]["type"] in ENDED:
                return found
            with suppress(subprocess.TimeoutExpired):
                self.worker.wait(timeout=0.5)
        log = (self.command.folder / "worker.log").read_text(encoding="utf-8")
        pytest.fail(f"the run did not end; the worker's last words:\n{log[-4000:]}")

    def runs(self, **filters: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api.post("/flow_runs/filter", json=filters).json()
        return found

    def stages(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        """The ledger that the run left in the store."""
        document = self.command.home / "store" / "runs" / run["name"] / "run.json"
        stages: list[dict[str, Any]] = json.loads(document.read_text(encoding="utf-8"))["stages"]
        return stages


@contextmanager
def stopped(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """The process and all that it started are gone after the block."""
    try:
        yield
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        for left in family:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The three commands of deployments/README.md; the worker starts elsewhere than in the repository."""
    command = Command(tmp_path_factory.mktemp("deployment"))
    pages = command.start("ui", "--prefect-port", "0", "--mlflow-port", "0")
    with stopped(pages):
        assert pages.stdout is not None
        address = f"{pages.stdout.readline().split()[-1]}/api"
        assert all(pages.stdout.readline() for _ in range(2)), "the pages are announced"
        printed = command("deploy")
        assert printed.status == 0, printed.stderr
        settings = {
            **command.environment(),
            "PREFECT_API_URL": address,
            "PREFECT_HOME": str(command.folder / "client"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            # The checkout under test, wherever the installed package is.
            "PYTHONPATH": f"{command.environment()['PYTHONPATH']}{os.pathsep}{ROOT}",
        }
        with (command.folder / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [PREFECT, "worker", "start", "--pool", "ns-process", "--type", "process"],
                cwd=command.folder,
                env=settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A worker that inherits an ignored SIGINT, as from a shell's `&`, never stops.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        with stopped(worker), _client(address) as api:
            yield Deployed(command, api, worker, printed)


def _client(address: str) -> httpx.Client:
    """Asks again, as every client of Prefect's does, when the server answers 503: SQLite had another writer."""
    return PrefectHttpxSyncClient(base_url=address, trust_env=False, timeout=30, raise_on_all_errors=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestDeployed:
    """In order: one store, one server, one worker."""

    def test_the_table_says_what_a_person_now_has_and_where(self, deployed: Deployed) -> None:
        for name in ALL:
            (line,) = (line for line in deployed.printed.stdout.splitlines() if line.startswith(f"{name} "))
            assert "pool ns-process" in line
            assert line.endswith(f"/deployments/deployment/{deployed.deployment(name)['id']}")
        for name in (automations.MARK, automations.RESUME, automations.SILENT, automations.STARTING):
            assert re.search(rf"^{re.escape(name)} +made ", deployed.printed.stdout, re.MULTILINE)
        assert "pool ns-process made" in deployed.printed.stdout

    def test_again_it_changes_nothing_and_leaves_alone_what_somebody_paused(self, deployed: Deployed) -> None:
        ids = [deployed.deployment(name)["id"] for name in ALL]
        (resume,) = (one for one in _automations(deployed) if one["name"] == automations.RESUME)
        deployed.api.patch(f"/automations/{resume['id']}", json={"enabled": False}).raise_for_status()
        again = deployed.command("deploy")

        assert again.status == 0, again.stderr
        assert again.stdout.count("as it was") == 5
        assert "made" not in again.stdout
        assert [deployed.deployment(name)["id"] for name in ALL] == ids
        (paused,) = (one for one in _automations(deployed) if one["name"] == automations.RESUME)
        assert not paused["enabled"]
        assert paused["trigger"]["id"] == resume["trigger"]["id"], "it forgets no run that is under way"
        deployed.api.patch(f"/automations/{resume['id']}", json={"enabled": True}).raise_for_status()

    def test_the_pool_on_kubernetes_is_made_when_it_is_asked_for(self, deployed: Deployed) -> None:
        assert deployed.api.get("/work_pools/ns-kubernetes").status_code == 404
        made = deployed.command("deploy", "--pool", "kubernetes")

        assert made.status == 0, made.stderr
        pool = deployed.api.get("/work_pools/ns-kubernetes").raise_for_status().json()
        assert pool["base_job_template"] == json.loads(deploy.TEMPLATE.read_text(encoding="utf-8"))
        for name in ALL:
            assert deployed.deployment(f"{name}-on-kubernetes")["work_pool_name"] == "ns-kubernetes"
            assert deployed.deployment(name)["work_pool_name"] == "ns-process"

    def test_what_is_on_a_pool_is_not_served_besides(self, deployed: Deployed) -> None:
        refused = deployed.command("serve")

        assert refused.status == 2
        assert re.fullmatch(r"noisy-student: the deployment campaign .* ns-process: start a worker.*\n", refused.stderr)

    def test_the_form_asks_for_the_recipe_alone_and_is_filled_in(self, deployed: Deployed) -> None:
        for name in ALL[:2]:
            schema = deployed.deployment(name)["parameter_openapi_schema"]
            fields = schema["definitions"]["SelectConfig"]["properties"]

            assert list(schema["properties"]) == ["recipe"]
            assert schema["properties"]["recipe"]["default"] == digits().model_dump(mode="json")
            assert "Lowest confidence that is kept" in fields["threshold"]["description"]

    def test_the_form_of_an_evaluation_asks_for_the_checkpoint_first(self, deployed: Deployed) -> None:
        schema = deployed.deployment("evaluate/checkpoint")["parameter_openapi_schema"]

        assert schema["required"] == ["checkpoint"]
        assert min(schema["properties"], key=lambda name: schema["properties"][name]["position"]) == "checkpoint"
        assert all(field["description"] for field in schema["properties"].values())

    @pytest.mark.parametrize("name", ALL)
    def test_runs_wait_for_each_other_and_pull_no_code(self, deployed: Deployed, name: str) -> None:
        deployment = deployed.deployment(name)

        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        assert deployment["pull_steps"] == []
        assert deployment["enforce_parameter_schema"]
        assert automations.TAG in deployment["tags"]

    def test_only_the_next_generation_has_a_schedule_and_it_is_switched_off(self, deployed: Deployed) -> None:
        schedules = {name: deployed.deployment(name)["schedules"] for name in ALL}
        (weekly,) = schedules.pop("generation/next")

        assert not weekly["active"]
        assert (weekly["schedule"]["cron"], weekly["schedule"]["timezone"]) == ("0 3 * * 1", "UTC")
        assert not any(schedules.values())

    def test_a_run_computes_every_stage_and_shows_its_generation(self, deployed: Deployed) -> None:
        run = deployed.run(SMOKE)
        assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
        assert re.fullmatch(r"digits_smoke-\d{8}-\d{6}-[0-9a-f]{4}", run["name"])
        stages = deployed.stages(run)
        assert [stage["state"] for stage in stages] == ["computed"] * 8
        assert all((Path(stage["uri"]) / ".artifact.json").exists() for stage in stages)
        (generation,) = deployed.runs(flow_runs={"name": {"any_": ["generation-1"]}})
        assert generation["state"]["type"] == "COMPLETED"
        assert generation["parent_task_run_id"]

    def test_mlflow_knows_the_way_back_to_prefect(self, deployed: Deployed) -> None:
        with sqlite3.connect(deployed.command.home / "mlflow.db") as database:
            known = database.execute("select distinct value from tags where key = 'prefect.flow_run_id'").fetchall()
        ids = {run["id"] for run in deployed.runs()}

        assert known
        assert {run for (run,) in known} <= ids

    def test_the_same_parameters_again_compute_nothing(self, deployed: Deployed) -> None:
        run = deployed.run(SMOKE)

        assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
        assert [stage["state"] for stage in deployed.stages(run)] == ["cached"] * 8

    def test_an_audit_runs_from_its_form_and_leaves_its_document(self, deployed: Deployed) -> None:
        refused = deployed.submit(SMOKE, "audit/labels", folds=1)
        assert refused.status_code == 409
        assert "1 is not one of [0, 2," in refused.text
        reply = deployed.submit(SMOKE, "audit/labels", folds=0, target=0.9)
        assert reply.status_code == 201, reply.text
        run = deployed.ended(reply.json()["id"])

        assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
        assert "of their labels are right" in run["state"]["message"]
        assert re.fullmatch(r"digits_smoke-audit-\d{8}-\d{6}-[0-9a-f]{4}", run["name"])
        document = deployed.command.home / "store" / "audits" / run["name"] / "audit.json"
        assert json.loads(document.read_text(encoding="utf-8"))["target"] == 0.9

    @pytest.mark.parametrize(
        ("section", "wrong"), [("select", {"threshold": 1.5}), ("student", {"ratoi": 3}), ("data", {"source": "disc"})]
    )
    def test_a_bad_value_is_refused_before_a_run_exists(
        self, deployed: Deployed, section: str, wrong: dict[str, Any]
    ) -> None:
        before = len(deployed.runs())
        reply = deployed.submit({**SMOKE, section: {**SMOKE[section], **wrong}})

        assert reply.status_code == 409
        assert f"recipe.{section}" in reply.text
        assert len(deployed.runs()) == before

    def test_a_mistake_that_only_the_worker_sees_is_one_line_at_once(self, deployed: Deployed) -> None:
        run = deployed.run({**SMOKE, "data": {**SMOKE["data"], **NOWHERE}})

        assert run["state"]["type"] == "FAILED"
        assert run["state"]["message"].startswith("data.labeled: /nowhere does not exist")
        assert "\n" not in run["state"]["message"]
        assert run["total_run_time"] < 30, "seconds; 1 on an idle machine"
        again = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
        deployed.api.post(f"/flow_runs/{run['id']}/set_state", json=again).raise_for_status()
        retried = deployed.ended(run["id"])
        assert (retried["run_count"], retried["name"]) == (2, run["name"])

    def test_who_holds_the_only_place_is_kept_on_disk_and_outlives_the_server(self, deployed: Deployed) -> None:
        assert (deployed.command.home / "prefect" / "concurrency_leases").is_dir()

    def test_nothing_left_the_machine(self, deployed: Deployed) -> None:
        assert not deployed.command.connections.exists(), deployed.command.connections.read_text()


def _automations(deployed: Deployed) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = deployed.api.post("/automations/filter", json={}).raise_for_status().json()
    return found


def test_a_workers_run_is_told_what_the_command_line_sets_for_itself(tmp_path: Path) -> None:
    document = yaml.safe_load(deploy.FILE.read_text(encoding="utf-8"))
    with patch.dict(os.environ, clear=True):
        environment.prepare(tmp_path)
        own = {**os.environ, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(automations.HEARTBEAT_SECONDS)}

    for deployment in document["deployments"]:
        assert deployment["work_pool"]["job_variables"]["env"].items() <= own.items()
        assert deployment["description"]
    assert 3 * automations.HEARTBEAT_SECONDS <= automations.SILENCE_SECONDS


def test_both_pools_have_the_same_deployments() -> None:
    process, kubernetes = (
        [{**entry, "work_pool": None} for entry in deploy.entries(pool.name)] for pool in deploy.POOLS.values()
    )

    assert [{**entry, "name": f"{entry['name']}-on-kubernetes"} for entry in process] == kubernetes


def test_the_pod_of_a_flow_is_valid_and_has_no_rights() -> None:
    template = json.loads(deploy.TEMPLATE.read_text(encoding="utf-8"))
    variables = template["variables"]["properties"]
    # As a worker fills it in: defaults, and what it knows of the run.
    values = {name: field["default"] for name, field in variables.items() if "default" in field}
    values |= {"name": "run", "labels": {"prefect.io/flow-run-name": "run"}}
    rendered = apply_values(template["job_configuration"], values, remove_notset=True)
    job = rendered["job_manifest"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["env"] = [{"name": "PREFECT_API_URL", "value": "http://prefect:4200/api"}]
    container["args"] = ["prefect", "flow-run", "execute"]

    for version in ("1.33.0", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(job, version, strict=True)
    placeholders = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert placeholders == set(variables), "no variable without effect"
    assert job["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["image"] == f"noisy-student-orchestrator:{_version()}"
    assert container["envFrom"] == [{"secretRef": {"name": "noisy-student"}}]


def _version() -> str:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(r'^version = "(.+)"', project, re.MULTILINE)[1]  # type: ignore[index]


def test_what_the_automation_let_go_on_is_counted_from_the_last_time_a_person_did() -> None:
    def again(message: str | None) -> State[Any]:
        return State(type=StateType.SCHEDULED, name="AwaitingRetry", message=message)

    queued = State[Any](type=StateType.SCHEDULED, name="AwaitingConcurrencySlot")
    crashed = State[Any](type=StateType.CRASHED)

    assert resumes([queued]) == 0
    assert resumes([crashed, again(RESUMED), queued, crashed, again(RESUMED)]) == 2
    assert resumes([crashed, again(RESUMED), crashed, again(None)]) == 0
    assert resumes([again(RESUMED), again("Retry by a person"), crashed, again(RESUMED)]) == 1


def test_without_a_server_it_is_told_how_to_get_one(tmp_path: Path) -> None:
    outcome = Command(tmp_path)("deploy")

    assert outcome.status == 2
    assert outcome.stderr.count("\n") == 1
    for way in ("make up", "noisy-student ui", "noisy-student serve", "PREFECT_API_URL"):
        assert way in outcome.stderr


@pytest.mark.parametrize("home", ["", ".noisy-student"])
def test_a_home_in_a_folder_that_is_removed_is_refused(home: str) -> None:
    with patch.dict(os.environ, {"NS_HOME": home}), pytest.raises(UserError, match=r"NS_HOME .*worker"):
        place.in_worker(digits(), "run")


def test_a_store_in_a_folder_that_is_removed_is_refused(tmp_path: Path) -> None:
    places = {"NS_HOME": str(tmp_path), "NS_STORE": "results"}
    with patch.dict(os.environ, places), pytest.raises(UserError, match="NS_STORE 'results' is relative"):
        place.in_worker(digits(), "run")


def test_a_run_of_a_worker_lies_where_its_environment_says(tmp_path: Path) -> None:
    places = {"NS_HOME": f"{tmp_path}/home", "NS_STORE": f"{tmp_path}/store", "NS_TRACKING_URI": "http://mlflow:5000"}
    with patch.dict(os.environ, places):
        run = place.in_worker(digits(), "name")

    assert (run.run_id, run.home, run.store) == ("name", places["NS_HOME"], places["NS_STORE"])
    assert run.tracking_uri == places["NS_TRACKING_URI"]
    assert Path(run.home).is_dir()


@pytest.mark.parametrize(
    ("recipe", "name"), [("digits", "digits"), ("../a b/ü", "a-b"), ("", "run"), ("x" * 300, "x" * 60)]
)
def test_a_runs_name_is_a_folders_name_with_the_time_in_utc(recipe: str, name: str) -> None:
    started = datetime(2026, 11, 22, 23, 15, tzinfo=timezone(timedelta(hours=1)))

    assert place.run_id(recipe, started, "3fa9") == f"{name}-20261122-221500-3fa9"
    assert place.run_id(recipe, started.astimezone(UTC), "3fa9") == f"{name}-20261122-221500-3fa9"
