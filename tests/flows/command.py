"""Runs the real command line in a process of its own, watched for connections that leave the machine."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WATCH = """
import os, sys
def _watch(event, arguments):
    if event == "socket.connect":
        address = arguments[1]
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost")):
            _tell(f"connect {address}")
    elif event == "socket.getaddrinfo":
        host = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
        if host not in (None, "", "localhost", "::1") and not host.startswith("127."):
            _tell(f"getaddrinfo {host}")
def _tell(what):
    with open(os.environ["NS_TEST_CONNECTIONS"], "a") as file:
        file.write(f"{sys.argv[:2]} {what}\\n")
sys.addaudithook(_watch)
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """Standard output, which has to be one JSON object."""
        result: dict[str, Any] = json.loads(self.stdout)
        return result

    @property
    def states(self) -> dict[tuple[str, int], str]:
        """(stage, generation) -> computed or cached."""
        return {(stage["stage"], stage["generation"]): stage["state"] for stage in self.document["stages"]}


class Command:
    """`noisy-student` with state and store below one folder. `prefect`: the API of a server that its runs use, instead
    of temporary ones of their own."""

    def __init__(self, folder: Path, prefect: str = "") -> None:
        self.folder, self.prefect = folder, prefect
        self.home = folder / "home"
        self.connections = folder / "connections.txt"
        (folder / "watch").mkdir(parents=True, exist_ok=True)
        (folder / "watch" / "sitecustomize.py").write_text(WATCH, encoding="utf-8")

    def environment(self) -> dict[str, str]:
        """The caller's, without what would hide telemetry that is on, and with the watch in every process."""
        hidden = ("CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")
        kept = {k: v for k, v in os.environ.items() if k not in hidden and not k.startswith(("PREFECT_", "NS_"))}
        return {
            **kept,
            "NS_HOME": str(self.home),
            "NS_TEST_CONNECTIONS": str(self.connections),
            "NS_CACHE": str(self.folder / "cache"),
            "PYTHONPATH": str(self.folder / "watch"),
            **({"PREFECT_API_URL": self.prefect} if self.prefect else {}),
        }

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """The process, in a session of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=self.environment(),
            cwd=Path(__file__).parents[2],
            start_new_session=True,
        )

    def __call__(self, *arguments: str) -> Outcome:
        """Runs to the end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=600)
        return Outcome(process.returncode, out, err)
