"""What can be asked of MLflow for a run, as a value that a journal can keep, and the handle of a run opened without it.

Entries of one run and one lane are delivered in their order; lanes of a run do not wait for each other, so that an
artifact store that is down holds up neither curves nor a status. All of a run wait for its `open`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ns_core.fingerprint import digest

Kind = Literal["open", "params", "tags", "finish", "points", "dataset", "artifact", "register"]
STATE = "state"
"""The lane of what a later call may overwrite."""
LOCAL = "local-"


@dataclass(frozen=True)
class Entry:
    """One thing to tell MLflow. `run`: MLflow's id of the run, or a local handle."""

    kind: Kind
    run: str
    body: Mapping[str, Any]
    """JSON."""
    data: bytes | None = None
    """The content of an artifact's file, once it is in a journal."""
    at: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    """When it was asked for: Unix time in milliseconds."""
    number: int = 0
    """Its place in a journal, from 1."""

    @property
    def lane(self) -> str:
        return STATE if self.kind in ("open", "params", "tags", "finish") else self.kind

    @property
    def words(self) -> str:
        """What it does, for a warning."""
        name = self.body.get("name", "")
        return {
            "open": f"open run {name}",
            "params": f"log params of run {self.run}",
            "tags": f"set tags of run {self.run}",
            "finish": f"end run {self.run} as {self.body.get('status')}",
            "points": f"send metrics of run {self.run}",
            "dataset": f"record dataset {name}",
            "artifact": f"upload {name}",
            "register": f"register {self.body.get('model')}",
        }[self.kind]


def local_handle(key: str, parent: str) -> str:
    """Stands for the run of this `ns.key` (under `parent`, an id or a handle) until MLflow gives it an id."""
    return LOCAL + digest({"key": key, "parent": parent})[:32]


def is_local(run: str) -> bool:
    return run.startswith(LOCAL)
