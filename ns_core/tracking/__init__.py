"""Metrics, parameters and the addresses of checkpoints to MLflow, which may be away for a while.

`Tracker` is what the project talks to; `connection` alone imports mlflow. From top to bottom: `tracker`; `delivery`,
which tells each entry at once or keeps it; `connection`, `journal`; `registration`; `entries`, `points`, `pages`.
"""

from ns_core.tracking.connection import Connection
from ns_core.tracking.journal import waiting
from ns_core.tracking.points import Point
from ns_core.tracking.tracker import FLUSH_POINTS, FLUSH_SECONDS, Facts, Tags, Tracker

__all__ = ["FLUSH_POINTS", "FLUSH_SECONDS", "Connection", "Facts", "Point", "Tags", "Tracker", "waiting"]
