"""Metric keys, addresses, and when a buffer of points is sent."""

import logging
import threading
from pathlib import Path

import pytest

from ns_core.errors import UserError
from ns_core.tracking import FLUSH_POINTS, Point, Tracker
from tests.mlflow_lines import open_tracker, points, python


class WarningSeen(logging.Handler):
    """Sets its event at the first record."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.event = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.event.set()


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


def test_a_full_buffer_is_sent_without_waiting_for_the_clock(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ns_core.tracking.tracker.FLUSH_SECONDS", 3600.0)
    tracker, unknown_run, refusal = open_tracker(database), "0" * 32, WarningSeen()
    logging.getLogger("noisy_student.tracking").addHandler(refusal)
    tracker.log(unknown_run, points("loss", FLUSH_POINTS - 1))
    assert not refusal.event.is_set()
    tracker.log(unknown_run, points("loss", 1))
    assert refusal.event.wait(30), "nobody asked MLflow about the unknown run"
    logging.getLogger("noisy_student.tracking").removeHandler(refusal)
    tracker.close()
