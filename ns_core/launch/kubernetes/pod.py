"""The first process of a pod: `python -m ns_core.launch.kubernetes.pod`.

Its environment says what to do, as manifests.py writes it:

    NS_SPEC                a `WorkerSpec` as JSON
    NS_VERSION             of the code that wrote it
    NS_PROCESSES           workers in this pod
    NS_PODS                pods that train together, which meet at NS_RENDEZVOUS (host:port) within
                           NS_RENDEZVOUS_SECONDS
    NS_PARTS               lists into which the work is divided, or 0; the pod's index is the number of its own
    JOB_COMPLETION_INDEX   this pod's number

It starts the worker, or torchrun with several, passes their words on to its own output and SIGTERM on to them, and
ends with 0, or 78 for a person's mistake, 143 after a checkpoint at SIGTERM, 128 + the signal that killed a worker,
else the worker's status. Why, in words, is left where Kubernetes shows it with the pod.

As a container's first process it has to take SIGTERM itself: the kernel gives such a process no signal that it has
no handler for. A second one changes nothing: the grace is the pod's.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from ns_core.errors import UserError
from ns_core.launch import versions
from ns_core.launch.kubernetes import names
from ns_core.launch.kubernetes.failures import EXIT_MISTAKE
from ns_core.launch.listen import Ear, End, end_of_group, listen
from ns_core.launch.local import LAUNCHER, WORKER_ENVIRONMENT, die_with_parent
from ns_core.launch.spec import WorkerSpec
from ns_core.stage import MARK

MESSAGE_FILE = Path("/dev/termination-log")
"""Where Kubernetes reads a container's last words; there is none outside of a pod."""
MESSAGE_BYTES = 4000
_EXIT_STOPPED = 143


def main() -> int:
    """The exit status of the pod."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        spec = _spec()
        with tempfile.TemporaryDirectory(prefix="ns-pod-") as folder:
            end = _run(spec, Path(folder), asked)
    except UserError as error:
        return _last(EXIT_MISTAKE, str(error))
    if end.failure is not None and end.failure["kind"] == "user":
        return _last(EXIT_MISTAKE, str(end.failure["message"]))
    if end.status == 0:
        return 0
    if asked or end.status == _EXIT_STOPPED:  # torchrun ends with 1 where it was asked to stop
        return _EXIT_STOPPED
    return _last(end.status if end.status > 0 else 128 - end.status, end.reason())


def _spec() -> WorkerSpec:
    """What this pod has to do. Raises `UserError` for a variable that is missing, and for another version's."""
    missing = [name for name in (names.SPEC, versions.VARIABLE, names.INDEX_VARIABLE) if name not in os.environ]
    if missing:
        raise UserError(f"{', '.join(missing)} not set: this is started by the launcher, as a pod of an Indexed Job")
    versions.check()
    spec = WorkerSpec.model_validate_json(os.environ[names.SPEC])
    parts = int(os.environ.get(names.PARTS, "0"))
    return spec.model_copy(update={"part": (_index(), parts)}) if parts else spec


def _index() -> int:
    return int(os.environ[names.INDEX_VARIABLE])


def _run(spec: WorkerSpec, folder: Path, asked: list[int]) -> End:
    """The worker, or torchrun, to its end."""
    file, words = folder / "spec.json", folder / "torchrun.txt"
    file.write_text(spec.model_dump_json(), encoding="utf-8")
    worker = ["-m", "ns_core.worker", str(file)]
    processes, pods = (int(os.environ.get(name, "1")) for name in (names.PROCESSES, names.PODS))
    group = processes * pods > 1
    command = [*_torchrun(processes, pods, folder), *worker] if group else worker
    ear = Ear(_say, lambda event: _say(MARK + json.dumps(event)))
    with words.open("wb") as error:
        child = _start(command, error if group else subprocess.STDOUT)

        def pass_on(number: int, _: object) -> None:
            asked.append(number)
            child.send_signal(number)

        signal.signal(signal.SIGTERM, pass_on)
        if asked:
            child.send_signal(signal.SIGTERM)
        assert child.stdout is not None
        for _ in listen([child.stdout], [ear]):
            pass
        end = ear.end(child.wait())
    return end_of_group(end, words.read_text(encoding="utf-8", errors="replace")) if group and end.status else end


def _start(command: list[str], stderr: int | IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**WORKER_ENVIRONMENT, **os.environ, LAUNCHER: str(os.getpid())},
        start_new_session=True,
        preexec_fn=die_with_parent(os.getpid()),
    )


def _torchrun(processes: int, pods: int, folder: Path) -> list[str]:
    """Index 0 keeps the meeting place at its own stable name; torchrun starts nothing again, the cluster does."""
    once = ["--nproc-per-node", str(processes), "--max-restarts", "0", "--log-dir", str(folder / "torchrun")]
    if pods == 1:
        return ["-m", "torch.distributed.run", "--standalone", *once]
    host, _, port = os.environ[names.RENDEZVOUS].rpartition(":")
    where = ["--master-addr", host, "--master-port", port, "--nnodes", str(pods), "--node-rank", str(_index())]
    patience = ["--rdzv-conf", f"timeout={os.environ.get(names.PATIENCE, '900')}"]
    return ["-m", "torch.distributed.run", *where, *patience, *once]


def _say(line: str) -> None:
    with suppress(BrokenPipeError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _last(status: int, words: str) -> int:
    """`status`, with the reason left for Kubernetes and at the end of the log."""
    _say(words)
    with suppress(OSError):
        if MESSAGE_FILE.exists():
            MESSAGE_FILE.write_bytes(words.encode()[:MESSAGE_BYTES])
    return status


if __name__ == "__main__":
    sys.exit(main())
