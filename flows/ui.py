"""`noisy-student ui`: the pages of Prefect and MLflow over the local state, until Ctrl-C.

In: the home folder whose databases `noisy-student run` writes. Out: two servers on loopback, their addresses
on standard output, their output in `{home}/logs`, and while both are up `{home}/ui.json`, by which a run
finds Prefect's server and so shows up in its page at once instead of starting a temporary server of its own.
`flows.serving` runs a process more beside them.

The servers get a session of their own, so that Ctrl-C in the terminal reaches this process alone, which then
stops them in order; the kernel sends them SIGTERM when this process dies otherwise (PR_SET_PDEATHSIG).
"""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from flows import environment
from ns_core.errors import UserError
from ns_core.launch.local import die_with_parent
from ns_core.storage import open_storage
from ns_core.tracking import Tracker

HOST = "127.0.0.1"
START_SECONDS = 300.0
"""Prefect took 93 s to come up on a new database under a load of 15."""
GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL."""
ALONE_GRACE_SECONDS = 60.0
"""Of a process that has runs to stop, which save their checkpoint first."""
POLL_SECONDS = 0.2
HEALTH_SECONDS = 1.0
TAIL_LINES = 10


@dataclass(frozen=True)
class Server:
    """A started server: `process` leads a process group of its own."""

    name: str
    up: Callable[[], bool]
    log: Path
    process: subprocess.Popen[bytes]
    alone: bool = False
    """Ctrl-C is told to it and not to its group: it stops by itself what it started."""

    def last_words(self) -> str:
        """The last lines of its log, indented."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "".join(f"  {line}\n" for line in [line for line in lines if line.strip()][-TAIL_LINES:])


def serve(
    home: Path, store: str, prefect_port: int, mlflow_port: int, beside: Callable[[str], Server] | None = None
) -> int:
    """Runs both servers until SIGINT or SIGTERM (0), or until one of them fails (1).

    Port 0 takes any free one. Where `NS_TRACKING_URI` names an MLflow server, only Prefect's is started.
    `beside` gets the URL of Prefect's API and starts what runs as long as the pages: it is stopped before them.
    `UserError` for a port that cannot be had, and when the pages of this home are up already.
    """
    storage = open_storage(store)
    environment.prepare(home)
    if api := running_api(home):
        raise UserError(f"the pages of {home} are up already ({api.removesuffix('/api')}): stop them there first")
    prefect_port, mlflow_port = _free_ports({"--prefect-port": prefect_port, "--mlflow-port": mlflow_port})
    tracking = environment.default_tracking(home)
    with asked_to_stop() as asked, ExitStack() as stack:
        say(f"starting the servers, output in {home / 'logs'} ... (the first time takes up to a minute)")
        servers = stack.enter_context(stopped_at_the_end())
        servers.append(_prefect(home, prefect_port))
        if not _is_server(tracking):
            servers.append(_mlflow(home, mlflow_port, tracking))
        if not all_up(servers, asked):
            return 0 if asked else 1
        stack.enter_context(_announced(home, prefect_port))
        if beside:
            more = stack.enter_context(stopped_at_the_end())
            more.append(beside(f"http://{HOST}:{prefect_port}/api"))
            if not all_up(more, asked):
                return 0 if asked else 1
            servers = servers + more
        pages = {
            "Prefect": f"http://{HOST}:{prefect_port}",
            "MLflow": _mlflow_page(tracking, mlflow_port),
            "Store": storage.uri,
        }
        sys.stdout.write("".join(f"{name:8}{address}\n" for name, address in pages.items()))
        sys.stdout.flush()
        say("Ctrl-C stops them. What `noisy-student run` does in another terminal shows up here.")
        wait(servers, asked)
    return 0 if asked else 1


def wait(servers: list[Server], asked: list[int]) -> None:
    """Until somebody asks to stop, or one of the servers ends by itself."""
    while not asked and not _failed(servers):
        time.sleep(POLL_SECONDS)


