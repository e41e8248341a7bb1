"""How a flow ends that a Prefect worker started and nobody's terminal watches.

In: the body of a flow. Out: what it returns, or the failed state whose message, one line, is what a person sees in
Prefect's page. Where the command line started the flow, everything is raised as it is.

A run whose process was killed goes on by itself (flows/automations.py), and is bounded here, where the count cannot be
lost: the states that the server keeps of the run say how often nobody but the automation let it go on.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Failed

from flows import place
from ns_core.errors import StageFailed, UserError

T = TypeVar("T")

MAX_RESUMES = 3
"""Times that a crashed run goes on by itself since a person last started it."""
RESUMED = "crashed, and goes on by itself"
"""Message of the state by which an automation lets a run go on; a person's Retry has another."""


def attended(body: Callable[[], T | State[T]]) -> T | State[T]:
    """What `body` returns. In a worker's flow `UserError` and `StageFailed` become a failed state.

    So does the crash of a run that crashed `MAX_RESUMES` times before; `body` is then not called.
    """
    if place.given() is not None:
        return body()
    if given_up := _given_up():
        get_run_logger().error("%s", given_up)
        return Failed(message=given_up)
    try:
        return body()
    except (UserError, StageFailed) as error:
        get_run_logger().error("%s", error)
        return Failed(message=" ".join(str(error).split()))


def resumes(states: Sequence[State[Any]]) -> int:
    """How often an automation let the run go on since a person last did; `states` are in their order."""
    count = 0
    for state in states:
        if state.name == "AwaitingRetry":
            count = count + 1 if state.message == RESUMED else 0
    return count


def _given_up() -> str:
    """Why the run does not go on, in one line; empty while it may."""
    if flow_run.run_count < 2:
        return ""
    with get_client(sync_client=True) as client:
        states = sorted(client.read_flow_run_states(flow_run.id), key=lambda state: state.timestamp)
    if resumes(states) <= MAX_RESUMES:
        return ""
    crashes = [" ".join((state.message or "").split()) for state in states if state.name == "Crashed"]
    last = crashes[-1].partition(". ")[0] if crashes else "no reason was given"
    return (
        f"crashed {MAX_RESUMES + 1} times in a row and is not started again by itself; the last time: {last}. "
        "Mend the cause, then Retry: it goes on where it was"
    )
