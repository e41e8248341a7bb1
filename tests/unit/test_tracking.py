"""Tracking against real MLflow: a sqlite file, and MLflow's own server application on loopback."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ns_core.errors import UserError
from ns_core.tracking import FLUSH_POINTS, Point, Tracker

ROOT = Path(__file__).parents[2]
CLOSED_PORT = "http://127.0.0.1:9"
"""Discard: nothing listens there, so a connection is refused at once."""
DIGEST = "0123456789abcdef" * 4
QUIETING = ["CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "BUILDKITE", "PYTEST_CURRENT_TEST"]
QUIETING += ["MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"]
"""Each of these variables turns MLflow's telemetry off by itself."""


@pytest.fixture(autouse=True)
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database: 3 s of CPU once, and not in every test."""
    file = tmp_path_factory.mktemp("template") / "mlflow.db"
    Tracker(f"sqlite:///{file}", "template", file.parent / "spool").close()
    return file


@pytest.fixture
def database(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(template, tmp_path / "mlflow.db"))


@pytest.fixture
def tracker(database: Path) -> Iterator[Tracker]:
    made = open_tracker(database)
    yield made
    made.close()


def open_tracker(database: Path) -> Tracker:
    return Tracker(f"sqlite:///{database}", "noisy-student", database.parent / "spool")


def client(database: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{database}", f"sqlite:///{database}")


def history(database: Path, run: str, key: str) -> list[tuple[int, float]]:
    rows = client(database).get_metric_history(run, key)
    return sorted((row.step, row.value) for row in rows)


def points(key: str, count: int) -> list[Point]:
    return [Point(key, step / 2, step, 1_000 + step) for step in range(count)]


def spooled(spool: Path) -> list[str]:
    return sorted(path.name for path in spool.glob("*.jsonl"))


class WarningSeen(logging.Handler):
    """Sets its event at the first record."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.event = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.event.set()


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


def test_importing_the_module_loads_no_mlflow() -> None:
    code = "import sys, ns_core.tracking; print({'mlflow', 'sqlalchemy'} & set(sys.modules))"
    assert python(code).communicate(timeout=60)[0] == "set()\n"


@pytest.mark.parametrize("key", ["train/loss", "gen/val_top1", "a b", "pl/class_1.kept-fraction"])
def test_a_metric_key_may_be_a_path_of_plain_names(key: str) -> None:
    assert Point(key, 1.0, 0, 0).key == key


@pytest.mark.parametrize(
    "key", ["", "top@1", "loss(x)", "\u03b1", "/a", "a//b", "a/", "a/../b", "..", "a\n", "a" * 251]
)
def test_a_metric_key_that_mlflow_would_drop_is_an_error_where_it_is_made(key: str) -> None:
    with pytest.raises(ValueError, match="metric key"):
        Point(key, 1.0, 0, 0)


