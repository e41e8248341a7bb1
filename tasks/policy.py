"""Cache key, retries and result storage of every stage: the only place where they are set.

The store is the truth. Before Prefect is asked, the artifact is looked up and checked; only if it is whole
may Prefect answer from its cache record, which for a local store lies in the artifact's own folder. A
record that Prefect lost costs nothing: the task finds the artifact and says `Cached` itself.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prefect import Task, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger
from prefect.tasks import exponential_backoff

from ns_core.artifacts import Artifact, find
from ns_core.errors import UserError
from ns_core.storage import open_storage
from tasks.claims import claimed
from tasks.observe import StageOutcome, current
from tasks.run import StageCall
from tasks.tracking import record_stage

A = TypeVar("A", bound=Artifact)
StageTask = Callable[[StageCall], A]


def stage_task(function: StageTask[A]) -> StageTask[A]:
    """Makes a stage's function a Prefect task that is cached by fingerprint and retried with backoff."""
    made: Task[[StageCall], A] = task(
        name=function.__name__.replace("_", "-"),
        task_run_name="{call.stage}-g{call.generation}",
        cache_policy=CacheKeyFnPolicy(cache_key_fn=_cache_key),
        result_serializer="json",
        retry_condition_fn=_may_retry,
    )(function)

    def run(call: StageCall) -> A:
        watch, started = current(), time.monotonic()
        if watch.listener:
            watch.listener.started(call.stage, call.generation)
        compute = call.run.compute.for_stage(call.stage)
        with claimed(call, watch.listener.logged if watch.listener else get_run_logger().info):
            whole = find(open_storage(call.run.store), call.paths) is not None
            state = made.with_options(
                refresh_cache=not whole,
                result_storage=_result_storage(call.run.store, call.run.home),
                retries=compute.retries,
                retry_delay_seconds=exponential_backoff(compute.retry_delay_seconds),
            )(call, return_state=True)
        artifact = state.result()
        outcome = StageOutcome(
            stage=call.stage,
            generation=call.generation,
            fingerprint=call.paths.fingerprint,
            state="cached" if whole or state.name == "Cached" else "computed",
            seconds=round(time.monotonic() - started, 3),
            uri=f"{open_storage(call.run.store).uri}/{call.paths.folder}",
        )
        watch.ledger.append(outcome)
        record_stage(call, outcome, artifact)
        if watch.listener:
            watch.listener.ended(outcome)
        return artifact

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    return run


def _cache_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    call: StageCall = parameters["call"]
    return call.paths.prefect_result


def _result_storage(store: str, home: str) -> Path:
    """The artifact's own folder for a local store; for S3 a folder of this machine, one for each store."""
    root = open_storage(store)
    local = root.local_path("prefect")
    if local is not None:
        return local.parent
    return Path(home) / "prefect-results" / hashlib.sha256(root.uri.encode()).hexdigest()[:12]


def _may_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """A person's mistake is the same the next time."""
    failure = state.result(raise_on_failure=False)
    return not isinstance(failure, UserError)
