"""How a flow ends that a Prefect worker started and nobody's terminal watches.

In: the body of a flow. Out: what it returns, or the failed state whose message, one line, is what a person sees in
Prefect's page. Where the command line started the flow, everything is raised as it is.
"""

from collections.abc import Callable
from typing import TypeVar

from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Failed

from flows import place
from ns_core.errors import StageFailed, UserError

T = TypeVar("T")


def attended(body: Callable[[], T]) -> T | State[T]:
    """What `body` returns. In a worker's flow `UserError` and `StageFailed` become a failed state."""
    if place.given() is not None:
        return body()
    try:
        return body()
    except (UserError, StageFailed) as error:
        get_run_logger().error("%s", error)
        return Failed(message=" ".join(str(error).split()))
