"""A stage on the cluster of a test, from the launcher's side."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ns_core.launch.kubernetes.launcher import never, run_pods
from ns_core.launch.spec import WorkerSpec
from ns_core.stage import MARK

SECONDS = 20.0


@dataclass
class Attempt:
    """What a person is told of one."""

    spec: WorkerSpec
    lines: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    cancelling: Callable[[], bool] = never

    def run(self) -> None:
        run_pods(self.spec, self.lines.append, self.events.append, self.cancelling)

    def said(self) -> list[str]:
        """By pods."""
        return [line for line in self.lines if not line.startswith("Kubernetes: ")]


class Beside(threading.Thread):
    """An attempt in another thread: another orchestrator."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(daemon=True)
        self._attempt = attempt
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._attempt.run()
        except BaseException as error:
            self.error = error

    def result(self) -> BaseException | None:
        self.join(SECONDS)
        assert not self.is_alive()
        return self.error


def marked(**event: Any) -> str:
    return MARK + json.dumps(event)


def progress(done: int, total: int) -> str:
    return marked(event="progress", done=done, total=total, text="")


def until(condition: Callable[[], bool]) -> None:
    """Polls; fails after a while."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
