"""One computation of an artifact at a time on this machine: the others wait for it and find what it made.

In: a stage's call. Out: a claim, held while the artifact is looked up and computed. A claim is an flock on a file of
the home folder, named by store, stage and fingerprint: it excludes threads as well as processes, and the kernel lets go
of it when its process dies, however it dies. The files stay, with the name of their last holder, some 30 bytes each.

A claim saves work and nothing rests on it. Homes of several machines know nothing of each other; two that compute the
same both commit, and the store lets one win (ns_core/artifacts.py).
"""

import fcntl
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from ns_core.storage import open_storage
from tasks.run import StageCall

log = logging.getLogger("noisy_student.claims")

POLL_SECONDS = 0.2
"""Between two looks at a claim that another holds: a wait that is stopped ends as soon."""

_stop: ContextVar[threading.Event | None] = ContextVar("noisy_student_stop", default=None)
_held: ContextVar[frozenset[Path]] = ContextVar("noisy_student_claims", default=frozenset())


@contextmanager
def until(stop: threading.Event) -> Iterator[None]:
    """Inside, nobody waits on once `stop` is set: `KeyboardInterrupt`, which a thread gets no other way."""
    token = _stop.set(stop)
    try:
        yield
    finally:
        _stop.reset(token)


@contextmanager
def claimed(call: StageCall, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, no other run of this home computes the stage. Who has to wait says so in one line, and for whom.

    Inside itself it does nothing. Where files cannot be locked, it warns and goes on without.
    """
    path = _path(call)
    if path in _held.get():
        yield
        return
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _lock(stack.enter_context(path.open("a+", encoding="utf-8")), call, say)
        except OSError as error:
            log.warning("%s: no claim in %s (%s): others may compute the same", call.paths.folder, path.parent, error)
        token = _held.set(_held.get() | {path})
        try:
            yield
        finally:
            _held.reset(token)


def _path(call: StageCall) -> Path:
    store = hashlib.sha256(open_storage(call.run.store).uri.encode()).hexdigest()[:12]
    return Path(call.run.home) / "claims" / f"{call.paths.folder.replace('/', '-')}-{store}"


def _lock(file: IO[str], call: StageCall, say: Callable[[str], None]) -> None:
    """Held until the file is closed."""
    if not _taken(file):
        file.seek(0)
        say(f"waits for {file.read().strip() or 'another run'}, which is at {call.paths.folder}")
        never = threading.Event()
        while not _taken(file):
            if (_stop.get() or never).wait(POLL_SECONDS):
                raise KeyboardInterrupt
    file.truncate(0)
    file.write(call.run.run_id)
    file.flush()


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
