"""What the rest of the project tells MLflow by: two levels of runs, their curves, inputs, files and checkpoints.

In: an MLflow address and what happens in a run. Out: a pipeline run, under it one run a generation, and registered
models that point at checkpoints in the store.

Tracking never ends a training run, and MLflow that is away costs nothing but time: once a `Tracker` is built no method
raises, and what cannot be told waits in the spool for this or a later `Tracker`, of any process. Telling it twice is
safe: of rows equal in key, timestamp, step and value MLflow keeps one. A run asked for meanwhile has a local handle
that every method takes. `""` is no run, for which every method does nothing.
"""

import atexit
import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ns_core.tracking.connection import Connection
from ns_core.tracking.delivery import LOCK_SECONDS, Delivery
from ns_core.tracking.entries import Entry, local_handle
from ns_core.tracking.journal import BATCH_POINTS, Journal
from ns_core.tracking.pages import compare_page, run_page
from ns_core.tracking.points import Point, rows

FLUSH_SECONDS, FLUSH_POINTS = 5.0, 500
RETRY_SECONDS = 5.0
"""Between two tries of the background thread while something waits."""
MAX_PARAM_CHARS = 6000  # MLflow's; what a call may hold (1000 metrics), its client sees to
_MOST_SIMILAR = 1000
Facts = Mapping[str, object]
Tags = Mapping[str, str]
_log = logging.getLogger("noisy_student.tracking")


