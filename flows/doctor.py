"""`noisy-student doctor`: whether this machine can run the pipeline, one line for each thing that must work.

In: the home folder, the store and the MLflow address that a run would use. Out: `Check`s; what does not work
is a line with its remedy, never a traceback. It writes as a run would, scratch files only, and takes them
away again.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import wraps
from importlib import metadata
from pathlib import Path
from typing import ParamSpec

from flows import environment
from flows.ui import running_api
from ns_core.errors import UserError
from ns_core.provenance import collect
from ns_core.storage import open_storage, probe

MIN_FREE_BYTES = 1 << 30
"""For Prefect's and MLflow's databases, logs and scratch files; the store may lie elsewhere."""
FASTAPI_LIMIT = (0, 151)
"""From here on Prefect's server does not start: `Body()` lost `min_items`."""
ANSWER_SECONDS = 5.0
TORCH_SECONDS = 120.0
DEVICES = (
    "import json, torch; count = torch.cuda.device_count() if torch.cuda.is_available() else 0; "
    "print(json.dumps([torch.cuda.get_device_name(number) for number in range(count)]))"
)


@dataclass(frozen=True)
class Check:
    """One thing that must work."""

    name: str
    ok: bool
    detail: str
    """One line: what was found, or what is wrong and what to do."""


Arguments = ParamSpec("Arguments")


def diagnose(home: Path, store: str, tracking_uri: str) -> list[Check]:
    """Looks at everything, in the order in which a run needs it. Raises nothing."""
    return [
        check_python(),
        check_disk(home),
        check_store(store),
        check_tracking(tracking_uri),
        check_device(),
        check_prefect(home),
        check_ui(home),
    ]


def show(checks: list[Check]) -> int:
    """Prints a line for each check on standard output; the exit status: 0 when all are well, else 1."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        sys.stdout.write(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:{width}}  {check.detail}\n")
    return 0 if all(check.ok for check in checks) else 1


def _named(name: str) -> Callable[[Callable[Arguments, str]], Callable[Arguments, Check]]:
    """Makes a function that returns its finding, or raises, one that returns a `Check` of this name."""

    def make(look: Callable[Arguments, str]) -> Callable[Arguments, Check]:
        @wraps(look)
        def check(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Check:
            try:
                return Check(name, True, look(*args, **kwargs))
            except UserError as error:
                return Check(name, False, str(error))
            except Exception as error:  # whatever is broken, the other lines still help
                first = str(error).partition("\n")[0]
                return Check(name, False, f"{type(error).__name__}: {first}")

        return check

    return make


@_named("python")
def check_python() -> str:
    """Everything that a run imports is installed; which versions."""
    found = collect()
    packages = found["packages"]
    assert isinstance(packages, dict)
    if missing := [name for name, version in packages.items() if version is None]:
        raise UserError(f"not installed: {', '.join(missing)}; run `pip install noisy-student` again")
    return f"{found['python']}; " + ", ".join(f"{name} {version}" for name, version in packages.items())


@_named("disk")
def check_disk(home: Path) -> str:
    """Writable, with room; a run makes the folder, and so does this."""
    try:
        environment.prepare(home)
        with tempfile.TemporaryFile(dir=home) as scratch:
            scratch.write(b"scratch")
            scratch.flush()
            os.fsync(scratch.fileno())
    except OSError as error:
        raise UserError(f"{home} cannot be written ({error.strerror}); mend that or set NS_HOME") from error
    free = shutil.disk_usage(home).free
    if free < MIN_FREE_BYTES:
        raise UserError(f"{home}: {_gigabytes(free)} free, 1 GB is wanted; make room or set NS_HOME")
    return f"{home}: writable, {_gigabytes(free)} free"


@_named("store")
def check_store(store: str) -> str:
    """Reachable, writable, and it keeps what storage promises."""
    storage = open_storage(store)
    probe(storage)
    return f"{storage.uri}: writable, and of two writers of one key one wins"


@_named("tracking")
def check_tracking(uri: str) -> str:
    """As a `Tracker` takes it; looks without MLflow, whose import costs 2 s and whose retries minutes."""
    if uri.startswith(("http://", "https://")):
        return _tracking_server(uri.rstrip("/"))
    if not uri.startswith("sqlite:////"):
        raise UserError(
            f"NS_TRACKING_URI {uri!r} is neither sqlite:////absolute/path/mlflow.db nor http(s)://host:port"
        )
    return _tracking_file(Path(uri.removeprefix("sqlite:///")))


def _tracking_server(uri: str) -> str:
    from urllib.request import urlopen

    try:
        with urlopen(f"{uri}/health", timeout=ANSWER_SECONDS):
            return f"{uri}: answers"
    except OSError as error:
        raise UserError(
            f"{uri} does not answer ({getattr(error, 'reason', error)}); start the server or correct "
            "NS_TRACKING_URI. Runs go on without it and keep everything until it is back"
        ) from error


def _tracking_file(database: Path) -> str:
    """The database takes a write lock; where there is none yet, a scratch one beside it does."""
    if not database.parent.is_dir():
        raise UserError(f"{database.parent} is no folder; make it or correct NS_TRACKING_URI")
    if database.exists():
        _lock(database)
        return f"{database}: writable"
    with tempfile.TemporaryDirectory(dir=database.parent, prefix=".doctor-") as folder:
        _lock(Path(folder) / "scratch.db")
    return f"{database}: made by the first run"


def _lock(database: Path) -> None:
    with closing(sqlite3.connect(database, timeout=ANSWER_SECONDS, isolation_level=None)) as opened:
        try:
            opened.execute("begin immediate")
            opened.execute("rollback")
        except sqlite3.Error as error:
            raise UserError(f"{database}: {error}; mend it, move it away or set NS_TRACKING_URI") from error


@_named("device")
def check_device() -> str:
    """What a worker gets by `device: auto`, asked of a process of its own, as workers are: torch and the
    GPU's driver load in 4 s there, and when they crash, this process does not.
    """
    import psutil

    asked = subprocess.run(
        [sys.executable, "-c", DEVICES], capture_output=True, text=True, timeout=TORCH_SECONDS, check=False
    )
    if asked.returncode:
        last = (asked.stderr.strip() or f"exit status {asked.returncode}").splitlines()[-1]
        raise UserError(f"torch does not load ({last}); install it again")
    names = ", ".join(json.loads(asked.stdout)) or "no GPU, the CPU is used"
    memory = psutil.virtual_memory().total
    return f"{names}; {len(os.sched_getaffinity(0))} cores, {_gigabytes(memory)} of memory"


@_named("prefect")
def check_prefect(home: Path) -> str:
    """Importable, beside a FastAPI that its server starts with."""
    environment.prepare(home)
    fastapi = metadata.version("fastapi")
    if tuple(int(part) for part in fastapi.split(".")[:2]) >= FASTAPI_LIMIT:
        raise UserError(
            f"Prefect's server does not start with fastapi {fastapi}: `pip install 'fastapi>=0.139,<0.151'`"
        )
    import prefect

    return f"{prefect.__version__}, with fastapi {fastapi}"


@_named("ui")
def check_ui(home: Path) -> str:
    """Whether the pages are up; either is well."""
    api = running_api(home)
    return f"running, {api.removesuffix('/api')}" if api else "not running; `noisy-student ui` starts it"


def _gigabytes(size: int) -> str:
    return f"{size / (1 << 30):.1f} GB"
