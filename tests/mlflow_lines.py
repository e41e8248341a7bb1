"""Real MLflow for tests: a sqlite file that can go away, MLflow's own application on loopback, other processes."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ns_core.tracking import Point, Tracker, waiting

ROOT = Path(__file__).parents[1]
CLOSED_PORT = "http://127.0.0.1:9"
"""Discard: nothing listens there, so a connection is refused at once."""
DIGEST = "0123456789abcdef" * 4
EXPERIMENT = "noisy-student"
QUIETING = ["CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "BUILDKITE", "PYTEST_CURRENT_TEST"]
QUIETING += ["MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"]
"""Each of these variables turns MLflow's telemetry off by itself."""


def open_tracker(database: Path, spool: str = "spool") -> Tracker:
    return Tracker(f"sqlite:///{database}", EXPERIMENT, database.parent / spool)


def client(database: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{database}", f"sqlite:///{database}")


def runs(database: Path) -> list[Any]:
    """All runs of the experiment, parents first."""
    line = client(database)
    experiment = line.get_experiment_by_name(EXPERIMENT)
    found = line.search_runs([experiment.experiment_id]) if experiment else []
    return sorted(found, key=lambda run: ("mlflow.parentRunId" in run.data.tags, run.info.run_name))


def history(database: Path, run: str, key: str) -> list[tuple[int, float]]:
    rows = client(database).get_metric_history(run, key)
    return sorted((row.step, row.value) for row in rows)


def points(key: str, count: int) -> list[Point]:
    return [Point(key, step / 2, step, 1_000 + step) for step in range(count)]


def kept(database: Path, spool: str = "spool") -> int:
    """How many entries wait, for whatever MLflow."""
    return sum(waiting(database.parent / spool).values())


@contextmanager
def away(database: Path) -> Iterator[None]:
    """The file cannot be opened meanwhile."""
    aside = database.with_suffix(".away")
    database.rename(aside)
    database.mkdir()
    try:
        yield
    finally:
        database.rmdir()
        aside.rename(database)


def until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in QUIETING}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tell_all(tracker: Tracker, folder: Path, key: str = "k") -> tuple[str, str]:
    """Everything that a run tells MLflow, once: a parent and a child, both ended."""
    report = folder / "report.md"
    report.write_text(f"# verdict of {key}", encoding="utf-8")
    parent = tracker.parent(f"run {key}", key, {"lr": 0.1}, {"ns.recipe": "digits"})
    child = tracker.child(parent, f"run {key} g1", f"{key}1", {"ns.generation": "1"})
    tracker.log(parent, points("gen/top1", 2))
    tracker.log(child, points("loss", 3))
    tracker.tags(child, {"ns.step": "early"})
    tracker.tags(child, {"ns.step": "late"})
    tracker.dataset(child, "pool", DIGEST, {"uri": "s3://b/x"}, {"images": 9}, "unlabeled")
    tracker.artifact(parent, report, "report")
    report.unlink()
    for verdict in ("pending", "promote"):
        tags = {"ns.verdict": verdict}
        tracker.register(f"model-{key}", child, "/store/one", DIGEST, {"arch": "b0"}, ["champion"], tags=tags)
    tracker.finish(child, "FINISHED")
    tracker.finish(parent, "FAILED")
    return parent, child


def check_all(database: Path, key: str = "k") -> tuple[str, str]:
    """MLflow has what `tell_all` told, each thing once; the two runs' ids."""
    line = client(database)
    parent, child = [run for run in runs(database) if run.data.tags["ns.key"].startswith(key)]
    ids = parent.info.run_id, child.info.run_id
    assert (parent.info.run_name, parent.info.status) == (f"run {key}", "FAILED")
    assert (child.info.run_name, child.info.status) == (f"run {key} g1", "FINISHED")
    assert parent.data.params == {"lr": "0.1"}
    assert (parent.data.tags["ns.level"], parent.data.tags["ns.recipe"]) == ("pipeline", "digits")
    assert (child.data.tags["ns.level"], child.data.tags["ns.step"]) == ("generation", "late")
    assert child.data.tags["mlflow.parentRunId"] == ids[0]
    assert history(database, ids[0], "gen/top1") == [(0, 0.0), (1, 0.5)]
    assert history(database, ids[1], "loss") == [(0, 0.0), (1, 0.5), (2, 1.0)]
    (given,) = child.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("pool", DIGEST[:32])
    (stored,) = database.parent.rglob(f"{ids[0]}/**/report/report.md")
    assert stored.read_text(encoding="utf-8") == f"# verdict of {key}"
    (version,) = line.search_model_versions(f"name = 'model-{key}'")
    assert version.tags == {"ns.checkpoint_uri": "/store/one", "ns.sha256": DIGEST, "ns.verdict": "promote"}
    assert version.run_id == ids[1]
    assert str(line.get_registered_model(f"model-{key}").aliases["champion"]) == str(version.version)
    logged = line.search_logged_models([child.info.experiment_id], f"name = 'model-{key}'")
    assert [model.source_run_id for model in logged] == [ids[1]]
    return ids


class Server:
    """MLflow's own application on a loopback port; it can go away and come back."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        from mlflow.server import app
        from werkzeug.serving import make_server

        self._listener = make_server("127.0.0.1", self.port, app, threaded=True)
        self.port = self._listener.port
        self._thread = threading.Thread(target=self._listener.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()
