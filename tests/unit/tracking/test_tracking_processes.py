"""Several processes on one fresh database, and what a process contacts."""

import json
from pathlib import Path

import pytest

from tests.mlflow_lines import client, python

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
