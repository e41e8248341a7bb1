"""Runs a worker as a child process of this one: `python -m ns_core.worker`, or several of them through torchrun.

The child's output comes through a pipe, line by line; it has a session of its own, so that the whole
process group can be stopped; and the kernel sends it SIGTERM when this process dies, kill -9 included
(PR_SET_PDEATHSIG), so that it saves a checkpoint and nothing is left running.

    one process     this one -> worker
    several         this one -> torchrun -> workers, each in a session of its own

torchrun passes SIGTERM on to its workers, ends the others when one has failed, and the kernel ends them all
with torchrun. It ends with status 1 whatever happened; which worker ended how is in its last words.
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

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

LAUNCHER = "NS_LAUNCHER"
"""Environment variable of workers under torchrun: the process that started torchrun."""

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
        if spec.processes == 1:
            end = _run([sys.executable, "-m", "ns_core.worker", str(file)], on_log, on_event)
        else:
            end = _run_together(spec.processes, file, on_log, on_event)
    if end.failure is not None and end.failure["kind"] == "user":
        raise UserError(end.failure["message"])
    if end.status != 0:
        raise StageFailed(f"{spec.stage}: {_reason(end)}")


@dataclass(frozen=True)
class _End:
    """How a worker ended."""

    status: int
    """As `Popen.returncode`."""
    failure: dict[str, Any] | None
    """The event in which it said why."""
    tail: Sequence[str]
    """Its last log lines."""


def _run(
    command: list[str], on_log: LogLine, on_event: Event, words: Path | None = None, extra: Mapping[str, str] = {}
) -> _End:
    """Standard error goes to the log, or to the file `words`. `extra`: environment variables."""
    with ExitStack() as stack:
        error = subprocess.STDOUT if words is None else stack.enter_context(words.open("wb"))
        child = stack.enter_context(_child(command, {**WORKER_ENVIRONMENT, **os.environ, **extra}, error))
        tail, failure = _listen(child, on_log, on_event)
        return _End(child.wait(), failure, tail)


def _run_together(processes: int, file: Path, on_log: LogLine, on_event: Event) -> _End:
    """`processes` workers on this machine, as one: its end is that of the worker that ended badly first."""
    words = file.with_name("torchrun.txt")
    here = ["--standalone", "--nproc-per-node", str(processes), "--local-addr", "127.0.0.1"]
    once = ["--max-restarts", "0", "--log-dir", str(file.with_name("torchrun"))]
    command = [sys.executable, "-m", "torch.distributed.run", *here, *once, "-m", "ns_core.worker", str(file)]
    extra = {LAUNCHER: str(os.getpid()), "GLOO_SOCKET_IFNAME": "lo"}
    end = _run(command, on_log, on_event, words, extra)
    return _of_group(end, words.read_text(encoding="utf-8", errors="replace"))


def _of_group(end: _End, words: str) -> _End:
    """`end` of torchrun, whose standard error held `words`, as the end of the worker that was the cause.

    A worker that a signal killed could not say so, while its peers tell of a connection that was closed.
    """
    stopped = re.findall(r"Sending process (\d+) closing signal", words)
    ended = re.findall(r"exitcode *: (-?\d+) \(pid: (\d+)\)", words)
    statuses = [int(status) for status, pid in ended if pid not in stopped]
    if killed := [status for status in statuses if status < 0]:
        return replace(end, status=killed[0], failure=None)
    return replace(
        end, status=statuses[0] if statuses else end.status, tail=end.tail or words.splitlines()[-TAIL_LINES:]
    )


def _listen(child: subprocess.Popen[str], on_log: LogLine, on_event: Event) -> tuple[list[str], dict[str, Any] | None]:
    """The last log lines, and why the worker failed: of several that say so the first, which the others follow
    from, but before all one that a person has to act upon."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    failures: list[dict[str, Any]] = []
    assert child.stdout is not None
    for line in child.stdout:
        text = line.rstrip("\n")
        event = _event(text)
        if event is None:
            tail.append(text)
            on_log(text)
        elif event["event"] == "failure":
            failures.append(event)
        else:
            on_event(event)
    failures.sort(key=lambda failure: failure["kind"] != "user")
    return list(tail), failures[0] if failures else None


def _event(line: str) -> dict[str, Any] | None:
    """None for a log line, and for what two processes have written into each other."""
    if not line.startswith(MARK):
        return None
    with suppress(ValueError):
        event: dict[str, Any] = json.loads(line[len(MARK) :])
        return event
    return None


@contextmanager
def _child(
    command: list[str], environment: Mapping[str, str], stderr: int | IO[bytes]
) -> Iterator[subprocess.Popen[str]]:
    """A child that never outlives this block: on any exception SIGTERM, grace, SIGKILL."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        errors="replace",
        bufsize=1,
        env=environment,
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


def die_with_parent(parent: int, sent: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """For `Popen(preexec_fn=...)`: the kernel sends the child the signal `sent` when process `parent` dies."""
    libc = ctypes.CDLL(None)

    def before_exec() -> None:
        libc.prctl(PR_SET_PDEATHSIG, sent)
        if os.getppid() != parent:  # it died before the line above: no signal will come
            os._exit(1)

    return before_exec


def _reason(end: _End) -> str:
    if end.failure is not None:
        return str(end.failure["message"])
    last = "; last lines: " + " | ".join(end.tail) if end.tail else ""
    if end.status == -signal.SIGKILL:
        return f"the worker was killed (SIGKILL: out of memory, or by hand){last}"
    if end.status < 0:
        return f"the worker died of {signal.Signals(-end.status).name}{last}"
    return f"the worker ended with exit status {end.status}{last}"
