"""This process's line to MLflow: one for each address, however many runs and tasks share it."""

from functools import cache
from pathlib import Path

from ns_core.tracking import Tracker
from tasks.run import Run


@cache
def _tracker(uri: str, experiment: str, spool: Path) -> Tracker:
    return Tracker(uri, experiment, spool)


def tracker(run: Run) -> Tracker:
    """The line of a run."""
    return _tracker(run.tracking_uri, run.experiment, run.spool)
