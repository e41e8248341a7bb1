"""The four servers: what each runs, where it listens, and how one sees that it works.

In: a home's `Place`, its `State` and its passwords. Out: `Service`s, in the order in which they start. No password is
in a command or an address: PostgreSQL's goes to its clients as PGPASSWORD, S3's keys as the AWS variables.
"""

import os
import shutil
import signal
import socket
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from flows.servers import account, health, postgres
from flows.servers.passwords import Passwords
from flows.servers.place import LOOPBACK, Place, Ports, State
from flows.servers.processes import Job
from ns_core.errors import UserError

BUCKET = "noisy-student"
EXTRA = "`pip install 'noisy-student[servers]'`"
_OF_CLIENTS = ("AWS_", "MLFLOW_", "PG", "PREFECT_API_", "PREFECT_PROFILE")
"""Variables that lead a client to servers, perhaps to these: none of the servers' business."""


@dataclass(frozen=True)
class Service:
    """One of the servers."""

    name: str
    job: Job
    ports: tuple[str, ...]
    """The fields of `Ports` that it listens on."""
    address: str
    """As a client names it."""
    healthy: Callable[[], bool]

    @property
    def title(self) -> str:
        return TITLES[self.name]


TITLES = {"postgres": "PostgreSQL", "s3": "S3", "prefect": "Prefect", "mlflow": "MLflow"}
NAMES = tuple(TITLES)
WAVES = (NAMES[:2], NAMES[2:])
"""What starts at the same time; the second needs the first."""


def services(place: Place, state: State, passwords: Passwords) -> dict[str, Service]:
    """By name. `UserError` for a program that is not installed."""
    if find_spec("psycopg2") is None:
        raise UserError(f"psycopg2, by which MLflow speaks to PostgreSQL, is not installed: {EXTRA}")
    made = (_postgres, _s3, _prefect, _mlflow)
    return {name: make(place, state, passwords) for name, make in zip(NAMES, made, strict=True)}


def addresses(host: str, ports: Ports) -> dict[str, str]:
    """What a client sets, without the credentials."""
    return {
        "PREFECT_API_URL": f"http://{host}:{ports.prefect}/api",
        "NS_TRACKING_URI": f"http://{host}:{ports.mlflow}",
        "NS_STORE": f"s3://{BUCKET}/store",
        "AWS_ENDPOINT_URL_S3": f"http://{LOOPBACK}:{ports.s3}",
    }


def _postgres(place: Place, state: State, passwords: Passwords) -> Service:
    cluster = Path(state.cluster)
    job = Job(
        postgres.command(cluster, state.ports.postgres),
        _environment({}),
        cluster,
        place.log("postgres"),
        account.for_data(cluster),
        # Its fast shutdown: SIGTERM waits until the last client has gone.
        polite=signal.SIGINT,
        grace_seconds=30.0,
        children_leave=True,
    )
    healthy = partial(health.postgres, state.ports.postgres, postgres.USER, passwords.postgres, postgres.DATABASES)
    address = f"{LOOPBACK}:{state.ports.postgres}"
    return Service("postgres", job, ("postgres",), address, healthy)


def _s3(place: Place, state: State, passwords: Passwords) -> Service:
    """Master, volume, filer and S3 in one process. Only S3 has a login, so that all stay on loopback."""
    ports, data = state.ports, place.data("s3")
    numbers = {name: getattr(ports, f"s3_{name}") for name in ("master", "filer", "volume", "admin")} | {"s3": ports.s3}
    command = [
        *(_weed(), "-logtostderr", "mini", f"-dir={data}", f"-bucket={BUCKET}"),
        *(f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", "-master.telemetry=false"),
        *("-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        # A port that is not set moves to the next one when it is taken.
        *(f"-{name}.port={port}" for name, port in numbers.items()),
    ]
    # Less resident memory under load. With a limit of 200 MiB, too near to what it needs, it spent 8 % of a core on
    # collecting garbage while nobody asked it anything; with this one 0.3 %.
    environment = _environment({**passwords.aws(), "GOMEMLIMIT": "400MiB", "GOGC": "40"})
    healthy = partial(
        health.http,
        f"http://{LOOPBACK}:{ports.s3}/healthz",
        f"http://{LOOPBACK}:{ports.s3_filer}/buckets/{BUCKET}/",
    )
    names = ("s3", "s3_master", "s3_filer", "s3_volume", "s3_admin")
    address = f"http://{LOOPBACK}:{ports.s3}"
    # Its clean end takes up to 14 s.
    job = Job(command, environment, data, place.log("s3"), None, grace_seconds=20.0)
    return Service("s3", job, names, address, healthy)


def _prefect(place: Place, state: State, passwords: Passwords) -> Service:
    page, folder = f"http://{state.host}:{state.ports.prefect}", place.data("prefect")
    command = ["prefect", "server", "start", "--host", state.host, "--port", str(state.ports.prefect)]
    own = {
        "PREFECT_HOME": str(folder),
        "PREFECT_PROFILES_PATH": str(folder / "profiles.toml"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": _database("postgresql+asyncpg", state, "prefect"),
        "PGPASSWORD": passwords.postgres,
        # The page asks PREFECT_API_URL, if set, or port 4200, whatever `--port` says.
        "PREFECT_SERVER_UI_API_URL": f"{page}/api",
        # As it is set up, tasks that ended while PostgreSQL was away stay "Running" for good.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "10",
    }
    job = Job([sys.executable, "-m", *command], _environment(own), folder, place.log("prefect"), None)
    # `/health` answers without the database.
    return Service("prefect", job, ("prefect",), page, partial(health.http, f"{page}/api/ready"))


def _mlflow(place: Place, state: State, passwords: Passwords) -> Service:
    page, folder = f"http://{state.host}:{state.ports.mlflow}", place.data("mlflow")
    command = ["mlflow", "server", "--host", state.host, "--port", str(state.ports.mlflow), "--workers", "1"]
    command += ["--backend-store-uri", _database("postgresql+psycopg2", state, "mlflow")]
    command += ["--artifacts-destination", f"s3://{BUCKET}/mlflow"]
    names = dict.fromkeys((LOOPBACK, "localhost", state.host, socket.gethostname()))
    own = {
        **passwords.aws(),
        "PGPASSWORD": passwords.postgres,
        "MLFLOW_S3_ENDPOINT_URL": f"http://{LOOPBACK}:{state.ports.s3}",
        "NO_PROXY": LOOPBACK,
        "no_proxy": LOOPBACK,
        # Anybody else's Host, and a page from anywhere else, it answers with 403.
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(f"{name}:*" for name in names),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:*" for name in names),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Its job consumers are eight more processes of 225 MB each, and nothing here asks for them.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    job = Job([sys.executable, "-m", *command], _environment(own), folder, place.log("mlflow"), None)
    # `/health` answers without the database.
    asked = f"{page}/api/2.0/mlflow/experiments/search?max_results=1"
    return Service("mlflow", job, ("mlflow",), page, partial(health.http, asked))


def _database(driver: str, state: State, name: str) -> str:
    return f"{driver}://{postgres.USER}@{LOOPBACK}:{state.ports.postgres}/{name}"


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_OF_CLIENTS)} | dict(own)


def _weed() -> str:
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise UserError(f"SeaweedFS, the S3 server, is not installed: {EXTRA}")
    return found
