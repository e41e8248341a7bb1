"""MLflow goes away and comes back within a process: nothing blocks, nothing raises, nothing is lost."""

import logging
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from ns_core.tracking import Point, Tracker, waiting
from tests.mlflow_lines import (
    CLOSED_PORT,
    DIGEST,
    EXPERIMENT,
    Server,
    away,
    check_all,
    client,
    history,
    kept,
    open_tracker,
    points,
    runs,
    tell_all,
    until,
)


def waits(caplog: pytest.LogCaptureFixture) -> list[bool]:
    """For each warning so far: is it the last word, about what waits for the next run?"""
    assert {(record.name, record.levelname) for record in caplog.records} <= {("noisy_student.tracking", "WARNING")}
    return ["the next run with this MLflow delivers" in record.getMessage() for record in caplog.records]


def test_with_no_server_there_is_one_warning_at_the_start_one_at_the_end_and_nothing_raises(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(CLOSED_PORT, EXPERIMENT, tmp_path / "spool")
    parent, child = tell_all(tracker, tmp_path)
    assert parent != child
    assert parent.startswith("local-")
    assert (tracker.url(parent), tracker.compare_url([parent, child]), tracker.similar("ns.recipe", "digits")) == (
        None,
        None,
        [],
    )
    tracker.artifact(parent, tmp_path / "absent")
    tracker.close()
    assert waits(caplog) == [False, True, False]
    first, last, absent = (record.getMessage() for record in caplog.records)
    assert "refused" in first
    assert "no such file" in absent
    for words in (CLOSED_PORT, str(tmp_path / "spool" / "journal.db")):
        assert words in first
        assert words in last
    assert list(waiting(tmp_path / "spool")) == [f"{CLOSED_PORT} {EXPERIMENT}"]


def test_a_local_handle_is_the_same_for_the_same_key_and_parent(tmp_path: Path) -> None:
    handles = []
    for spool in ("one", "two"):
        tracker = Tracker(CLOSED_PORT, EXPERIMENT, tmp_path / spool)
        parent, other = tracker.parent("a", "k", {}, {}), tracker.parent("b", "l", {}, {})
        handles.append([parent, other, *(tracker.child(above, "g", "k", {}) for above in (parent, other))])
        tracker.close()
    assert handles[0] == handles[1]
    assert len(set(handles[0])) == 4


def test_a_run_opened_while_mlflow_is_away_is_told_when_it_answers(
    database: Path, tmp_path: Path, at_once: None
) -> None:
    begun = time.time_ns() // 1_000_000
    with away(database):
        tracker = open_tracker(database)
        parent, child = tell_all(tracker, tmp_path)
        ended = time.time_ns() // 1_000_000
    until(lambda: kept(database) == 0)
    assert check_all(database)[0] not in (parent, child)
    for run in runs(database):
        assert begun <= run.info.start_time <= run.info.end_time <= ended

    tracker.tags(child, {"ns.later": "yes"})
    tracker.log(child, points("loss", 4)[-1:])
    grandchild = tracker.child(parent, "g2", "k2", {})
    tracker.finish(child, "FINISHED")
    tracker.close()
    real = {run.data.tags["ns.key"]: run for run in runs(database)}
    assert real["k1"].data.tags["ns.later"] == "yes"
    assert real["k2"].info.run_id == grandchild
    assert real["k2"].data.tags["mlflow.parentRunId"] == real["k"].info.run_id
    assert [step for step, _ in history(database, real["k1"].info.run_id, "loss")] == [0, 1, 2, 3]


def test_a_database_that_goes_away_costs_one_warning_and_comes_back(
    tracker: Tracker, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tracker.parent("run", "k", {}, {})
    with away(database):
        tracker.log(run, points("loss", 2))
        tracker.tags(run, {"ns.step": "away"})
        tracker.finish(run, "FAILED")
        other = tracker.parent("other", "k2", {}, {})
        assert other.startswith("local-")
        assert waits(caplog) == [False, True]

    tracker.log(run, points("loss", 3)[-1:])
    tracker.finish(run, "FINISHED")
    tracker.finish(other, "KILLED")
    assert [step for step, _ in history(database, run, "loss")] == [0, 1, 2]
    assert [(found.info.run_name, found.info.status) for found in runs(database)] == [
        ("other", "KILLED"),
        ("run", "FINISHED"),
    ]
    assert client(database).get_run(run).data.tags["ns.step"] == "away"
    assert kept(database) == 0
    assert waits(caplog) == [False, True]


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "no answer"])
def test_two_hundred_operations_without_mlflow_take_seconds(
    silent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    (tmp_path / "report.md").write_text("# verdict", encoding="utf-8")
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:  # takes connections and never says anything
        uri = f"http://127.0.0.1:{deaf.getsockname()[1]}" if silent else CLOSED_PORT
        tracker = Tracker(uri, EXPERIMENT, tmp_path / "spool")
        begun = time.monotonic()
        for count in range(25):
            parent = tracker.parent("run", f"k{count}", {"a": 1}, {})
            child = tracker.child(parent, "g", "k", {})
            tracker.tags(child, {"a": "b"})
            tracker.log(child, points("loss", 40))
            tracker.dataset(child, "pool", DIGEST, {}, {}, "train")
            tracker.artifact(child, tmp_path / "report.md")
            tracker.register("teacher", child, "s3://b/x", DIGEST, {}, ["champion"])
            tracker.similar("ns.recipe", "digits")
        assert time.monotonic() - begun < 5.0
        tracker.close()
    # Of each round: parent, its params, child, tags, points, dataset, artifact, registration.
    assert sum(waiting(tmp_path / "spool").values()) >= 25 * 8


def test_a_file_that_is_no_database_is_a_warning_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "noise").write_bytes(b"no database" * 1000)
    for name in ("folder", "noise"):
        broken = Tracker(f"sqlite:///{tmp_path / name}", "e", tmp_path / "spool")
        assert broken.parent("run", "k", {}, {}).startswith("local-")
        broken.close()
    assert waits(caplog) == [False, True] * 2


