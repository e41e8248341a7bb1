"""Real servers for integration tests: PostgreSQL, S3, Prefect and MLflow, on free ports, in a folder of their own.

`running_servers()` is a set for one block, which a test may kill. `lasting_servers()` is the set that `make up` started
in the home that the variable NS_TEST_SERVERS names, for the one module that uses it; without the variable one for the
block. The only reason to skip is that PostgreSQL is not installed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from flows.servers import postgres
from flows.servers.place import Place, State

ROOT = Path(__file__).parents[1]
UP_SECONDS = 400.0
HOME = "NS_TEST_SERVERS"


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class ServerSet:
    """The servers of one home, through their command line."""

    home: Path

    @property
    def place(self) -> Place:
        return Place.of(self.home)

    @property
    def state(self) -> State:
        """As recorded now."""
        state = State.load(self.place)
        assert state is not None, "`up` has been"
        return state

    @property
    def environment(self) -> dict[str, str]:
        """What a shell has after it sourced the file that `up` writes."""
        shell = ["/bin/sh", "-c", '. "$0" && exec env -0', str(self.place.env)]
        lines = subprocess.run(shell, env={}, capture_output=True, text=True, check=True).stdout.split("\0")
        found = dict(line.split("=", 1) for line in lines if line)
        return {name: value for name, value in found.items() if name.startswith(("NS_", "AWS_", "PREFECT_"))}

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """`python -m flows.servers VERB --home ...`, under way; any port but the defaults."""
        free = ["--free-ports"] if arguments[0] == "up" else []
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NS_", "PREFECT_"))}
        return subprocess.Popen(
            [sys.executable, "-m", "flows.servers", *arguments, "--home", str(self.home), *free],
            cwd=ROOT,
            env=kept,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str) -> Outcome:
        """To its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=UP_SECONDS)
        return Outcome(process.returncode, out, err)

    def kill(self, server: str) -> None:
        """SIGKILL for its recorded process, and not for what that started."""
        process = psutil.Process(self.state.processes[server].pid)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)

    def processes(self) -> list[psutil.Process]:
        """Whatever runs in the servers' folders or names them, recorded or not."""
        folders = (f"{self.place.root}/", f"{self.state.cluster}/")
        found = []
        for process in psutil.process_iter():
            try:
                where = [f"{process.cwd()}/", *process.cmdline()]
            except psutil.Error:
                continue
            if process.status() != psutil.STATUS_ZOMBIE and any(folder in text for folder in folders for text in where):
                found.append(process)
        return found


@contextmanager
def running_servers() -> Iterator[ServerSet]:
    """All four, healthy; stopped, and their data removed, at the end of the block."""
    if not postgres.installed():
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="ns-servers-"))
    folder.chmod(0o711)  # PostgreSQL's account has to pass through it, which it cannot through pytest's folders
    servers = ServerSet(folder / "home")
    try:
        outcome = servers("up")
        assert outcome.status == 0, outcome.stderr
        yield servers
    finally:
        outcome = servers("down")
        shutil.rmtree(folder, ignore_errors=True)
    assert outcome.status == 0, outcome.stderr


@contextmanager
def lasting_servers() -> Iterator[ServerSet]:
    """The set of NS_TEST_SERVERS, which has to be healthy and is left running; else one for this block."""
    home = os.environ.get(HOME)
    if not home:
        with running_servers() as started:
            yield started
        return
    servers = ServerSet(Path(home))
    status = servers("status")
    assert status.status == 0, f"{HOME}={home}:\n{status.stdout}{status.stderr}"
    yield servers


def secrets_of(servers: ServerSet) -> list[str]:
    """What must be nowhere but in two files; S3's key id is a name, which SeaweedFS writes into its log."""
    made = json.loads(servers.place.passwords.read_text(encoding="utf-8"))
    return [made["postgres"], made["s3_secret"]]
