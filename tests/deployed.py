"""The deployments of `deployments/prefect.yaml` on real servers, and a process worker that takes their runs.

`deployed_on(servers, folder)` is both for one block; a test may kill the worker and start another.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from unittest.mock import patch

import httpx
import psutil
from prefect.client.base import PrefectHttpxSyncClient

from ns_core.storage import Storage, open_storage
from tests.servers import ServerSet

ROOT = Path(__file__).parents[1]
PREFECT = str(Path(sys.executable).with_name("prefect"))
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
POLL_SECONDS = 0.5
Document = dict[str, Any]


@dataclass
class Deployed:
    """Servers that hold the deployments, and a worker with a home of its own."""

    servers: ServerSet
    folder: Path
    """Of the worker: `home` is its NS_HOME, `worker.log` its output."""
    store: str = ""
    """NS_STORE of the worker; empty: what the servers' `env` says."""
    worker: "subprocess.Popen[bytes] | None" = None
    extra: dict[str, str] = field(default_factory=dict)
    """Environment variables of workers that are started from now on."""

    def __post_init__(self) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("NS_", "AWS_", "PREFECT_", "MLFLOW_"))}
        own = {"NS_HOME": str(self.home), "NS_CACHE": str(self.folder / "cache")}
        own |= {"NS_STORE": self.store} if self.store else {}
        client = {
            "PREFECT_HOME": str(self.folder / "client"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": "1",
            # The checkout under test, wherever the installed package is.
            "PYTHONPATH": str(ROOT),
        }
        self.environment = {**kept, **self.servers.environment, **own, **client}
        self.api: httpx.Client = PrefectHttpxSyncClient(
            base_url=self.environment["PREFECT_API_URL"], trust_env=False, timeout=30, raise_on_all_errors=False
        )

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def start_worker(self) -> None:
        """In a session of its own, elsewhere than in the repository."""
        assert self.worker is None or self.worker.poll() is not None, "one at a time"
        with (self.folder / "worker.log").open("ab") as log:
            self.worker = subprocess.Popen(
                [PREFECT, "worker", "start", "--pool", "ns-process", "--type", "process"],
                cwd=self.folder,
                env={**self.environment, **self.extra},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A worker that inherits an ignored SIGINT, as from a shell's `&`, never stops.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        while self.api.get("/work_pools/ns-process").status_code != 200:
            with suppress(subprocess.TimeoutExpired):
                self.worker.wait(timeout=POLL_SECONDS)
            assert self.worker.poll() is None, f"the worker ended:\n{self.words()}"

    def stop_worker(self) -> None:
        """SIGTERM, then SIGKILL for it and for all that it started."""
        if self.worker is None:
            return
        family = self.family()
        self.worker.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.worker.wait(timeout=30)
        self._kill(family)

    def kill_worker(self) -> None:
        """SIGKILL, all at once, for it and for the flows that it runs: as when its machine goes down."""
        self._kill(self.family())

    def _kill(self, family: list[psutil.Process]) -> None:
        assert self.worker is not None
        self.worker.kill()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.worker.wait()

    def family(self) -> list[psutil.Process]:
        """What the worker started, directly or not, and what has its environment since its parent died."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                own = process.environ().get("NS_HOME") == str(self.home)
                if own and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = process
        if self.worker is not None:
            found.pop(self.worker.pid, None)
        return list(found.values())

    def deploy(self, *options: str) -> str:
        """All of `prefect.yaml` for the process pool, as deployments/README.md says; what the verb printed."""
        deploy = [sys.executable, "-m", "flows.cli", "deploy", *options]
        made = subprocess.run(
            deploy, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout

    def deployment(self, name: str) -> Document:
        """By `flow/deployment`."""
        found: Document = self.api.get(f"/deployments/name/{name}").raise_for_status().json()
        return found

    def submit(self, name: str, parameters: Document) -> httpx.Response:
        """What the form's button sends."""
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return self.api.post(f"/deployments/{self.deployment(name)['id']}/create_flow_run", json=body)

    def start(self, name: str, parameters: Document) -> str:
        """The id of a new run."""
        reply = self.submit(name, parameters)
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])

    def run(self, name: str, parameters: Document, seconds: float = 300.0) -> Document:
        """A run that has ended, as the server has it."""
        return self.ended(self.start(name, parameters), seconds)

    def retry(self, run: str) -> None:
        """What the Retry button of Prefect's page sends."""
        again = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
        self.api.post(f"/flow_runs/{run}/set_state", json=again).raise_for_status()

    def cancel(self, run: str) -> None:
        """What the Cancel button of Prefect's page sends."""
        state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        self.api.post(f"/flow_runs/{run}/set_state", json=state).raise_for_status()

    def read(self, run: str) -> Document:
        """The run as the server has it now."""
        found: Document = self.api.get(f"/flow_runs/{run}").raise_for_status().json()
        return found

    def history(self, run: str) -> list[Document]:
        """The states that the run was in, the first one first."""
        found = self.api.get("/flow_run_states/", params={"flow_run_id": run}).raise_for_status().json()
        return sorted(found, key=lambda state: str(state["timestamp"]))

    def ended(self, run: str, seconds: float = 300.0) -> Document:
        """The run once it has ended."""
        self.until(lambda: self.read(run)["state"]["type"] in ENDED, seconds, f"run {run} ends")
        return self.read(run)

    def until(self, true: Callable[[], bool], seconds: float, what: str) -> None:
        """Asks twice a second; the servers may be away meanwhile."""
        deadline = monotonic() + seconds
        while monotonic() < deadline:
            with suppress(httpx.HTTPError):
                if true():
                    return
            sleep(POLL_SECONDS)
        raise AssertionError(f"{what}: not within {seconds:.0f} s; the worker's last words:\n{self.words()}")

    def flow_processes(self, run: str) -> list[psutil.Process]:
        """Those of the run that Prefect started, and not the workers of its stages."""
        found = []
        for process in self.family():
            with suppress(psutil.Error):
                of_run = process.environ().get("PREFECT__FLOW_RUN_ID") == run
                if of_run and "ns_core.worker" not in process.cmdline():
                    found.append(process)
        return found

    def words(self) -> str:
        """The end of the worker's output."""
        log = self.folder / "worker.log"
        return log.read_text(encoding="utf-8", errors="replace")[-4000:] if log.exists() else ""

    def logs(self, run: str) -> list[str]:
        """The log in Prefect of the run, its generations and their tasks, in their order."""
        where = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}
        below = self.api.post("/flow_runs/filter", json=where).raise_for_status().json()
        runs = [run, *(one["id"] for one in below)]
        lines: list[str] = []
        while len(lines) % 200 == 0:  # the server gives no more at once
            body = {"logs": {"flow_run_id": {"any_": runs}}, "sort": "TIMESTAMP_ASC", "offset": len(lines)}
            page = self.api.post("/logs/filter", json=body).raise_for_status().json()
            if not page:
                break
            lines += [str(line["message"]) for line in page]
        return lines

    @property
    def storage(self) -> Storage:
        """The worker's store, for this process."""
        with patch.dict(os.environ, {k: v for k, v in self.environment.items() if k.startswith("AWS_")}):
            return open_storage(self.environment["NS_STORE"])

    def document(self, run: Document) -> Document:
        """`run.json`, which the run left in the store."""
        found: Document = json.loads(self.storage.read(f"runs/{run['name']}/run.json"))
        return found

    def states(self, run: Document) -> dict[tuple[str, int], str]:
        """(stage, generation) -> computed or cached."""
        return {(one["stage"], one["generation"]): one["state"] for one in self.document(run)["stages"]}

    def fingerprints(self, run: Document) -> dict[tuple[str, int], str]:
        """(stage, generation) -> fingerprint."""
        return {(one["stage"], one["generation"]): one["fingerprint"] for one in self.document(run)["stages"]}


@contextmanager
def deployed_on(servers: ServerSet, folder: Path, **options: Any) -> Iterator[Deployed]:
    """A worker, and all deployments on the server; nothing of the worker's is left after the block."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Deployed(servers, folder, **options)
    try:
        made.start_worker()
        made.deploy()
        yield made
    finally:
        made.stop_worker()
        made.api.close()
