"""Where the servers of a home keep what: every file name, the ports, and the record of what runs.

In and out: `state.json`, which is rewritten whole, so that a reader and a killed writer see the old or the new one.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from flows.servers.processes import Record
from ns_core.errors import UserError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Ports:
    """TCP ports; the option of a field `s3_filer` is `--s3-filer-port`."""

    postgres: int = 5433
    """Beside Debian's own cluster, which its package starts on 5432."""
    s3: int = 8333
    s3_master: int = 9333
    s3_filer: int = 8888
    s3_volume: int = 9340
    s3_admin: int = 23646
    prefect: int = 4200
    mlflow: int = 5000

    @staticmethod
    def names() -> list[str]:
        """The fields, in their order."""
        return [one.name for one in fields(Ports)]


def option(name: str) -> str:
    """The option that sets the port `name`."""
    return f"--{name.replace('_', '-')}-port"


@dataclass(frozen=True)
class Place:
    """The folder of one home's servers."""

    root: Path
    """`{home}/servers`, absolute."""

    @staticmethod
    def of(home: Path) -> "Place":
        return Place(home.absolute() / "servers")

    @property
    def home(self) -> Path:
        return self.root.parent

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def passwords(self) -> Path:
        """Generated once; mode 0600."""
        return self.root / "passwords.json"

    @property
    def env(self) -> Path:
        """What a shell sources; mode 0600."""
        return self.root / "env"

    def log(self, server: str) -> Path:
        """Of the last start; the one before is kept beside it."""
        return self.root / "logs" / f"{server}.log"

    def data(self, server: str) -> Path:
        return self.root / server

    def make(self) -> None:
        """The folder: others may pass through it (PostgreSQL's account has to), and read nothing in it."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o711)
        (self.root / "logs").mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """One `up` or `down` at a time; the kernel lets go when its process dies. `UserError` when taken."""
        self.make()
        with (self.root / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"another `up` or `down` is at work on {self.home}: wait until it has ended") from error
            yield


@dataclass
class State:
    """What is known of a home's servers between two commands."""

    cluster: str
    """Folder of PostgreSQL's data; elsewhere when its account cannot enter the home."""
    host: str = LOOPBACK
    """Where Prefect and MLflow listen; the others never leave loopback."""
    ports: Ports = Ports()
    processes: dict[str, Record] = field(default_factory=dict)
    """Server -> the process that was started last."""

    @staticmethod
    def load(place: Place) -> "State | None":
        """None where no `up` has been."""
        try:
            document = json.loads(place.state.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise UserError(f"{place.state} belongs to another user: be that user, or choose another --home") from error
        processes = {name: Record(**record) for name, record in document["processes"].items()}
        return State(document["cluster"], document["host"], Ports(**document["ports"]), processes)

    def save(self, place: Place) -> None:
        write_private(place.state, json.dumps(asdict(self), indent=1) + "\n")


def write_private(path: Path, text: str) -> None:
    """The file, whole or not at all, and for its owner alone from its first byte on."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
