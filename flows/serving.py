"""`noisy-student serve`: the deployments on a laptop, without a worker or a pool.

In: the home folder and the store, as of every verb. Out: the pages as `noisy-student ui` shows them, and beside them
one long process (`python -m flows.serving`) that takes the runs which are started from the page, one at a time, each in
a process of its own. Where PREFECT_API_URL names a server, or the pages are up already, only that process is started.

Ctrl-C stops the run first, which saves its checkpoint and goes on when `serve` is started again, then the pages.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import environment, ui
from flows.deploy import POOLS, Document, entries, held, page_of, reached, server
from ns_core.errors import UserError
from ns_core.storage import open_storage

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.deployments.runner import RunnerDeployment

LIMIT = 1
"""Runs at a time: each takes the machine."""
QUERY_SECONDS = 2.0
"""Between two looks for runs to start."""
SERVED = "serving"
"""The line of its log once runs can be started."""
STOPPED = "`noisy-student serve` was stopped meanwhile"
OWN = "--own-server"
"""Nobody else serves on this server: what it holds for running was cut off when the machine went down."""


def serve(home: Path, store: str, prefect_port: int, mlflow_port: int) -> int:
    """Serves until SIGINT or SIGTERM (0), or until something fails (1). `UserError` as `ui.serve` does."""
    address = os.environ.get("PREFECT_API_URL") or ui.running_api(home)
    if not address:
        return ui.serve(home, store, prefect_port, mlflow_port, partial(_runs, home, store, [OWN]))
    environment.prepare(home)
    _check(home)
    with ui.asked_to_stop() as asked, ui.stopped_at_the_end() as servers:
        servers.append(_runs(home, store, [], address))
        if ui.all_up(servers, asked):
            sys.stdout.write(f"Prefect {page_of(address)}/deployments\nStore   {open_storage(store).uri}\n")
            sys.stdout.flush()
            ui.say("Ctrl-C stops it. Runs that are started there run here, one at a time.")
            ui.wait(servers, asked)
    return 0 if asked else 1


def _check(home: Path) -> None:
    """Raises `UserError` where the server does not answer or has the deployments on a pool."""
    address = server(home)
    os.environ["PREFECT_API_URL"] = address
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        reached(client, address)
        _refuse_pools(client)


def _refuse_pools(client: "SyncPrefectClient") -> None:
    for one in held(client, entries(POOLS["process"].name)):
        if one.work_pool_name:
            raise UserError(
                f"the deployment {one.name} of that server belongs to the pool {one.work_pool_name}: start a worker "
                f"there (`{POOLS['process'].worker}`), or delete the deployment first"
            )


def _runs(home: Path, store: str, options: list[str], api: str) -> ui.Server:
    """The process that takes runs."""
    log = home / "logs" / "serve.log"
    own = {
        "PREFECT_API_URL": api,
        "NS_HOME": str(home),
        "NS_STORE": open_storage(store).uri,
        "NS_TRACKING_URI": environment.default_tracking(home),
        **entries(POOLS["process"].name)[0]["work_pool"]["job_variables"]["env"],
    }
    started = ui.start("Serving runs", partial(_says, log), ["flows.serving", *options], log, own)
    return replace(started, alone=True)


def _says(log: Path) -> bool:
    return SERVED in log.read_text(encoding="utf-8", errors="replace").splitlines()


def main(own_server: bool) -> None:
    """Registers deployments and automations, then takes runs until SIGINT."""
    from prefect.client.orchestration import get_client

    from flows.automations import automations, ensure

    wanted = entries(POOLS["process"].name)
    with get_client(sync_client=True) as client:
        _refuse_pools(client)
        ensure(client, automations())
        if own_server:
            _put_back(client, wanted)
    since = datetime.now(UTC)
    try:
        asyncio.run(_take([_deployment(entry) for entry in wanted]))
    finally:
        if own_server:
            with get_client(sync_client=True) as client:
                _put_back(client, wanted, since)


async def _take(deployments: list["RunnerDeployment"]) -> None:
    from prefect.runner import Runner

    # Pausing would leave what waits for ever; there is no schedule that fires while nobody serves.
    runner = Runner("noisy-student", query_seconds=QUERY_SECONDS, limit=LIMIT, pause_on_shutdown=False)
    for deployment in deployments:
        await runner.aadd_deployment(deployment)
    sys.stdout.write(f"{SERVED}\n")
    sys.stdout.flush()
    await runner.start()


def _deployment(entry: Document) -> "RunnerDeployment":
    """One of the file, for a runner instead of a pool."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.deployments.runner import RunnerDeployment

    made: RunnerDeployment = RunnerDeployment.from_entrypoint(
        entry["entrypoint"],
        entry["name"],
        description=entry["description"],
        tags=entry["tags"],
        concurrency_limit=ConcurrencyLimitConfig.model_validate(entry["concurrency_limit"]),
        parameters=entry.get("parameters", {}),
    )
    return made


def _put_back(client: "SyncPrefectClient", wanted: list[Document], since: datetime | None = None) -> None:
    """What the server believes to be under way, though its process is gone, waits for `serve`; cancelled runs are so.

    So do runs that were to go on by themselves, and with `since` those that crashed after that and in the last minute,
    when Ctrl-C stopped them.
    """
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import AwaitingRetry, Cancelled

    from flows.attended import RESUMED

    ends: dict[StateType, State[Any]] = {
        StateType.RUNNING: AwaitingRetry(message=STOPPED),
        StateType.PENDING: AwaitingRetry(message=STOPPED),
        StateType.CRASHED: AwaitingRetry(message=STOPPED if since else RESUMED),
        StateType.CANCELLING: Cancelled(message=STOPPED),
    }
    minute = datetime.now(UTC) - timedelta(seconds=ui.ALONE_GRACE_SECONDS)
    for run in _those(client, wanted, {"type": {"any_": list(ends)}}):
        state = run.state
        if state is None or (state.name == "Crashed" and (since is None or state.timestamp < max(since, minute))):
            continue
        client.set_flow_run_state(run.id, ends[state.type], force=True)


def _those(client: "SyncPrefectClient", wanted: list[Document], state: Document) -> list["FlowRun"]:
    """Runs of the deployments in a state, by Prefect's filter for it."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter

    among = DeploymentFilter(id=DeploymentFilterId(any_=[one.id for one in held(client, wanted)]))
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"state": state}), deployment_filter=among
    )


def _interruptible() -> None:
    """A process that was started by a shell's `&` ignores SIGINT otherwise."""
    handler: Callable[[int, Any], Any] = signal.default_int_handler
    signal.signal(signal.SIGINT, handler)


if __name__ == "__main__":
    _interruptible()
    try:
        main(OWN in sys.argv[1:])
    except UserError as error:
        sys.exit(f"noisy-student: {error}")
    except KeyboardInterrupt:
        pass
