"""Processes that outlive their starter: started so that none goes unrecorded, and found again without doubt.

In: a `Job`. Out: a `Record`, which a later command turns into live processes. A process is its id, its start in
clock ticks since boot, and the boot: psutil's `create_time` adds the wall clock, which NTP moves, so that two
commands may read two times for one process. Signals go through a pidfd that is checked after it is opened, so
that an id that was given to somebody else's process in the meantime is never signalled.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from flows.servers.account import Account

POLL_SECONDS = 0.1
KILL_SECONDS = 10.0
"""After SIGKILL, for the kernel to take a process apart; a disk that hangs takes longer."""
_WAIT_FOR_GO = 'read -r go && exec "$@" < /dev/null'
"""The shell becomes the server, same id and start time, once its record is on disk; it ends if the starter dies."""


@dataclass(frozen=True)
class Record:
    """A started server. It leads a session of its own, in which what it starts stays."""

    pid: int
    started: int
    """Clock ticks since boot, field 22 of /proc/PID/stat."""
    boot: str
    folder: str
    """Its working directory, and that of what it starts: nobody else's process is in that folder."""
    polite: int
    """The signal that asks it to end."""
    grace_seconds: float
    """What it gets for that before SIGKILL."""
    program: str = ""
    """File of the program whose processes in that folder are its children although each left the session, if any."""


@dataclass(frozen=True)
class Job:
    """What to run, and how."""

    command: list[str]
    environment: Mapping[str, str]
    """The whole of it. Passwords are in here, never in the command, which everybody may read."""
    folder: Path
    """Working directory."""
    log: Path
    account: Account | None
    """Somebody else to run as."""
    polite: signal.Signals = signal.SIGTERM
    grace_seconds: float = 10.0
    children_leave: bool = False
    """Whether what it starts leads sessions of its own, as PostgreSQL's backends do."""


def start(job: Job, record: Callable[[Record], None]) -> None:
    """Starts it once `record` has returned, which writes down the process; a log of an earlier start moves aside."""
    with suppress(FileNotFoundError):
        job.log.replace(job.log.with_name(job.log.name + ".1"))
    with open(os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as log:
        shell = subprocess.Popen(
            ["/bin/sh", "-c", _WAIT_FOR_GO, "sh", *job.command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=job.folder,
            env=job.environment,
            start_new_session=True,
            **(job.account.popen() if job.account else {}),
        )
    _say_go(shell, job, record)


def _say_go(shell: "subprocess.Popen[bytes]", job: Job, record: Callable[[Record], None]) -> None:
    gate: IO[bytes] | None = shell.stdin
    assert gate is not None
    with gate:
        started = _started(shell.pid)
        assert started is not None, "it waits for us"
        program = job.command[0] if job.children_leave else ""
        record(Record(shell.pid, started, _boot(), str(job.folder), job.polite, job.grace_seconds, program))
        with suppress(BrokenPipeError):  # it is gone; whoever waits for its health will say so
            gate.write(b"go\n")
            gate.flush()


def alive(record: Record) -> bool:
    """Whether the recorded process itself is there, and no zombie."""
    return record.boot == _boot() and _started(record.pid) == record.started


def members(record: Record) -> dict[int, int]:
    """Process id -> start of the recorded process, first, and of all that it started and left.

    While a process of the session lives, the kernel gives its leader's id to nobody else. Should all of them be gone
    and a stranger lead a session of that number, then in another folder.
    """
    if record.boot != _boot():
        return {}
    found = {record.pid: record.started} if alive(record) else {}
    for pid in psutil.pids():
        with suppress(ProcessLookupError, psutil.Error, OSError):
            started = _started(pid)
            if pid != record.pid and started is not None and _belongs(pid, record):
                found[pid] = started
    return found


def _belongs(pid: int, record: Record) -> bool:
    stays = os.getsid(pid) == record.pid
    if not stays and not record.program:
        return False
    process = psutil.Process(pid)
    return _within(process.cwd(), record.folder) and (stays or process.exe() == record.program)


def stop(records: Sequence[Record]) -> None:
    """Until nothing of any is left: their signals to whole sessions, as Ctrl-C in a terminal; grace; SIGKILL.

    Children that left the session are the living server's to stop; a dead one's get the signal themselves.
    """
    for record in records:
        orphans = not alive(record)
        for pid, started in members(record).items():
            with suppress(ProcessLookupError):
                if orphans or os.getsid(pid) == record.pid:
                    _send(pid, started, signal.Signals(record.polite))
    begun = time.monotonic()
    for record in records:
        if not _gone(record, begun + record.grace_seconds - time.monotonic()):
            for pid, started in members(record).items():
                _send(pid, started, signal.SIGKILL)
            _gone(record, KILL_SECONDS)


def memory(record: Record) -> int:
    """Bytes of all its processes; a page that several share counts once among them."""
    total = 0
    for pid in members(record):
        with suppress(psutil.Error):
            total += psutil.Process(pid).memory_full_info().pss
    return total


def age_seconds(record: Record) -> float:
    """Since its start."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - record.started / os.sysconf("SC_CLK_TCK")


def _gone(record: Record, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while members(record):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _send(pid: int, started: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if _started(pid) == started:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def _started(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process; None for none, and for a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = text.rpartition(")")[2].split()  # the name before it may hold anything
    return None if state in "ZX" else int(rest[18])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _within(path: str, folder: str) -> bool:
    return (path + "/").startswith(folder + "/")