class Tracker:
    """One process's line to MLflow. Thread-safe; to be built after a fork.

    `uri`: `sqlite:////abs/mlflow.db` (artifacts go to `mlflow-artifacts` beside it) or `http(s)://`,
    else UserError. `experiment` is made if missing. `spool`: a directory for what waits, which
    processes may share.
    """

    def __init__(self, uri: str, experiment: str, spool: Path) -> None:
        self._connection = Connection(uri, experiment)
        self._journal = Journal(spool, f"{self._connection.uri} {experiment}")
        self._delivery = Delivery(self._connection, self._journal)
        self._buffer: defaultdict[str, list[Point]] = defaultdict(list)
        self._buffering, self._flushing = threading.RLock(), threading.RLock()
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._flush_often, name="tracking", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def parent(self, name: str, key: str, params: Facts, tags: Tags) -> str:
        """The pipeline run of this key: found and set RUNNING again, or created.

        Its MLflow id; a local handle, the same for the same key, while MLflow is away. Adds the tags
        `ns.level` = "pipeline" and `ns.key`. A param is cut at 6000 characters and final in MLflow: one
        that has another value stays, with a warning.
        """
        run = self._open(name, key, "", tags)
        if run:
            given = {param: str(value)[:MAX_PARAM_CHARS] for param, value in params.items()}
            self._delivery.give(Entry("params", run, {"params": given}))
        return run

    def child(self, parent: str, name: str, key: str, tags: Tags) -> str:
        """The generation run of this key under `parent`; otherwise as `parent()`."""
        return self._open(name, key, parent, tags) if parent else ""

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
            self._delivery.give(Entry("tags", run, {"tags": _texts(tags)}))

    def dataset(self, run: str, name: str, digest: str, source: Facts, profile: Facts, context: str) -> None:
        """Record a dataset as an input of the run, once; `context`: its use, such as "train".

        `digest` is a sha256 in hex: MLflow takes at most 36 characters, so its first 32 identify
        the dataset and the profile keeps all. `source`, at most 64 kB of JSON: where the manifest
        is, not a list of shards.
        """
        if run:
            full = json.dumps({**profile, "sha256": digest}, default=str)
            where = json.dumps(dict(source), default=str)
            body = {"name": name, "digest": digest[:32], "source": where, "profile": full, "context": context}
            self._delivery.give(Entry("dataset", run, body))

    def artifact(self, run: str, path: Path, folder: str = "") -> None:
        """Upload a small file (a report, a plot); large data stays in the store."""
        if run and path.is_file():
            body = {"name": path.name, "path": str(path.absolute()), "folder": folder}
            self._delivery.give(Entry("artifact", run, body))
        elif run:
            _log.warning("cannot upload %s: there is no such file", path)

    def register(  # noqa: PLR0913
        self,
        model: str,
        run: str,
        uri: str,
        sha256: str,
        params: Tags,
        aliases: Sequence[str],
        *,
        tags: Tags | None = None,
    ) -> None:
        """Make the checkpoint at `uri` a version of a registered model; point `aliases` at it.

        No bytes move. A checkpoint known by its `ns.sha256` keeps its version, so that a repeat
        only moves aliases and sets `tags`, the version's own. `model` may not hold any of `/ : . %`
        nor quotes.
        """
        if run:
            body = {"model": model, "uri": uri, "sha256": sha256, "params": _texts(params)}
            body |= {"aliases": list(aliases), "tags": _texts(tags or {})}
            self._delivery.give(Entry("register", run, body))

    def finish(self, run: str, status: str) -> None:
        """Send what is buffered, then end the run as FINISHED, FAILED or KILLED."""
        assert status in ("FINISHED", "FAILED", "KILLED"), status
        if run:
            self._flush()
            self._delivery.give(Entry("finish", run, {"status": status}))
            if self._delivery.waiting():
                self._delivery.deliver(LOCK_SECONDS)
                self._delivery.warn_of_rest()

    def url(self, run: str) -> str | None:
        """The run's page; None without a server, and while the run has a local handle only."""
        real, experiment = self._delivery.resolve(run), self._connection.experiment_id
        return (
            run_page(self._connection.uri, experiment, real)
            if self._connection.server and real and experiment
            else None
        )

    def compare_url(self, runs: Sequence[str] = ()) -> str | None:
        """The page that compares these runs, the experiment's charts for fewer than two; None without a server."""
        if not (self._connection.server and (experiment := self._connection.experiment_id)):
            return None
        return compare_page(
            self._connection.uri, experiment, [real for run in runs if (real := self._delivery.resolve(run))]
        )

    def similar(self, tag: str, value: str) -> list[str]:
        """Ids of the pipeline runs with this tag, at most 1000, the newest first; none while MLflow is away."""
        if self._delivery.away:
            return []
        try:
            found = self._connection.runs([(tag, value), ("ns.level", "pipeline")], _MOST_SIMILAR)
        except Exception as error:
            self._delivery.asked(error)
            return []
        return [str(run.info.run_id) for run in found]

    def close(self) -> None:
        """Send or keep what is buffered, and stop. The interpreter's exit does it too."""
        self._closed.set()
        self._wake.set()
        self._thread.join()
        self._flush()
        if self._delivery.waiting():
            self._delivery.deliver(LOCK_SECONDS)
            self._delivery.warn_of_rest()
        self._journal.close()
        atexit.unregister(self.close)

    def _open(self, name: str, key: str, parent: str, tags: Tags) -> str:
        level = "generation" if parent else "pipeline"
        body = {"name": name, "key": key, "level": level, "parent": parent, "tags": _texts(tags)}
        return self._delivery.open(Entry("open", local_handle(key, parent), body))

    def _flush_often(self) -> None:
        tried = time.monotonic()
        while not self._closed.is_set():
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            self._flush()
            due = time.monotonic() - tried >= RETRY_SECONDS
            if due and not self._closed.is_set() and (self._delivery.away or self._delivery.waiting()):
                self._delivery.deliver()
                tried = time.monotonic()

    def _flush(self) -> None:
        """Tell MLflow, or the journal, what is buffered."""
        with self._flushing:
            with self._buffering:
                fresh, self._buffer = self._buffer, defaultdict(list)
            for run, points in fresh.items():
                try:
                    given = rows(points)
                except (TypeError, ValueError, OverflowError) as error:
                    _log.warning("points of run %s are no numbers, they are lost: %s", run, error)
                    continue
                for start in range(0, len(given), BATCH_POINTS):
                    self._delivery.give(Entry("points", run, {"points": given[start : start + BATCH_POINTS]}))


def _texts(tags: Tags) -> dict[str, str]:
    return {name: str(value) for name, value in tags.items()}
