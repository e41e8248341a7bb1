"""What one process could not tell MLflow, a later one tells it: whole, once, and in order."""

import json
from pathlib import Path

import numpy as np
import pytest

from ns_core.tracking import Point, Tracker, waiting
from tests.mlflow_lines import (
    CLOSED_PORT,
    EXPERIMENT,
    away,
    check_all,
    client,
    history,
    kept,
    open_tracker,
    points,
    python,
    runs,
    tell_all,
)

LINE = """
import os, signal, sys
from pathlib import Path
from tests.mlflow_lines import open_tracker, tell_all
database = Path(sys.argv[1])
"""
DELIVER = f"{LINE}\nopen_tracker(database).close()"
RECORD = f"""{LINE}
folder = Path(sys.argv[2])
folder.mkdir()
tell_all(open_tracker(database), folder, folder.name)
os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED = f"""{LINE}
from ns_core.tracking.journal import Journal
done, left = Journal.done, [int(sys.argv[2])]
def fatal(*arguments):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    done(*arguments)
Journal.done = fatal
open_tracker(database).close()
"""
"""Dies when MLflow was told the n-th entry, and the journal not yet that it was."""
KILLED_IN_REGISTRATION = f"""{LINE}
from mlflow import MlflowClient
MlflowClient.create_model_version = lambda *arguments, **more: os.kill(os.getpid(), signal.SIGKILL)
open_tracker(database).close()
"""


def run_python(code: str, *arguments: object) -> int:
    process = python(code, *arguments)
    _, errors = process.communicate(timeout=200)
    assert process.returncode in (0, -9), errors
    return process.returncode


@pytest.mark.timeout(240)
def test_a_run_that_one_process_kept_is_told_by_the_next(database: Path, tmp_path: Path) -> None:
    with away(database):
        tracker = open_tracker(database)
        tell_all(tracker, tmp_path)
        tracker.close()
    assert run_python(DELIVER, database) == 0
    assert kept(database) == 0
    check_all(database)


@pytest.mark.timeout(600)
def test_a_process_killed_while_it_delivers_leaves_nothing_twice(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ns_core.tracking.tracker.FLUSH_SECONDS", 3600.0)
    with away(database):
        tracker = open_tracker(database)
        tell_all(tracker, tmp_path)
        tracker.close()
    assert kept(database) == 13
    # Killed after it opened the parent, the child, ended the child; in mid-registration, after it, after points.
    deaths = ((KILLED, 1, 13), (KILLED, 3, 11), (KILLED, 5, 7), (KILLED_IN_REGISTRATION, 0, 4), (KILLED, 1, 4))
    for program, count, left in (*deaths, (KILLED, 3, 2)):
        assert run_python(program, database, count) == -9
        assert kept(database) == left
    assert run_python(DELIVER, database) == 0
    assert kept(database) == 0
    check_all(database)


@pytest.mark.timeout(400)
def test_processes_that_share_a_spool_and_are_killed_keep_and_deliver_side_by_side(
    database: Path, tmp_path: Path
) -> None:
    names = ("one", "two")
    with away(database):
        recording = [python(RECORD, database, tmp_path / name) for name in names]
        errors = [process.communicate(timeout=200)[1] for process in recording]
        assert [process.returncode for process in recording] == [-9, -9], errors
    left = kept(database)
    delivering = [python(DELIVER, database) for _ in names]
    errors = [process.communicate(timeout=200)[1] for process in delivering]
    assert [process.returncode for process in delivering] == [0, 0], errors
    assert left > 20
    assert kept(database) == 0
    for name in names:
        check_all(database, name)
    assert len(runs(database)) == 4


def test_an_end_that_was_kept_does_not_end_the_run_that_is_resumed(database: Path) -> None:
    first = open_tracker(database)
    real = first.parent("run", "k", {"lr": 0.1}, {"ns.step": "first"})
    first.close()
    with away(database):
        second = open_tracker(database)
        handle = second.parent("run", "k", {"lr": 0.1}, {"ns.step": "second"})
        child = second.child(handle, "g1", "k1", {})
        second.log(handle, points("loss", 2))
        for run in (child, handle):
            second.finish(run, "FAILED")
        second.close()
    third = open_tracker(database)
    assert third.parent("run", "k", {"lr": 0.1}, {"ns.step": "third"}) == real
    opened = third.child(real, "g1", "k1", {})
    third.finish(opened, "FINISHED")
    third.close()
    above, below = runs(database)
    assert (above.info.run_id, above.info.status, above.data.tags["ns.step"]) == (real, "RUNNING", "third")
    assert (below.info.run_id, below.info.status) == (opened, "FINISHED")
    assert [step for step, _ in history(database, real, "loss")] == [0, 1]
    assert kept(database) == 0


def test_news_from_before_a_run_was_resumed_elsewhere_change_no_status_and_no_tag(database: Path) -> None:
    with away(database):
        one = open_tracker(database, "spool of one machine")
        handle = one.parent("run", "k", {"lr": 0.1}, {"ns.step": "old"})
        one.log(handle, points("loss", 2))
        one.tags(handle, {"ns.step": "older than the resumed run", "ns.only": "here"})
        one.finish(handle, "FAILED")
        one.close()
    other = open_tracker(database, "spool of another")
    real = other.parent("run", "k", {"lr": 0.1}, {"ns.step": "new"})
    open_tracker(database, "spool of one machine").close()
    (run,) = runs(database)
    assert (run.info.run_id, run.info.status) == (real, "RUNNING")
    assert (run.data.tags["ns.step"], run.data.tags["ns.only"]) == ("new", "here")
    assert [step for step, _ in history(database, real, "loss")] == [0, 1]
    other.close()


def test_a_handle_means_the_same_run_where_the_spool_is_another(database: Path) -> None:
    with away(database):
        one = open_tracker(database, "spool of one machine")
        handle = one.parent("run", "k", {}, {})
        one.close()
    other = open_tracker(database, "spool of another")
    other.log(handle, points("loss", 2))
    child = other.child(handle, "g1", "k1", {})
    other.finish(child, "FINISHED")
    assert runs(database) == []
    open_tracker(database, "spool of one machine").close()
    other.close()
    above, below = runs(database)
    assert below.data.tags["mlflow.parentRunId"] == above.info.run_id
    assert below.info.status == "FINISHED"
    assert [step for step, _ in history(database, above.info.run_id, "loss")] == [0, 1]


def test_points_kept_by_one_process_are_delivered_by_the_next(tracker: Tracker, database: Path) -> None:
    run = tracker.parent("run", "k", {}, {})
    tracker.close()
    with away(database):
        for count in (2, 4):
            lost = open_tracker(database)
            lost.log(run, [*points("loss", count), Point("inf", float("inf"), 0, 0)])
            lost.log(run, [Point("numpy", np.float32(0.5), np.int64(3), 0)])  # type: ignore[arg-type]
            lost.close()
        lost = open_tracker(database)
        lost.log(run, points("loss", 5)[-1:])
        lost.close()
    open_tracker(database).close()
    assert history(database, run, "loss") == [(step, step / 2) for step in range(5)]
    assert len(history(database, run, "inf")) == 1
    assert history(database, run, "numpy") == [(3, 0.5)]
    assert kept(database) == 0


def test_metric_files_of_older_versions_are_delivered_by_the_mlflow_that_knows_their_run(
    tracker: Tracker, database: Path
) -> None:
    run, spool = tracker.parent("run", "k", {}, {}), database.parent / "spool"
    lines = [f"\n{json.dumps(vars(point))}" for point in points("loss", 1500)]
    spool.mkdir(exist_ok=True)
    (spool / f"{run}.jsonl").write_bytes("".join(lines).encode() + b'\n{"key": "loss", "value": 7.0, "st\xff')
    Tracker(CLOSED_PORT, EXPERIMENT, spool).close()
    assert list(spool.glob("*.jsonl")) == []
    open_tracker(database).close()
    assert history(database, run, "loss") == [(step, step / 2) for step in range(1500)]
    assert kept(database) == 0


def test_what_one_mlflow_is_to_hear_is_not_told_to_another(database: Path, tmp_path: Path) -> None:
    absent = Tracker(CLOSED_PORT, EXPERIMENT, tmp_path / "spool")
    tell_all(absent, tmp_path)
    absent.close()
    before = waiting(tmp_path / "spool")
    open_tracker(database).close()
    assert waiting(tmp_path / "spool") == before
    assert client(database).search_registered_models() == []
    assert runs(database) == []
