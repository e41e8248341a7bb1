"""Metrics, parameters and the addresses of checkpoints to MLflow; the one module that imports it.

In: an MLflow address and `Point`s of a run. Out: two levels of MLflow runs (a pipeline run, under
it one run a generation), and registered models that point at checkpoints in the store.

Tracking never ends a training run. Once a `Tracker` is built, an outage is one warning; a run asked
for meanwhile is `""`, which every method takes for "no run"; metric points wait in the spool for a
flush of this or a later `Tracker`. Sending them twice is safe: of rows equal in key, timestamp,
step and value MLflow keeps one. Only `MlflowClient` with explicit run ids: the fluent API's run is
thread-local, and another thread silently opens a new one. Building a `Tracker` imports mlflow: 2 s.
"""

import atexit
import json
import logging
import os
import re
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from ns_core.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

FLUSH_SECONDS, FLUSH_POINTS = 5.0, 500
MAX_PARAM_CHARS = 6000  # MLflow's; what a call may hold (1000 metrics), its client sees to
_ENVIRONMENT = {  # for mlflow, where the process's own says nothing else; children inherit it
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # gives up after 14 s; MLflow's 7 take 4 minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
Facts = Mapping[str, object]
Tags = Mapping[str, str]
_log = logging.getLogger("noisy_student.tracking")


@dataclass(frozen=True)
class Point:
    """One value of a metric at a step; `timestamp_ms` is Unix time in milliseconds.

    `key`: names joined by `/`, each of ASCII letters, digits and `_-. ` and none empty or starting
    with punctuation; at most 250 characters. Another, which MLflow may refuse, is a ValueError.
    """

    key: str
    value: float
    step: int
    timestamp_ms: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(?=.{1,250}$)\w[\w\-. ]*(/\w[\w\-. ]*)*", self.key, re.ASCII):
            raise ValueError(f"not a metric key that MLflow takes: {self.key!r}")


class Tracker:
    """One process's line to MLflow. Thread-safe; to be built after a fork.

    `uri`: `sqlite:////abs/mlflow.db` (artifacts go to `mlflow-artifacts` beside it) or `http(s)://`,
    else UserError; where nothing answers, later calls try again. `experiment` is made if missing.
    `spool`: a directory of `<run>.jsonl`, a point a line, which processes may share.
    """

    def __init__(self, uri: str, experiment: str, spool: Path) -> None:
        if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?|sqlite:////[^?]+", uri):
            raise UserError(
                "--tracking (NS_TRACKING_URI) is neither sqlite:////absolute/path/mlflow.db nor "
                "http(s)://host:port; a password goes into MLFLOW_TRACKING_PASSWORD"
            )
        self._uri, self._experiment, self._exp_id = uri.rstrip("/"), experiment, ""
        self._database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite") else None
        self._client: MlflowClient | None = None
        self._spool, self._away, self._refused = spool, False, set[str]()
        self._buffer: defaultdict[str, list[Point]] = defaultdict(list)
        self._buffering, self._flushing = threading.RLock(), threading.RLock()
        self._wake, self._closed = threading.Event(), threading.Event()
        with self._forgiving("connect"):
            self._connect()
        self._thread = threading.Thread(target=self._flush_often, name="tracking", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def parent(self, name: str, key: str, params: Facts, tags: Tags) -> str:
        """The id of the pipeline run of this key: found and set RUNNING again, or created.

        Adds the tags `ns.level` = "pipeline" and `ns.key`. A param is cut at 6000 characters and
        final in MLflow: one that has another value stays, with a warning. Find-or-create is not
        atomic there: only one process, the orchestrator, opens runs.
        """
        if run := self._open(name, tags, {"ns.level": "pipeline", "ns.key": key}):
            with self._forgiving(f"log params of run {run}"):
                from mlflow.entities import Param

                held = self._connect().get_run(run).data.params
                given = {name: str(value)[:MAX_PARAM_CHARS] for name, value in params.items()}
                if changed := sorted(k for k in held.keys() & given if held[k] != given[k]):
                    _log.warning("params of run %s stay as they were: %s", run, ", ".join(changed))
                new = [Param(name, value) for name, value in given.items() if name not in held]
                self._connect().log_batch(run, params=new)
        return run

    def child(self, parent: str, name: str, key: str, tags: Tags) -> str:
        """The id of the generation run of this key under `parent`; otherwise as `parent()`."""
        identity = {"ns.level": "generation", "ns.key": key, "mlflow.parentRunId": parent}
        return self._open(name, tags, identity) if parent else ""

    def log(self, run: str, points: Iterable[Point]) -> None:
        """Take points, to be sent in the background every 5 s or 500 points."""
        assert not self._closed.is_set(), "log() after close() would lose points"
        if run:
            with self._buffering:
                self._buffer[run].extend(points)
                if sum(map(len, self._buffer.values())) >= FLUSH_POINTS:
                    self._wake.set()

    def tags(self, run: str, tags: Tags) -> None:
        """Set tags of the run; its others stay."""
        if run:
            with self._forgiving(f"set tags of run {run}"):
                from mlflow.entities import RunTag

                self._connect().log_batch(run, tags=[RunTag(*tag) for tag in tags.items()])

    def dataset(self, run: str, name: str, digest: str, source: Facts, profile: Facts, context: str) -> None:
        """Record a dataset as an input of the run, once; `context`: its use, such as "train".

        `digest` is a sha256 in hex: MLflow takes at most 36 characters, so its first 32 identify
        the dataset and the profile keeps all. `source`, at most 64 kB of JSON: where the manifest
        is, not a list of shards.
        """
        if run:
            with self._forgiving(f"record dataset {name}"):
                from mlflow.entities import Dataset, DatasetInput, InputTag

                full, where = json.dumps({**profile, "sha256": digest}), json.dumps(dict(source))
                dataset = Dataset(name, digest[:32], "webdataset", where, profile=full)
                use = InputTag("mlflow.data.context", context)
                self._connect().log_inputs(run, datasets=[DatasetInput(dataset, [use])])

    def artifact(self, run: str, path: Path, folder: str = "") -> None:
        """Upload a small file (a report, a plot); large data stays in the store."""
        if run:
            with self._forgiving(f"upload {path.name}"):
                self._connect().log_artifact(run, str(path), folder or None)

    def register(self, model: str, run: str, uri: str, sha256: str, params: Tags, aliases: Sequence[str]) -> None:
        """Make the checkpoint at `uri` a version of a registered model; point `aliases` at it.

        No bytes move. A checkpoint known by its `ns.sha256` keeps its version, so that a repeat
        only moves aliases. `model` may not hold any of `/ : . %` nor quotes.
        """
        if run:
            with self._forgiving(f"register {model}"):
                client, tags = self._connect(), {"ns.checkpoint_uri": uri, "ns.sha256": sha256}
                known = f"name = '{model}' and tags.`ns.sha256` = '{sha256}'"
                found = client.search_model_versions(known, max_results=1)
                version = found[0].version if found else self._add(model, run, tags, params)
                for alias in aliases:
                    client.set_registered_model_alias(model, alias, str(version))

    def finish(self, run: str, status: str) -> None:
        """Send what is buffered, then end the run as FINISHED, FAILED or KILLED (never spooled)."""
        assert status in ("FINISHED", "FAILED", "KILLED"), status
        if run:
            self._flush()
            with self._forgiving(f"end run {run} as {status}"):
                self._connect().set_terminated(run, status)

    def url(self, run: str) -> str | None:
        """The run's page, in MLflow's mode for training and not for LLMs; None without a server."""
        if self._database or not (run and self._exp_id):
            return None
        return f"{self._uri}/#/experiments/{self._exp_id}/runs/{run}?workflowType=machine_learning"

    def close(self) -> None:
        """Send or spool what is buffered, and stop. The interpreter's exit does it too."""
        self._closed.set()
        self._wake.set()
        self._thread.join()
        self._flush()
        atexit.unregister(self.close)

    @contextmanager
    def _forgiving(self, what: str, run: str = "") -> Iterator[None]:
        """Turn a failure of MLflow into a warning: one an outage, or one a refused request."""
        try:
            yield
            self._away = False
        except Exception as error:  # MLflow lets SQLAlchemy's, Alembic's and artifact stores' out
            code = getattr(error, "error_code", "")
            refused = code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
            if refused or not self._away:
                _log.warning("MLflow %s cannot %s: %s", self._uri, what, str(error).split("\n")[0])
            self._away = not refused
            self._refused.update({run} if refused else ())  # deleted by hand: points stay spooled

    def _connect(self) -> "MlflowClient":
        if self._client is None:
            for variable, value in _ENVIRONMENT.items():
                os.environ.setdefault(variable, value)
            for noisy in ("mlflow.store", "urllib3.connectionpool"):  # a line or traceback a call
                logging.getLogger(noisy).setLevel(logging.CRITICAL)
            from mlflow import MlflowClient

            name, file, folder = self._experiment, self._database, None
            with ExitStack() as stack:
                if file:
                    # Of 4 processes that migrate one fresh file 3 crash in Alembic. And MLflow
                    # retries a file that does not open for 100 s, where sqlite says so at once.
                    stack.enter_context(FileLock(f"{file}.lock"))
                    stack.enter_context(closing(sqlite3.connect(file)))
                    folder = file.with_name("mlflow-artifacts").as_uri()
                client = MlflowClient(self._uri, self._uri)
                old = client.get_experiment_by_name(name)
                self._exp_id = old.experiment_id if old else client.create_experiment(name, folder)
            self._client = client
        return self._client

    def _open(self, name: str, tags: Tags, identity: Tags) -> str:
        run = ""
        with self._forgiving(f"open run {name}"):
            client, tags = self._connect(), {**tags, **identity}
            same = " and ".join(f"tags.`{key}` = '{value}'" for key, value in identity.items())
            if found := client.search_runs([self._exp_id], same, max_results=1):
                run = found[0].info.run_id
                client.update_run(run, "RUNNING")
                self.tags(run, tags)
            else:
                run = client.create_run(self._exp_id, tags=tags, run_name=name).info.run_id
        return str(run)

    def _add(self, model: str, run: str, tags: dict[str, str], params: Tags) -> int | str:
        client = self._connect()
        if not client.search_registered_models(f"name = '{model}'"):
            client.create_registered_model(model)
        # Neither mlflow.create_external_model nor, on sqlite, a `models:/` source: they use the
        # tracking URI of the process, not of this client. A server refuses local paths as source.
        marked = {**tags, "mlflow.model.isExternal": "true"}
        made = client.create_logged_model(self._exp_id, model, run, marked, dict(params))
        client.finalize_logged_model(made.model_id, "READY")
        source = tags["ns.checkpoint_uri"] if self._database else f"models:/{made.model_id}"
        return client.create_model_version(model, source, run, tags, model_id=made.model_id).version

    def _flush_often(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            self._flush()

    def _flush(self) -> None:
        """Send the buffer, then the spool; after a failure the rest waits in the spool."""
        with self._flushing:
            with self._buffering:
                fresh, self._buffer, up = self._buffer, defaultdict(list), True
            try:
                for run, rows in fresh.items():
                    if run in self._refused or not (up := up and self._send(run, rows)):
                        path = self._spool / f"{run}.jsonl"
                        with FileLock(self._spool / ".lock"), path.open("a") as file:
                            file.writelines(f"\n{json.dumps(vars(p), default=float)}" for p in rows)
                for path in sorted(self._spool.glob("*.jsonl")):
                    up = up and (path.stem in self._refused or self._replay(path))
            except Exception as error:
                _log.warning("metric points are lost, spool %s: %s", self._spool, error)

    def _replay(self, path: Path) -> bool:
        with FileLock(self._spool / ".lock"):
            points = []
            for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
                with suppress(ValueError, TypeError):  # empty, or torn by a kill
                    points.append(Point(**json.loads(line)))
            if sent := self._send(path.stem, points):
                path.unlink(missing_ok=True)
        return sent

    def _send(self, run: str, points: Sequence[Point]) -> bool:
        with self._forgiving(f"send metrics of run {run}", run):
            from mlflow.entities import Metric

            rows = [Metric(p.key, float(p.value), p.timestamp_ms, int(p.step)) for p in points]
            self._connect().log_batch(run, metrics=rows)
            return True
        return False
