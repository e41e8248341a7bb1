"""Starting a run from the command line: checks that cost nothing first, then the flow.

What can be wrong is found before a worker starts: recipe, overrides, store. Prefect is imported only after
its environment stands.
"""

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import environment, place
from ns_core.config import Recipe
from tasks.observe import Listener, Watch, watching

if TYPE_CHECKING:
    from flows.results import RunResult
    from tasks.run import Run


def run_id(recipe: str) -> str:
    """A name for a run that sorts by time: `digits-20261122-221500-3fa9`."""
    return place.run_id(recipe, datetime.now(UTC), secrets.token_hex(2))


def start(recipe: Recipe, store: str, home: Path, listener: Listener) -> "RunResult":
    """Runs the recipe to its end. Raises `UserError` or `StageFailed`."""
    run = ready(recipe, store, home, listener)
    from flows.noisy_student import noisy_student

    return _run(noisy_student, run, recipe, listener)


def start_next(recipe: Recipe, store: str, home: Path, listener: Listener) -> "RunResult":
    """Runs the generation after that of the model registry's teacher. Raises `UserError` or `StageFailed`."""
    run = ready(recipe, store, home, listener)
    from flows.next_generation import next_generation

    run = run.model_copy(update={"run_id": run_id(f"{recipe.name}-next")})
    return _run(next_generation, run, recipe, listener)


def _run(flow: Callable[[Recipe], object], run: "Run", recipe: Recipe, listener: Listener) -> "RunResult":
    """A flow in this process, which gives its result or raises."""
    from flows.results import RunResult

    quiet_console()
    with watching(Watch(listener=listener)), warnings_to(listener), place.giving(run):
        result = flow(recipe)
    assert isinstance(result, RunResult), "a run of this process raises what goes wrong"
    return result


def prepare(recipe: Recipe, store: str, home: Path, listener: Listener) -> dict[str, Any]:
    """Makes the recipe's dataset alone; its fingerprint, place, state and counts."""
    run = ready(recipe, store, home, listener)
    from flows.prepare import prepare_data

    quiet_console()
    with watching(Watch(listener=listener)) as watch, warnings_to(listener):
        dataset = prepare_data(run, recipe)
    return {**watch.ledger[0].model_dump(mode="json"), "result": dataset.result}


def ready(recipe: Recipe, store: str, home: Path, listener: Listener) -> "Run":
    """Checks the store and sets the environment of Prefect, which must not be imported before."""
    from flows.ui import running_api

    storage = place.check(recipe, store)
    environment.prepare(home)
    if api := running_api(home):
        os.environ.setdefault("PREFECT_API_URL", api)
    server = os.environ.get("PREFECT_API_URL", "")
    listener.logged(f"Prefect: {server}" if server else "Prefect: starting a temporary server, about 10 s ...")
    return place.make(recipe, run_id(recipe.name), storage, home)


@contextmanager
def warnings_to(listener: Listener) -> Iterator[None]:
    """What this process warns of (a damaged artifact, tracking that is away) is shown with the run."""

    class Relay(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            listener.logged(record.getMessage())

    relay, logger = Relay(logging.WARNING), logging.getLogger("noisy_student")
    logger.addHandler(relay)
    try:
        yield
    finally:
        logger.removeHandler(relay)


def quiet_console() -> None:
    """Prefect's own console lines off: its log keeps them, and the live view shows the run."""
    from prefect.logging.handlers import PrefectConsoleHandler

    for name in ("", *logging.root.manager.loggerDict):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.setLevel(logging.CRITICAL)