@pytest.mark.parametrize(
    "uri",
    ["", "mlruns", "file:///x", "sqlite:///mlflow.db", "http://", "ftp://h", "https://me:secret@h"],
)
def test_an_address_that_is_no_mlflow_names_the_setting_and_no_password(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--tracking.*NS_TRACKING_URI.*sqlite:////abs") as refused:
        Tracker(uri, "e", tmp_path)
    assert "secret" not in str(refused.value)


def test_both_levels_are_visible_with_their_tags(tracker: Tracker, database: Path) -> None:
    params = {"noise.dropout": 0.5, "model": None, "long": "x" * 7000}
    params |= {f"p{i}": i for i in range(150)}
    parent = tracker.parent("digits/0", "key-a", params, {"ns.recipe": "digits"})
    child = tracker.child(parent, "generation 1", "key-b", {"ns.generation": "1"})
    tracker.log(parent, points("gen/val_top1", 2))
    tracker.log(child, points("train/loss", 3))
    tracker.tags(child, {"prefect.flow_run_id": "f"})
    tracker.finish(child, "FINISHED")
    tracker.finish(parent, "KILLED")

    top, below = client(database).get_run(parent), client(database).get_run(child)
    assert (top.info.run_name, top.info.status) == ("digits/0", "KILLED")
    assert (below.info.run_name, below.info.status) == ("generation 1", "FINISHED")
    assert top.data.tags | {"ns.level": "pipeline", "ns.key": "key-a", "ns.recipe": "digits"} == (top.data.tags)
    assert "mlflow.parentRunId" not in top.data.tags
    assert below.data.tags["mlflow.parentRunId"] == parent
    assert below.data.tags["ns.level"] == "generation"
    assert below.data.tags["prefect.flow_run_id"] == "f"
    assert (top.data.params["noise.dropout"], top.data.params["model"]) == ("0.5", "None")
    assert len(top.data.params) == 153
    assert len(top.data.params["long"]) == 6000
    assert history(database, parent, "gen/val_top1") == [(0, 0.0), (1, 0.5)]
    assert history(database, child, "train/loss") == [(0, 0.0), (1, 0.5), (2, 1.0)]


def test_a_resumed_run_is_the_same_run_and_repeats_no_point(database: Path) -> None:
    ids = []
    for count in (3, 5):
        tracker = open_tracker(database)
        parent = tracker.parent("run", "k", {"a": 1}, {"prefect.flow_run_id": str(count)})
        child = tracker.child(parent, "generation", "k1", {})
        tracker.log(child, [*points("loss", count), Point("nan", float("nan"), 0, 0)])
        ids.append((parent, child))
        if count == 5:
            assert client(database).get_run(child).info.status == "RUNNING"
            assert client(database).get_run(parent).data.tags["prefect.flow_run_id"] == "5"
        tracker.finish(child, "FAILED")
        tracker.close()
    assert ids[0] == ids[1]
    assert [step for step, _ in history(database, child, "loss")] == [0, 1, 2, 3, 4]
    assert len(history(database, child, "nan")) == 1


def test_one_key_under_two_parents_is_two_runs(tracker: Tracker) -> None:
    first, second = (tracker.parent(key, key, {}, {}) for key in ("a", "b"))
    children = {tracker.child(parent, "g", "same", {}) for parent in (first, second)}
    assert len({first, second} | children) == 4


def test_a_param_with_another_value_stays_and_the_new_ones_are_added(
    tracker: Tracker, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.parent("run", "k", {"lr": 0.1, "ema": 0.9}, {})
    run = tracker.parent("run", "k", {"lr": 0.2, "ema": 0.9, "epochs": 3}, {})
    assert client(database).get_run(run).data.params == {"lr": "0.1", "ema": "0.9", "epochs": "3"}
    assert [record.getMessage() for record in caplog.records] == [f"params of run {run} stay as they were: lr"]


def test_a_dataset_is_an_input_with_a_short_digest_and_the_full_one_beside(tracker: Tracker, database: Path) -> None:
    run = tracker.parent("run", "k", {}, {})
    for _ in range(2):
        tracker.dataset(run, "pool", DIGEST, {"uri": "s3://b/x"}, {"num_samples": 9}, "unlabeled")
    (given,) = client(database).get_run(run).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("pool", DIGEST[:32])
    assert json.loads(given.dataset.source) == {"uri": "s3://b/x"}
    assert json.loads(given.dataset.profile) == {"num_samples": 9, "sha256": DIGEST}
    assert {tag.key: tag.value for tag in given.tags} == {"mlflow.data.context": "unlabeled"}


def test_artifacts_lie_beside_the_database_and_nothing_in_the_working_directory(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, report = tmp_path / "elsewhere", tmp_path / "report.md"
    elsewhere.mkdir()
    report.write_text("# verdict", encoding="utf-8")
    monkeypatch.chdir(elsewhere)
    tracker = open_tracker(database)
    run = tracker.parent("run", "k", {}, {})
    tracker.artifact(run, report, "reports")
    tracker.register("teacher", run, "/store/a", DIGEST, {}, ["champion"])
    tracker.close()
    (stored,) = (tmp_path / "mlflow-artifacts").rglob("report.md")
    assert stored.relative_to(tmp_path / "mlflow-artifacts").parts[0] == run
    assert stored.parent.name == "reports"
    assert list(elsewhere.iterdir()) == []


def test_aliases_are_set_and_moved_and_a_repeat_adds_no_version(tracker: Tracker, database: Path) -> None:
    run = tracker.parent("run", "k", {}, {})
    first = ("file:///store/one", DIGEST)
    second = ("s3://store/two", DIGEST[::-1])

    def aliases() -> dict[str, str]:
        registered = client(database).get_registered_model("ns-teacher")
        return {alias: str(version) for alias, version in registered.aliases.items()}

    for _ in range(2):
        tracker.register("ns-teacher", run, *first, {"arch": "b0"}, ["champion", "teacher-gen1"])
        assert aliases() == {"champion": "1", "teacher-gen1": "1"}
    tracker.register("ns-teacher", run, *second, {"arch": "b1"}, ["champion"])
    assert aliases() == {"champion": "2", "teacher-gen1": "1"}
    tracker.register("ns-teacher", run, *first, {"arch": "b0"}, ["champion"])
    assert aliases() == {"champion": "1", "teacher-gen1": "1"}

    registry = client(database)
    assert len(registry.search_model_versions("name = 'ns-teacher'")) == 2
    version = registry.get_model_version_by_alias("ns-teacher", "teacher-gen1")
    assert (version.run_id, version.source) == (run, first[0])
    assert version.tags == {"ns.checkpoint_uri": first[0], "ns.sha256": DIGEST}
    models = registry.search_logged_models([registry.get_run(run).info.experiment_id])
    assert sorted(model.params["arch"] for model in models) == ["b0", "b1"]
    assert {model.source_run_id for model in models} == {run}


def test_more_points_than_mlflow_takes_in_one_call_all_arrive(tracker: Tracker, database: Path) -> None:
    run = tracker.parent("run", "k", {}, {})
    tracker.log(run, points("loss", 1001))
    tracker.finish(run, "FINISHED")
    assert len(history(database, run, "loss")) == 1001


def test_a_full_buffer_is_sent_without_waiting_for_the_clock(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ns_core.tracking.FLUSH_SECONDS", 3600.0)
    tracker, unknown_run, refusal = open_tracker(database), "0" * 32, WarningSeen()
    logging.getLogger("noisy_student.tracking").addHandler(refusal)
    tracker.log(unknown_run, points("loss", FLUSH_POINTS - 1))
    assert not refusal.event.is_set()
    tracker.log(unknown_run, points("loss", 1))
    assert refusal.event.wait(30), "nobody asked MLflow about the unknown run"
    logging.getLogger("noisy_student.tracking").removeHandler(refusal)
    tracker.close()


def test_without_a_run_every_method_does_nothing(tracker: Tracker, database: Path) -> None:
    assert tracker.child("", "generation", "k", {}) == ""
    tracker.log("", points("loss", 1))
    tracker.tags("", {"a": "b"})
    tracker.dataset("", "pool", DIGEST, {}, {}, "train")
    tracker.artifact("", Path("absent"))
    tracker.register("teacher", "", "s3://b/x", DIGEST, {}, ["champion"])
    tracker.finish("", "FINISHED")
    assert tracker.url("") is None
    tracker.close()
    experiments = [found.experiment_id for found in client(database).search_experiments()]
    assert client(database).search_runs(experiments) == []
    assert client(database).search_registered_models() == []
    assert spooled(database.parent / "spool") == []


def test_with_no_server_there_is_one_warning_and_nothing_raises(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(CLOSED_PORT, "noisy-student", tmp_path / "spool")
    assert tracker.parent("run", "k", {"a": 1}, {}) == ""
    assert tracker.url("run") is None
    tracker.tags("run", {"a": "b"})
    tracker.dataset("run", "pool", DIGEST, {}, {}, "train")
    tracker.artifact("run", tmp_path)
    tracker.register("teacher", "run", "s3://b/x", DIGEST, {}, ["champion"])
    tracker.log("run", points("loss", 3))
    tracker.finish("run", "FINISHED")
    tracker.close()
    (warning,) = caplog.records
    assert (warning.name, warning.levelname) == ("noisy_student.tracking", "WARNING")
    assert CLOSED_PORT in warning.getMessage()
    assert "refused" in warning.getMessage()
    assert spooled(tmp_path / "spool") == ["run.jsonl"]


def test_points_spooled_by_one_process_are_delivered_by_the_next(tracker: Tracker, database: Path) -> None:
    run, spool = tracker.parent("run", "k", {}, {}), database.parent / "spool"
    tracker.close()
    for count in (2, 4):
        lost = Tracker(CLOSED_PORT, "noisy-student", spool)
        lost.log(run, [*points("loss", count), Point("inf", float("inf"), 0, 0)])
        lost.log(run, [Point("numpy", np.float32(0.5), np.int64(3), 0)])  # type: ignore[arg-type]
        lost.close()
    with (spool / f"{run}.jsonl").open("ab") as file:
        file.write(b'\n{"key": "loss", "value": 7.0, "st\xff')  # a line torn by a kill
    lost = Tracker(CLOSED_PORT, "noisy-student", spool)
    lost.log(run, points("loss", 5)[-1:])
    lost.close()
    assert spooled(spool) == [f"{run}.jsonl"]

    open_tracker(database).close()
    assert history(database, run, "loss") == [(step, step / 2) for step in range(5)]
    assert len(history(database, run, "inf")) == 1
    assert history(database, run, "numpy") == [(3, 0.5)]
    assert spooled(spool) == []


def test_a_database_that_goes_away_costs_one_warning_and_comes_back(
    tracker: Tracker, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tracker.parent("run", "k", {}, {})
    database.rename(database.with_suffix(".away"))
    database.mkdir()
    tracker.log(run, points("loss", 2))
    tracker.finish(run, "FINISHED")
    assert tracker.parent("other", "k2", {}, {}) == ""
    assert spooled(database.parent / "spool") == [f"{run}.jsonl"]
    assert [record.name for record in caplog.records] == ["noisy_student.tracking"]

    database.rmdir()
    database.with_suffix(".away").rename(database)
    tracker.log(run, points("loss", 3)[-1:])
    tracker.finish(run, "FINISHED")
    assert [step for step, _ in history(database, run, "loss")] == [0, 1, 2]
    assert client(database).get_run(run).info.status == "FINISHED"
    assert spooled(database.parent / "spool") == []


def test_a_file_that_is_no_database_is_a_warning_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "noise").write_bytes(b"no database" * 1000)
    for name in ("folder", "noise"):
        broken = Tracker(f"sqlite:///{tmp_path / name}", "e", tmp_path / "spool")
        assert broken.parent("run", "k", {}, {}) == ""
        broken.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


def test_a_run_deleted_by_hand_does_not_hold_up_the_others(
    tracker: Tracker, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deleted, kept = (tracker.parent(key, key, {}, {}) for key in ("a", "b"))
    client(database).delete_run(deleted)
    for count in (1, 2):
        tracker.log(deleted, points("loss", count))
        tracker.log(kept, points("loss", count))
        tracker.finish(kept, "FINISHED")
    assert [step for step, _ in history(database, kept, "loss")] == [0, 1]
    assert spooled(database.parent / "spool") == [f"{deleted}.jsonl"]
    assert len(caplog.records) == 1
    assert deleted in caplog.records[0].getMessage()

    client(database).restore_run(deleted)
    open_tracker(database).close()
    assert [step for step, _ in history(database, deleted, "loss")] == [0, 1]


def test_a_spool_on_a_broken_disk_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "spool").write_text("a file where a directory should be", encoding="utf-8")
    tracker = Tracker(CLOSED_PORT, "noisy-student", tmp_path / "spool")
    tracker.log("run", points("loss", 1))
    tracker.close()
    assert "points are lost" in caplog.records[-1].getMessage()


class Server:
    """MLflow's own application on a loopback port; it can go away and come back."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

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


@pytest.fixture
def server(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{database}")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", str(database.parent / "served"))
    for process_wide in ("_tracking_store", "_model_registry_store"):
        monkeypatch.setattr(f"mlflow.server.handlers.{process_wide}", None)
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setattr(logging.getLogger("werkzeug"), "disabled", True)
    running = Server()
    yield running
    running.stop()


def test_a_server_that_dies_and_returns_has_everything_in_the_end(
    server: Server, database: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    address = f"http://127.0.0.1:{server.port}"
    tracker = Tracker(f"{address}/", "noisy-student", tmp_path / "spool")
    parent = tracker.parent("run", "k", {"lr": 0.1}, {})
    child = tracker.child(parent, "generation", "k1", {})
    experiment = client(database).get_run(child).info.experiment_id
    page = f"{address}/#/experiments/{experiment}/runs/{child}?workflowType=machine_learning"
    assert tracker.url(child) == page
    tracker.dataset(child, "pool", DIGEST, {}, {}, "train")
    tracker.register("ns-teacher", child, "/store/local", DIGEST, {}, ["champion"])
    tracker.log(child, points("loss", 2))
    tracker.finish(parent, "FINISHED")

    server.stop()
    tracker.log(child, [*points("loss", 4), Point("nan", float("nan"), 0, 0)])
    tracker.finish(child, "FINISHED")
    assert tracker.child(parent, "generation", "k2", {}) == ""
    assert [step for step, _ in history(database, child, "loss")] == [0, 1]
    assert len([record for record in caplog.records if "MLflow" in record.getMessage()]) == 1

    server.start()
    tracker.finish(child, "FINISHED")
    tracker.close()
    assert [step for step, _ in history(database, child, "loss")] == [0, 1, 2, 3]
    assert len(history(database, child, "nan")) == 1
    assert client(database).get_run(child).info.status == "FINISHED"
    assert len(client(database).get_run(child).inputs.dataset_inputs) == 1
    champion = client(database).get_model_version_by_alias("ns-teacher", "champion")
    assert champion.source.startswith("models:/")
    assert champion.tags["ns.checkpoint_uri"] == "/store/local"


ONE_METRIC = """
import sys
from pathlib import Path
from ns_core.tracking import Point, Tracker
database, name = Path(sys.argv[1]), sys.argv[2]
tracker = Tracker(f"sqlite:///{database}", "race", database.parent / "spool")
run = tracker.parent(name, name, {}, {})
tracker.log(run, [Point("loss", 1.0, 0, 0)])
"""


@pytest.mark.timeout(240)
def test_four_processes_on_one_fresh_database_all_succeed_quietly(tmp_path: Path) -> None:
    database = tmp_path / "new folder" / "mlflow.db"
    started = [python(ONE_METRIC, database, f"rank{rank}") for rank in range(4)]
    ended = [process.communicate(timeout=180) for process in started]
    assert [process.returncode for process in started] == [0] * 4
    assert ended == [("", "")] * 4
    experiment = client(database).get_experiment_by_name("race")
    runs = client(database).search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["rank0", "rank1", "rank2", "rank3"]
    # None of the four closes its tracker: the interpreter's exit sent the point.
    assert [run.data.metrics for run in runs] == [{"loss": 1.0}] * 4


WATCHED = """
import json, sys
reached = []
def hook(event, arguments):
    if event == "socket.getaddrinfo":
        reached.append(str(arguments[0]))
    elif event == "socket.connect":
        reached.append(str(arguments[1][0] if isinstance(arguments[1], tuple) else "unix"))
sys.addaudithook(hook)
"""
REPORT = """
tracker.close()
from mlflow.telemetry import get_telemetry_client
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9))
print(json.dumps([get_telemetry_client() is None, sorted(set(reached))]))
"""


@pytest.mark.timeout(240)
def test_no_address_but_loopback_is_ever_contacted(database: Path) -> None:
    process = python(WATCHED + ONE_METRIC + REPORT, database, "watched")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    telemetry_is_off, reached = json.loads(output)
    assert telemetry_is_off
    assert reached == ["127.0.0.1"], "only the connection that shows that the hook works"
