"""The body of every stage task: find the artifact, or start a worker that makes it."""

import logging
import time
from contextlib import suppress
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from ns_core.artifacts import Record, materialize
from ns_core.launch.kubernetes.launcher import run_pods
from ns_core.launch.local import run_worker
from ns_core.storage import open_storage
from tasks.advisory import asked_once
from tasks.observe import current
from tasks.run import StageCall
from tasks.tracking import log_metric

PROGRESS_EVERY_SECONDS = 10.0
"""Between two progress lines and bar updates in Prefect; the live view is told everything."""


def work(call: StageCall) -> Record:
    """The record of the stage's artifact. Raises `UserError` or `StageFailed`."""
    logger = get_run_logger()
    relay = Relay(call, logger)

    def compute() -> None:
        spec = call.worker_spec()
        if spec.compute.launcher == "kubernetes":
            run_pods(spec, relay.log, relay.event, _cancelling)
        else:
            run_worker(spec, relay.log, relay.event)
        relay.close()

    record, cached = materialize(open_storage(call.run.store), call.paths, compute)
    logger.info("%s %s", call.paths.folder, "was in the store" if cached else f"computed in {record.seconds:.1f} s")
    return record


def _cancelling() -> bool:
    """Whether a person cancels this run, or the one that it is part of: Prefect leaves the state of a generation whose
    campaign is cancelled as it is. False where the server cannot be asked, so that pods go on rather than die."""
    with suppress(Exception), get_client(sync_client=True) as client:
        for run in {flow_run.id, flow_run.root_flow_run_id} - {None}:
            state = client.read_flow_run(UUID(str(run))).state
            if state is not None and state.type == StateType.CANCELLING:
                return True
    return False


Logger = logging.Logger | logging.LoggerAdapter[Any]


class Bar:
    """A bar in the Artifacts tab of the Prefect run. Where it cannot be had the stage goes on, with one warning."""

    def __init__(self, stage: str, logger: Logger) -> None:
        self._stage, self._logger = stage, logger
        self._drawn: UUID | None = None
        self._warned = False

    def show(self, percent: float) -> None:
        """Makes the bar, or moves it."""
        try:
            asked_once(lambda: self._draw(percent))
        except Exception as error:  # whatever Prefect's server raises, or the way to it
            if not self._warned:
                self._logger.warning("no progress bar in Prefect for now: %s: %s", type(error).__name__, error)
            self._warned = True

    def fill(self) -> None:
        """Of a stage that ended; none where none was made."""
        if self._drawn is not None:
            self.show(100.0)

    def _draw(self, percent: float) -> None:
        if self._drawn is None:
            self._drawn = cast(UUID, create_progress_artifact(percent, description=self._stage))
        else:
            update_progress_artifact(self._drawn, percent)


class Relay:
    """Passes what a worker says to Prefect's log, to the live view and to MLflow."""

    def __init__(self, call: StageCall, logger: Logger) -> None:
        self._call, self._logger, self._listener = call, logger, current().listener
        self._next = time.monotonic() + PROGRESS_EVERY_SECONDS
        self._bar = Bar(call.stage, logger)

    def log(self, line: str) -> None:
        self._logger.info("%s", line)
        if self._listener:
            self._listener.logged(line)

    def event(self, event: dict[str, Any]) -> None:
        if event["event"] == "metric":
            log_metric(self._call, event)
            return
        if self._listener:
            self._listener.progressed(event)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_EVERY_SECONDS
            self._logger.info("%d of %d %s", event["done"], event["total"], event["text"])
            self._bar.show(100 * event["done"] / max(1, event["total"]))

    def close(self) -> None:
        """At the end of the stage."""
        self._bar.fill()