def running_api(home: Path) -> str | None:
    """The URL of Prefect's API where a `noisy-student ui` serves this home, else None; within 1 s or so."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        state = json.loads(_state_file(home).read_text(encoding="utf-8"))
        os.kill(int(state["pid"]), 0)
        if answers(f"{state['prefect_api']}/health"):
            return str(state["prefect_api"])
    return None


def _prefect(home: Path, port: int) -> Server:
    address = f"http://{HOST}:{port}"
    command = ["prefect", "server", "start", "--host", HOST, "--port", str(port)]
    # The page asks PREFECT_API_URL, if set, or port 4200, whatever `--port` says.
    own = {"PREFECT_SERVER_UI_API_URL": f"{address}/api"}
    return start("Prefect", partial(answers, f"{address}/api/health"), command, home / "logs" / "prefect.log", own)


def _mlflow(home: Path, port: int, tracking: str) -> Server:
    """`--artifacts-destination` is where a `Tracker` puts artifacts when it writes the database directly."""
    database = Path(tracking.removeprefix("sqlite:///"))
    if _experiment_id(database) is None:  # it also refuses an address that is none
        Tracker(tracking, environment.EXPERIMENT, home / "mlflow-spool").close()
    command = ["mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", tracking]
    command += ["--artifacts-destination", database.with_name("mlflow-artifacts").as_uri()]
    # Its job consumers are eight more processes of 225 MB each, and nothing here asks for them.
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    up = partial(answers, f"http://{HOST}:{port}/health")
    return start("MLflow", up, command, home / "logs" / "mlflow.log", own)


def _mlflow_page(tracking: str, port: int) -> str:
    """The experiment's runs, in MLflow's mode for training: its start page opens in the mode for LLMs."""
    if _is_server(tracking):
        return tracking
    page, experiment = f"http://{HOST}:{port}", _experiment_id(Path(tracking.removeprefix("sqlite:///")))
    return f"{page}/#/experiments/{experiment}/runs?workflowType=machine_learning" if experiment else page


def _is_server(tracking: str) -> bool:
    return tracking.startswith(("http://", "https://"))


def _experiment_id(database: Path) -> str | None:
    """Of our experiment in MLflow's database; None where either is missing."""
    with (
        suppress(sqlite3.Error, ValueError),
        closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as opened,
    ):
        query = "select experiment_id from experiments where name = ?"
        row = opened.execute(query, (environment.EXPERIMENT,)).fetchone()
        return str(row[0]) if row else None
    return None


def _free_ports(wanted: Mapping[str, int]) -> list[int]:
    """A port for each option; all are held until the last is found, so that they differ."""
    ports = []
    with ExitStack() as held:
        for option, port in wanted.items():
            listener = held.enter_context(socket.socket())
            # The last server's closed connections keep the port for a minute otherwise.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, port))
                listener.listen()
            except (OSError, OverflowError) as error:
                reason = error.strerror if isinstance(error, OSError) else "ports end at 65535"
                raise UserError(
                    f"port {port} cannot be used ({reason}); choose another with {option}, 0 for any free one"
                ) from error
            ports.append(listener.getsockname()[1])
    return ports


def start(name: str, up: Callable[[], bool], command: list[str], log: Path, own: Mapping[str, str]) -> Server:
    """`python -m command` with the log as output; the folder of the log is its working directory.

    So nothing that lies where the person works is imported, and what a server drops lies with the state.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={**inherited, **own},
            start_new_session=True,
            preexec_fn=die_with_parent(os.getpid()),
        )
    return Server(name, up, log, process)


def all_up(servers: list[Server], asked: list[int]) -> bool:
    """Waits until every server answers; False when one fails or somebody asks to stop."""
    deadline, waiting = time.monotonic() + START_SECONDS, list(servers)
    while waiting and not asked and not _failed(servers):
        waiting = [server for server in waiting if not server.up()]
        if waiting and time.monotonic() > deadline:
            say(f"{waiting[0].name} does not answer after {START_SECONDS:.0f} s:\n{waiting[0].last_words()}")
            return False
        time.sleep(POLL_SECONDS)
    return not waiting


def _failed(servers: list[Server]) -> bool:
    """Whether a server ended by itself; says so with its last words."""
    for server in servers:
        status = server.process.poll()
        if status is not None:
            say(f"{server.name} ended by itself (exit status {status}):\n{server.last_words()}")
            return True
    return False


@contextmanager
def stopped_at_the_end() -> Iterator[list[Server]]:
    """A list of servers; those in it end with this block, whole groups: SIGTERM, grace, SIGKILL."""
    servers: list[Server] = []
    try:
        yield servers
    finally:
        for server in servers:
            if server.alone:
                server.process.send_signal(signal.SIGINT)
            else:
                _signal_group(server, signal.SIGTERM)
        deadline = time.monotonic() + (ALONE_GRACE_SECONDS if any(one.alone for one in servers) else GRACE_SECONDS)
        for server in servers:
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(max(0.0, deadline - time.monotonic()))
            _signal_group(server, signal.SIGKILL)
            server.process.wait()


def _signal_group(server: Server, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(server.process.pid, number)


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """The SIGINTs and SIGTERMs received inside the block, which do nothing else."""
    asked: list[int] = []
    before = {
        number: signal.signal(number, lambda received, _frame: asked.append(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _announced(home: Path, port: int) -> Iterator[None]:
    """`ui.json` inside the block: a reader sees it whole or not at all."""
    file = _state_file(home)
    draft = file.with_suffix(".tmp")
    draft.write_text(json.dumps({"prefect_api": f"http://{HOST}:{port}/api", "pid": os.getpid()}), "utf-8")
    draft.replace(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _state_file(home: Path) -> Path:
    return home / "ui.json"


def answers(url: str) -> bool:
    """200 within a second, asked directly: no proxy stands between this machine and itself."""
    parts = urlsplit(url)
    with closing(HTTPConnection(parts.netloc, timeout=HEALTH_SECONDS)) as connection:
        try:
            connection.request("GET", parts.path)
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False


def say(line: str) -> None:
    sys.stderr.write(line.rstrip("\n") + "\n")
    sys.stderr.flush()
