"""Where the things of a run lie, and whether a run can start there. Imports no Prefect.

A run's form asks for the recipe alone. In: the recipe, and either a `Run` from whoever starts the flow in this
process (the command line), or the environment of a worker: `NS_HOME`, `NS_STORE`, `NS_TRACKING_URI`.
Out: a `Run` whose folders and store were looked at, before anything is computed.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

from flows import environment
from flows.official import check_official
from ns_core.config import Recipe
from ns_core.data.sources import check as check_source
from ns_core.data.sources import shard_roots
from ns_core.storage import Storage, open_storage, probe
from tasks.run import Run

NAME_CHARACTERS = 60
"""Of a recipe's name in a run's, which becomes a folder of the store."""

_given: ContextVar[Run | None] = ContextVar("noisy_student_run", default=None)


@contextmanager
def giving(run: Run) -> Iterator[None]:
    """Inside, a flow belongs to `run`."""
    token = _given.set(run)
    try:
        yield
    finally:
        _given.reset(token)


def given() -> Run | None:
    """The run that somebody in this process started; None in a worker."""
    return _given.get()


def run_id(recipe: str, started: datetime, mark: str) -> str:
    """A name for a run that sorts by time, and a folder's name: `digits-20261122-221500-3fa9`."""
    name = re.sub(r"[^\w.-]+", "-", recipe, flags=re.ASCII).strip("-.")[:NAME_CHARACTERS] or "run"
    return f"{name}-{started.astimezone(UTC):%Y%m%d-%H%M%S}-{mark}"


def check(recipe: Recipe, store: str) -> Storage:
    """The store, once it and the recipe's images are found good; raises `UserError` within seconds."""
    check_source(recipe.data)
    check_official(recipe.evaluate)
    storage = open_storage(store)
    probe(storage)
    return storage


def make(recipe: Recipe, name: str, storage: Storage, home: Path) -> Run:
    """A run called `name` with its local state below `home`."""
    return Run(
        run_id=name,
        store=storage.uri,
        home=str(home),
        tracking_uri=environment.default_tracking(home),
        experiment=environment.EXPERIMENT,
        compute=recipe.compute,
        places=shard_roots(recipe.data),
    )


def in_worker(recipe: Recipe, name: str) -> Run:
    """The run that a worker started, checked as the command line checks its own. Raises `UserError`."""
    home, store = environment.of_worker()
    storage = check(recipe, store)
    home.mkdir(parents=True, exist_ok=True)
    return make(recipe, name, storage, home)
