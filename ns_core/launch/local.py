"""Runs a worker as a child process of this one: `python -m ns_core.worker`, or several of them.

The child's output comes through a pipe, line by line; it has a session of its own, so that the whole
process group can be stopped; and the kernel sends it SIGTERM when this process dies, kill -9 included
(PR_SET_PDEATHSIG), so that it saves a checkpoint and nothing is left running. Whatever is raised here meanwhile, a
cancelled run's signal or Ctrl-C, gives it SIGTERM, a grace in which its log lines still arrive, and SIGKILL.

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
from selectors import EVENT_READ, DefaultSelector
from typing import IO, Any

from ns_core.errors import StageFailed, UserError
from ns_core.launch.listen import Ear, End, Event, LogLine, end_of_group, listen
from ns_core.launch.parts import Parts, cause
from ns_core.launch.spec import WorkerSpec

GRACE_SECONDS = 20.0
"""Between SIGTERM and SIGKILL: time for a checkpoint."""
PIPE_BYTES = 1 << 16
"""What a pipe of Linux holds."""
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
    told = _Told(on_log, on_event)
    with tempfile.TemporaryDirectory(prefix="ns-spec-") as folder:
        if spec.parts > 1:
            _run_parts(spec, Path(folder), told)
        command = _command(spec, Path(folder) / "spec.json")
        if spec.processes == 1:
            end = _run((command, {}), told)
        else:
            end = _run_together(spec.processes, command, Path(folder), told)
    _settle(spec.stage, end)


class _Told:
    """Whom workers speak to. Once they are being stopped, only log lines are passed on, and the caller, who wants to
    get away, is not held up by what they cause."""

    def __init__(self, on_log: LogLine, on_event: Event) -> None:
        self._on_log, self._on_event, self.stopping = on_log, on_event, False

    def log(self, line: str) -> None:
        try:
            self._on_log(line)
        except Exception:
            if not self.stopping:
                raise

    def event(self, event: dict[str, Any]) -> None:
        if not self.stopping:
            self._on_event(event)


def _settle(name: str, end: End) -> None:
    """Raises what a bad end calls for."""
    if end.failure is not None and end.failure["kind"] == "user":
        raise UserError(_line(end.failure["message"]))
    if end.status != 0:
        raise StageFailed(_line(f"{name}: {end.reason()}"))


def _line(text: str) -> str:
    """On one line, as the states of Prefect's page show it."""
    return " ".join(text.split())


def _command(spec: WorkerSpec, file: Path) -> list[str]:
    """Python's arguments for a worker on `spec`, which is written to `file`."""
    file.write_text(spec.model_dump_json(), encoding="utf-8")
    return ["-m", "ns_core.worker", str(file)]


def _run(job: Job, told: _Told, words: Path | None = None) -> End:
    """Standard error goes to the log, or to the file `words`."""
    ear = Ear(told.log, told.event)
    with ExitStack() as stack:
        error = subprocess.STDOUT if words is None else stack.enter_context(words.open("wb"))
        (child,) = stack.enter_context(_children([job], [ear], told, error))
        for _ in listen(_pipes([child]), [ear]):
            pass
        return ear.end(child.wait())


def _run_parts(spec: WorkerSpec, folder: Path, told: _Told) -> None:
    """The parts of a stage's work, all at the same time. One that ends badly ends the others."""
    jobs: list[Job] = []
    for number in range(spec.parts):
        part = spec.model_copy(update={"part": (number, spec.parts)})
        place = {"LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": str(spec.parts)}
        jobs.append((_command(part, folder / f"part-{number}.json"), place))
    parts, ends = Parts(spec.parts, told.log, told.event), dict[int, End]()
    with _children(jobs, parts.ears, told) as children:
        for number in listen(_pipes(children), parts.ears):
            ends[number] = parts.end(number, children[number].wait())
            if ends[number].status != 0:
                _stop(children, parts.ears)
    first = cause(ends)
    _settle(f"{spec.stage}: part {first}", ends[first])


def _run_together(processes: int, command: list[str], folder: Path, told: _Told) -> End:
    """`processes` workers on this machine, as one: its end is that of the worker that ended badly first."""
    words = folder / "torchrun.txt"
    here = ["--standalone", "--nproc-per-node", str(processes), "--local-addr", "127.0.0.1"]
    once = ["--max-restarts", "0", "--log-dir", str(folder / "torchrun")]
    extra = {LAUNCHER: str(os.getpid()), "GLOO_SOCKET_IFNAME": "lo"}
    end = _run((["-m", "torch.distributed.run", *here, *once, *command], extra), told, words)
    return end_of_group(end, words.read_text(encoding="utf-8", errors="replace"))


@contextmanager
def _children(
    jobs: Sequence[Job], ears: Sequence[Ear], told: _Told, stderr: int | IO[bytes] = subprocess.STDOUT
) -> Iterator[list[Child]]:
    """Children that never outlive this block: on any exception SIGTERM, grace, SIGKILL."""
    children: list[Child] = []
    try:
        for job in jobs:
            children.append(_child(job, stderr))
        yield children
    except BaseException:
        told.stopping = True
        _stop(children, ears)
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


def _stop(children: Sequence[Child], ears: Sequence[Ear]) -> None:
    """SIGTERM to all that live, one grace for all, in which they are heard, SIGKILL; a second Ctrl-C ends the grace.

    A worker that nobody hears would hang as soon as the pipe is full, and its last words tell what it saved.
    """
    deadline = time.monotonic() + GRACE_SECONDS
    living = [child for child in children if child.poll() is None]
    for child in living:
        os.killpg(child.pid, signal.SIGTERM)
    try:
        _hear_out(_pipes(children), ears, deadline)
        with suppress(subprocess.TimeoutExpired):
            for child in living:
                child.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for child in living:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def _hear_out(pipes: Sequence[IO[bytes]], ears: Sequence[Ear], deadline: float) -> None:
    """Until the last pipe is closed at its other end, or the monotonic clock has reached `deadline`."""
    with DefaultSelector() as open_pipes:
        for pipe, ear in zip(pipes, ears, strict=False):  # fewer pipes, where not all could be started
            open_pipes.register(pipe, EVENT_READ, ear)
        while open_pipes.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in open_pipes.select(left):
                data = os.read(key.fd, PIPE_BYTES)
                key.data.hear(data)
                if not data:
                    open_pipes.unregister(key.fileobj)


def die_with_parent(parent: int, sent: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """For `Popen(preexec_fn=...)`: the kernel sends the child the signal `sent` when process `parent` dies."""
    libc = ctypes.CDLL(None)

    def before_exec() -> None:
        libc.prctl(PR_SET_PDEATHSIG, sent)
        if os.getppid() != parent:  # it died before the line above: no signal will come
            os._exit(1)

    return before_exec
