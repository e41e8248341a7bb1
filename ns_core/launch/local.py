"""Runs a worker as a child process of this one: `python -m ns_core.worker`, or several of them.

The child's output comes through a pipe, line by line; it has a session of its own, so that the whole
process group can be stopped; and the kernel sends it SIGTERM when this process dies, kill -9 included
(PR_SET_PDEATHSIG), so that it saves a checkpoint and nothing is left running.

    one process            this one -> worker
    several that train     this one -> torchrun -> workers, each in a session of its own
    several that label     this one -> workers, each with a part of the shards; after them one more, which commits

torchrun passes SIGTERM on to its workers, ends the others when one has failed, and the kernel ends them all
with torchrun. It ends with status 1 whatever happened; which worker ended how is in its last words.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from ns_core.errors import StageFailed, UserError
from ns_core.launch.listen import Ear, End, Event, LogLine, end_of_group, listen
from ns_core.launch.parts import Parts, cause
from ns_core.launch.spec import WorkerSpec

GRACE_SECONDS = 20.0
"""Between SIGTERM and SIGKILL: time for a checkpoint."""
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

Child = subprocess.Popen[bytes]
Job = tuple[list[str], Mapping[str, str]]
"""Python's arguments, and environment variables that come before the caller's."""


def run_worker(spec: WorkerSpec, on_log: LogLine, on_event: Event) -> None:
    """Returns once the worker has committed.

    Raises `UserError` when the worker says that a person has to act, else `StageFailed` with the exit
    code in words and the last log lines. Call it from the main thread: PR_SET_PDEATHSIG follows the thread.
    """
    with tempfile.TemporaryDirectory(prefix="ns-spec-") as folder:
        if spec.parts > 1:
            _run_parts(spec, Path(folder), on_log, on_event)
        command = _command(spec, Path(folder) / "spec.json")
        if spec.processes == 1:
            end = _run((command, {}), on_log, on_event)
        else:
            end = _run_together(spec.processes, command, Path(folder), on_log, on_event)
    _settle(spec.stage, end)


def _settle(name: str, end: End) -> None:
    """Raises what a bad end calls for."""
    if end.failure is not None and end.failure["kind"] == "user":
        raise UserError(end.failure["message"])
    if end.status != 0:
        raise StageFailed(f"{name}: {end.reason()}")


def _command(spec: WorkerSpec, file: Path) -> list[str]:
    """Python's arguments for a worker on `spec`, which is written to `file`."""
    file.write_text(spec.model_dump_json(), encoding="utf-8")
    return ["-m", "ns_core.worker", str(file)]


def _run(job: Job, on_log: LogLine, on_event: Event, words: Path | None = None) -> End:
    """Standard error goes to the log, or to the file `words`."""
    ear = Ear(on_log, on_event)
    with ExitStack() as stack:
        error = subprocess.STDOUT if words is None else stack.enter_context(words.open("wb"))
        (child,) = stack.enter_context(_children([job], error))
        for _ in listen(_pipes([child]), [ear]):
            pass
        return ear.end(child.wait())


def _run_parts(spec: WorkerSpec, folder: Path, on_log: LogLine, on_event: Event) -> None:
    """The parts of a stage's work, all at the same time. One that ends badly ends the others."""
    jobs: list[Job] = []
    for number in range(spec.parts):
        part = spec.model_copy(update={"part": (number, spec.parts)})
        place = {"LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": str(spec.parts)}
        jobs.append((_command(part, folder / f"part-{number}.json"), place))
    parts, ends = Parts(spec.parts, on_log, on_event), dict[int, End]()
    with _children(jobs) as children:
        for number in listen(_pipes(children), parts.ears):
            ends[number] = parts.end(number, children[number].wait())
            if ends[number].status != 0:
                _stop(children)
    first = cause(ends)
    _settle(f"{spec.stage}: part {first}", ends[first])


def _run_together(processes: int, command: list[str], folder: Path, on_log: LogLine, on_event: Event) -> End:
    """`processes` workers on this machine, as one: its end is that of the worker that ended badly first."""
    words = folder / "torchrun.txt"
    here = ["--standalone", "--nproc-per-node", str(processes), "--local-addr", "127.0.0.1"]
    once = ["--max-restarts", "0", "--log-dir", str(folder / "torchrun")]
    extra = {LAUNCHER: str(os.getpid()), "GLOO_SOCKET_IFNAME": "lo"}
    end = _run((["-m", "torch.distributed.run", *here, *once, *command], extra), on_log, on_event, words)
    return end_of_group(end, words.read_text(encoding="utf-8", errors="replace"))


@contextmanager
def _children(jobs: Sequence[Job], stderr: int | IO[bytes] = subprocess.STDOUT) -> Iterator[list[Child]]:
    """Children that never outlive this block: on any exception SIGTERM, grace, SIGKILL."""
    children: list[Child] = []
    try:
        for job in jobs:
            children.append(_child(job, stderr))
        yield children
    except BaseException:
        _stop(children)
        raise
    finally:
        for pipe in _pipes(children):
            pipe.close()


def _child(job: Job, stderr: int | IO[bytes]) -> Child:
    command, extra = job
    return subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**WORKER_ENVIRONMENT, **os.environ, **extra},
        start_new_session=True,
        preexec_fn=die_with_parent(os.getpid()),
    )


def _pipes(children: Sequence[Child]) -> list[IO[bytes]]:
    return [child.stdout for child in children if child.stdout is not None]


def _stop(children: Sequence[Child]) -> None:
    """SIGTERM to all that live, one grace for all, SIGKILL; a second Ctrl-C ends the grace."""
    deadline = time.monotonic() + GRACE_SECONDS
    living = [child for child in children if child.poll() is None]
    for child in living:
        os.killpg(child.pid, signal.SIGTERM)
    try:
        with suppress(subprocess.TimeoutExpired):
            for child in living:
                child.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for child in living:
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
