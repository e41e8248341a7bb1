"""Who is told what happens while a run goes on: the terminal's live view, the ledger of stages.

The watch travels in a context variable, so that a task needs no argument for it and a flow that nobody
watches (a deployment) works the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ns_core.artifacts import Frozen


class StageOutcome(Frozen):
    """What became of one stage of a run."""

    stage: str
    generation: int
    fingerprint: str
    state: Literal["computed", "cached"]
    seconds: float
    """Wall-clock time in this run, worker start included."""
    uri: str


class Listener(Protocol):
    """Something that shows a run to a person."""

    def started(self, stage: str, generation: int) -> None: ...
    def progressed(self, event: dict[str, Any]) -> None: ...
    def logged(self, line: str) -> None: ...
    def ended(self, outcome: StageOutcome) -> None: ...


@dataclass
class Watch:
    """The stages so far, and who wants to know."""

    ledger: list[StageOutcome] = field(default_factory=list)
    listener: Listener | None = None


_watch: ContextVar[Watch] = ContextVar("noisy_student_watch")


def current() -> Watch:
    """The watch of this run; a new one where nobody set any."""
    try:
        return _watch.get()
    except LookupError:
        watch = Watch()
        _watch.set(watch)
        return watch


@contextmanager
def watching(watch: Watch) -> Iterator[Watch]:
    """Everything inside tells `watch`."""
    token = _watch.set(watch)
    try:
        yield watch
    finally:
        _watch.reset(token)