def test_a_run_deleted_by_hand_does_not_hold_up_the_others(
    tracker: Tracker, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deleted, others = (tracker.parent(key, key, {}, {}) for key in ("a", "b"))
    client(database).delete_run(deleted)
    for count in (1, 2):
        tracker.log(deleted, points("loss", count))
        tracker.tags(deleted, {"ns.step": str(count)})
        tracker.log(others, points("loss", count))
        tracker.finish(others, "FINISHED")
    assert [step for step, _ in history(database, others, "loss")] == [0, 1]
    assert kept(database) == 4
    assert len(caplog.records) == 1
    assert deleted in caplog.records[0].getMessage()

    client(database).restore_run(deleted)
    open_tracker(database).close()
    assert kept(database) == 0
    assert [step for step, _ in history(database, deleted, "loss")] == [0, 1]
    assert client(database).get_run(deleted).data.tags["ns.step"] == "2"


def test_a_request_that_is_wrong_is_a_warning_and_holds_up_nothing(
    tracker: Tracker, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tracker.parent("run", "k", {}, {})
    tracker.tags(run, {"ns.long": "x" * 9000})
    with away(database):
        tracker.tags(run, {"": "no name"})
        tracker.tags(run, {"ns.step": "after"})
    tracker.finish(run, "FINISHED")
    found = client(database).get_run(run)
    assert (found.info.status, found.data.tags["ns.step"]) == ("FINISHED", "after")
    assert kept(database) == 0
    assert len(caplog.records) >= 2


def test_files_that_cannot_be_stored_wait_and_hold_up_no_status(
    database: Path, tmp_path: Path, at_once: None, caplog: pytest.LogCaptureFixture
) -> None:
    report, obstacle = tmp_path / "report.md", tmp_path / "mlflow-artifacts"
    tracker = open_tracker(database)
    run = tracker.parent("run", "k", {}, {})
    obstacle.write_text("a file where the folder of artifacts should be", encoding="utf-8")
    report.write_text("# verdict", encoding="utf-8")
    tracker.artifact(run, report)
    report.unlink()
    tracker.finish(run, "FINISHED")
    assert client(database).get_run(run).info.status == "FINISHED"
    assert kept(database) == 1
    obstacle.unlink()
    until(lambda: kept(database) == 0)
    (stored,) = obstacle.rglob("report.md")
    assert stored.read_text(encoding="utf-8") == "# verdict"
    tracker.close()
    assert waits(caplog) == [False, True]


def test_a_spool_on_a_broken_disk_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "spool").write_text("a file where a directory should be", encoding="utf-8")
    tracker = Tracker(CLOSED_PORT, EXPERIMENT, tmp_path / "spool")
    assert tracker.parent("run", "k", {}, {}) == ""
    tracker.log("run", points("loss", 1))
    tracker.close()
    assert waits(caplog) == [False, False]
    assert "lost" in caplog.records[-1].getMessage()


def test_with_a_broken_spool_mlflow_still_hears_everything(database: Path, tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "journal.db").write_bytes(b"no database" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        kept(database)
    tracker = open_tracker(database)
    tell_all(tracker, tmp_path)
    tracker.close()
    check_all(database)


def test_a_server_that_dies_and_returns_has_everything_in_the_end(
    server: Server, database: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    tracker = Tracker(f"{server.address}/", EXPERIMENT, tmp_path / "spool")
    parent = tracker.parent("run", "k", {"lr": 0.1}, {})
    child = tracker.child(parent, "generation", "k1", {})
    experiment = client(database).get_run(child).info.experiment_id
    page = f"{server.address}/#/experiments/{experiment}/runs/{child}?workflowType=machine_learning"
    assert tracker.url(child) == page
    tracker.dataset(child, "pool", DIGEST, {}, {}, "train")
    tracker.register("ns-teacher", child, "/store/local", DIGEST, {}, ["champion"])
    tracker.log(child, points("loss", 2))
    tracker.finish(parent, "FINISHED")

    server.stop()
    tracker.log(child, [*points("loss", 4), Point("nan", float("nan"), 0, 0)])
    tracker.finish(child, "FINISHED")
    second = tracker.child(parent, "generation 2", "k2", {})
    report = tmp_path / "report.md"
    report.write_text("# verdict", encoding="utf-8")
    tracker.artifact(second, report, "report")
    tracker.register("ns-teacher", second, "/store/other", DIGEST[::-1], {}, ["champion"])
    tracker.finish(second, "KILLED")
    assert (tracker.url(second), tracker.url(child)) == (None, page)
    assert [step for step, _ in history(database, child, "loss")] == [0, 1]
    assert waits(caplog) == [False, True]

    server.start()
    tracker.finish(child, "FINISHED")
    real = {run.info.run_name: run.info.run_id for run in runs(database)}["generation 2"]
    assert tracker.url(second) == page.replace(child, real)
    tracker.close()
    assert [step for step, _ in history(database, child, "loss")] == [0, 1, 2, 3]
    assert len(history(database, child, "nan")) == 1
    assert client(database).get_run(child).info.status == "FINISHED"
    assert client(database).get_run(real).info.status == "KILLED"
    assert len(client(database).get_run(child).inputs.dataset_inputs) == 1
    assert [path.name for path in (tmp_path / "served").rglob(f"{real}/**/report/*")] == ["report.md"]
    champion = client(database).get_model_version_by_alias("ns-teacher", "champion")
    assert champion.source.startswith("models:/")
    assert champion.tags["ns.checkpoint_uri"] == "/store/other"
    assert waits(caplog) == [False, True]
    assert logging.getLogger("noisy_student.tracking").level == logging.NOTSET
