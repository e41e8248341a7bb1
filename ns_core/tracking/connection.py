"""MLflow's client, and how each kind of entry is told to it; the one module that imports mlflow.

In: an address, and entries of a run. Out: what MLflow answers; whatever it raises is let through. Only `MlflowClient`
with explicit run ids: the fluent API's run is thread-local, and another thread silently opens a new one.
Importing mlflow takes 2 s, so it is done by the first call, and only where something answers.
"""

import logging
import os
import re
import sqlite3
import ssl
import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from filelock import FileLock

from ns_core.errors import UserError
from ns_core.tracking.entries import Entry
from ns_core.tracking.registration import register

if TYPE_CHECKING:
    from mlflow import MlflowClient

ANSWER_SECONDS = 5.0
"""How long a server may take to say that it is there."""
_GATEWAY = (502, 503, 504)
"""What a proxy says for a server that is away."""
_HANDLE, _OPENED = "ns.handle", "ns.opened"
"""Tags of a run: its local handle, if it had one; when it was opened last, so that late news of before do not count."""
_NOTE = "mlflow.note.content"
"""A run's description on its page."""
_ENVIRONMENT = {  # for mlflow, where the process's own says nothing else; children inherit it
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # gives up after 14 s; MLflow's 7 take 4 minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_log = logging.getLogger("noisy_student.tracking")


class Connection:
    """A line to one experiment of one MLflow. Thread-safe; to be built after a fork.

    `uri`: `sqlite:////abs/mlflow.db` (artifacts go to `mlflow-artifacts` beside it) or `http(s)://`, else UserError;
    nothing is asked until the first call. `experiment` is made if missing.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?|sqlite:////[^?]+", uri):
            raise UserError(
                "--tracking (NS_TRACKING_URI) is neither sqlite:////absolute/path/mlflow.db nor "
                "http(s)://host:port; a password goes into MLFLOW_TRACKING_PASSWORD"
            )
        self.uri, self.experiment, self.experiment_id = uri.rstrip("/"), experiment, ""
        self._database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite") else None
        self._client: MlflowClient | None = None
        self._lock = threading.RLock()

    @property
    def server(self) -> bool:
        """Whether MLflow is a server, with pages, and not a file."""
        return self._database is None

    def client(self) -> "MlflowClient":
        """MLflow's own client, connected."""
        with self._lock:
            if self._client is None:
                self.check()
                self._client = self._connect()
            return self._client

    def drop(self) -> None:
        """The next call connects anew."""
        with self._lock:
            self._client = None

    def check(self) -> None:
        """Raise unless something answers there, within 5 s: MLflow's client tries for 14 s, a file for 100."""
        if self._database:
            self._database.parent.mkdir(parents=True, exist_ok=True)
            try:
                with closing(sqlite3.connect(self._database, ANSWER_SECONDS)) as opened:
                    opened.execute("pragma schema_version")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):  # somebody writes: it is there
                    raise
            return
        try:
            urlopen(f"{self.uri}/health", timeout=ANSWER_SECONDS).close()
        except HTTPError as error:
            if error.code in _GATEWAY:
                raise
        except URLError as error:
            if not isinstance(error.reason, ssl.SSLError):  # those are settled by MLflow's own settings
                raise OSError(str(error.reason)) from error

    def exists(self, run: str) -> bool:
        """Whether MLflow has this run, not deleted; raises where MLflow itself is away. "": the experiment."""
        self.check()
        client = self.client()
        try:
            if run:
                return bool(client.get_run(run).info.lifecycle_stage == "active")
            return bool(client.get_experiment(self.experiment_id).lifecycle_stage == "active")
        except Exception as error:
            if getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return False
            raise

    def runs(self, tags: Sequence[tuple[str, str]], limit: int = 1) -> list[Any]:
        """Runs with these tags, the newest first."""
        same = " and ".join(f"tags.`{name}` = {_quoted(value)}" for name, value in tags)
        client = self.client()
        return list(client.search_runs([self.experiment_id], same, max_results=limit, order_by=["start_time DESC"]))

    def run_of(self, handle: str) -> str:
        """The run that was opened under a local handle, by whatever process; "" if MLflow has none yet."""
        found = self.runs([(_HANDLE, handle)])
        return str(found[0].info.run_id) if found else ""

    def open(self, entry: Entry, parent: str, *, late: bool) -> str:
        """The id of the run with the entry's `ns.key` (under `parent`): found and set RUNNING again, or created.

        Find-or-create is not atomic in MLflow: only one process, the orchestrator, opens runs.
        """
        client, body = self.client(), entry.body
        identity = {"ns.level": body["level"], "ns.key": body["key"]}
        identity |= {"mlflow.parentRunId": parent} if parent else {}
        tags = {**body["tags"], **identity, _OPENED: str(entry.at)} | ({_HANDLE: entry.run} if late else {})
        found = self.runs([*identity.items()])
        if not found:
            made = client.create_run(self.experiment_id, start_time=entry.at, tags=tags, run_name=body["name"])
            return str(made.info.run_id)
        run, held = str(found[0].info.run_id), found[0].data.tags
        if not (late and _is_older(entry, held)):
            client.update_run(run, "RUNNING")
        # What a person wrote there stays.
        tags = {name: value for name, value in tags.items() if name != _NOTE or name not in held}
        self._tag(run, _not_older(entry, tags, held) if late else tags)
        return run

    def tell(self, entries: Sequence[Entry], run: str, *, late: bool) -> None:
        """Tell entries of one kind, several only of points. `late`: they waited in a journal, and if the run was
        opened again since, they change none of its tags and not its status."""
        client, entry = self.client(), entries[0]
        body = entry.body
        if entry.kind == "points":
            from mlflow.entities import Metric

            points = [point for one in entries for point in one.body["points"]]
            client.log_batch(run, metrics=[Metric(key, value, stamp, step) for key, value, step, stamp in points])
        elif entry.kind == "params":
            self._params(run, body["params"])
        elif entry.kind == "tags":
            self._tag(run, _not_older(entry, body["tags"], client.get_run(run).data.tags) if late else body["tags"])
        elif entry.kind == "dataset":
            from mlflow.entities import Dataset, DatasetInput, InputTag

            dataset = Dataset(body["name"], body["digest"], "webdataset", body["source"], profile=body["profile"])
            use = InputTag("mlflow.data.context", body["context"])
            client.log_inputs(run, datasets=[DatasetInput(dataset, [use])])
        elif entry.kind == "artifact":
            self._upload(run, entry)
        elif entry.kind == "register":
            register(client, self.experiment_id, run, entry, late=late, server=self.server)
        elif not (late and _is_older(entry, client.get_run(run).data.tags)):
            client.set_terminated(run, body["status"], entry.at)

    def _params(self, run: str, given: dict[str, str]) -> None:
        from mlflow.entities import Param

        held = self.client().get_run(run).data.params
        if changed := sorted(name for name in held.keys() & given if held[name] != given[name]):
            _log.warning("params of run %s stay as they were: %s", run, ", ".join(changed))
        new = [Param(name, value) for name, value in given.items() if name not in held]
        self.client().log_batch(run, params=new)

    def _tag(self, run: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client().log_batch(run, tags=[RunTag(name, value) for name, value in tags.items()])

    def _upload(self, run: str, entry: Entry) -> None:
        body = entry.body
        if entry.data is None:
            self.client().log_artifact(run, body["path"], body["folder"] or None)
            return
        with TemporaryDirectory(prefix="ns-artifact-") as folder:
            copy = Path(folder) / body["name"]
            copy.write_bytes(entry.data)
            self.client().log_artifact(run, str(copy), body["folder"] or None)

    def _connect(self) -> "MlflowClient":
        for variable, value in _ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        for noisy in ("mlflow.store", "urllib3.connectionpool"):  # a line or traceback a call
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        from mlflow import MlflowClient

        name, file, folder = self.experiment, self._database, None
        with ExitStack() as stack:
            if file:
                # Of 4 processes that migrate one fresh file 3 crash in Alembic.
                stack.enter_context(FileLock(f"{file}.lock"))
                folder = file.with_name("mlflow-artifacts").as_uri()
            client = MlflowClient(self.uri, self.uri)
            old = client.get_experiment_by_name(name)
            self.experiment_id = old.experiment_id if old else client.create_experiment(name, folder)
        return client


def _is_older(entry: Entry, held: dict[str, str]) -> bool:
    """Whether the run was opened after this was asked for."""
    return entry.at < int(held.get(_OPENED, 0))


def _not_older(entry: Entry, tags: dict[str, str], held: dict[str, str]) -> dict[str, str]:
    """The tags that a late entry may set."""
    if not _is_older(entry, held):
        return tags
    return {name: value for name, value in tags.items() if name not in held}


def _quoted(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"
