"""Runs a worker as a child process of this one: `python -m ns_core.worker`.

The child's output comes through a pipe, line by line; it has a session of its own, so that the whole
process group can be stopped; and the kernel sends it SIGTERM when this process dies, kill -9 included
(PR_SET_PDEATHSIG), so that it saves a checkpoint and nothing is left running.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ns_core.errors import StageFailed, UserError
from ns_core.launch.spec import WorkerSpec
from ns_core.stage import MARK

GRACE_SECONDS = 20.0
"""Between SIGTERM and SIGKILL: time for a checkpoint."""
TAIL_LINES = 10
PR_SET_PDEATHSIG = 1
WORKER_ENVIRONMENT = {
    # OpenMP threads that spin while they wait fight each other on a busy machine: with two compute threads
    # and a load of 4 on 2 cores, a training step took 35 times as long as with one; passive waiting, 9 times.
    "OMP_WAIT_POLICY": "passive",
    "PYTHONUNBUFFERED": "1",
}
"""Set where the caller's environment does not say otherwise."""

LogLine = Callable[[str], None]
Event = Callable[[dict[str, Any]], None]


def run_worker(spec: WorkerSpec, on_log: LogLine, on_event: Event) -> None:
    """Returns once the worker has committed.

    Raises `UserError` when the worker says that a person has to act, else `StageFailed` with the exit
    code in words and the last log lines. Call it from the main thread: PR_SET_PDEATHSIG follows the thread.
    """
    with tempfile.TemporaryDirectory(prefix="ns-spec-") as folder:
        file = Path(folder) / "spec.json"
        file.write_text(spec.model_dump_json(), encoding="utf-8")
        with _child([sys.executable, "-m", "ns_core.worker", str(file)]) as child:
            tail, failure = _listen(child, on_log, on_event)
            status = child.wait()
    if failure is not None and failure["kind"] == "user":
        raise UserError(failure["message"])
    if status != 0:
        raise StageFailed(f"{spec.stage}: {_reason(status, failure, tail)}")


def _listen(child: subprocess.Popen[str], on_log: LogLine, on_event: Event) -> tuple[deque[str], dict[str, Any] | None]:
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    failure: dict[str, Any] | None = None
    assert child.stdout is not None
    for line in child.stdout:
        text = line.rstrip("\n")
        if not text.startswith(MARK):
            tail.append(text)
            on_log(text)
            continue
        event: dict[str, Any] = json.loads(text[len(MARK) :])
        if event["event"] == "failure":
            failure = event
        else:
            on_event(event)
    return tail, failure


@contextmanager
def _child(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A child that never outlives this block: on any exception SIGTERM, grace, SIGKILL."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        bufsize=1,
        env={**WORKER_ENVIRONMENT, **os.environ},
        start_new_session=True,
        preexec_fn=die_with_parent(os.getpid()),
    )
    try:
        yield child
    except BaseException:
        _stop(child)
        raise
    finally:
        if child.stdout is not None:
            child.stdout.close()


def _stop(child: subprocess.Popen[str]) -> None:
    """SIGTERM, grace, SIGKILL; a second Ctrl-C ends the grace."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(GRACE_SECONDS)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def die_with_parent(parent: int) -> Callable[[], None]:
    """For `Popen(preexec_fn=...)`: the kernel sends the child SIGTERM when process `parent` dies."""
    libc = ctypes.CDLL(None)

    def before_exec() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above: no signal will come
            os._exit(1)

    return before_exec


def _reason(status: int, failure: dict[str, Any] | None, tail: deque[str]) -> str:
    if failure is not None:
        return str(failure["message"])
    last = "; last lines: " + " | ".join(tail) if tail else ""
    if status == -signal.SIGKILL:
        return f"the worker was killed (SIGKILL: out of memory, or by hand){last}"
    if status < 0:
        return f"the worker died of {signal.Signals(-status).name}{last}"
    return f"the worker ended with exit status {status}{last}"
