"""What a stage function is given, and how it speaks to whoever started it.

A stage is `run(config, context) -> result`: it reads `context.inputs`, writes its files into
`context.output` and returns a small JSON document for the record. It knows neither the scheduler nor the
store. What it says while it works goes to standard output: plain log lines, and lines that begin with
`MARK` and carry one JSON event (progress, metrics, a person's error), which the launcher tells apart.
"""

import fnmatch
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypedDict

from pydantic import JsonValue

from ns_core.config import ComputeConfig
from ns_core.errors import NotFound
from ns_core.storage import Storage
from ns_core.storage.ranged import RemoteFiles

MARK = "@ns "
RESUME = "resume"
"""Where unfinished work lies, in the artifact's folder."""
log = logging.getLogger("noisy_student")


class Progress(TypedDict):
    """`done` of `total` steps of work, with a short text such as `loss 0.31`."""

    event: Literal["progress"]
    done: int
    total: int
    text: str


class Metric(TypedDict):
    """One point of a curve, as it goes to MLflow and to the artifact's `metrics.jsonl`."""

    event: Literal["metric"]
    key: str
    value: float
    step: int
    timestamp_ms: int


class Failure(TypedDict):
    """The worker's last words: `user` failures are not retried."""

    event: Literal["failure"]
    kind: Literal["user", "stage"]
    message: str


def rank() -> int:
    """This process's number among those that run the stage together, as torchrun sets it; 0 alone."""
    return int(os.environ.get("RANK", "0"))


def emit(event: Progress | Metric | Failure) -> None:
    """One event to standard output, flushed, so that it survives a kill a moment later.

    Of several processes that run a stage together, rank 0 tells how it goes, and each why it failed. They share
    a pipe, which keeps a line whole that is one write of at most PIPE_BUF (4,096) bytes. When whoever
    listened is gone, its SIGTERM is on the way: what was to be said is lost, the work is saved.
    """
    if rank() > 0 and event["event"] != "failure":
        return
    with suppress(BrokenPipeError):
        sys.stdout.write(MARK + json.dumps(event) + "\n")
        sys.stdout.flush()


class Stopped(Exception):
    """SIGTERM arrived and the work was saved: the process may go."""


class ResumeFolder:
    """Where unfinished work waits for the next attempt at the same fingerprint.

    Each file appears whole or not at all. All attempts at one fingerprint share the folder: stages are
    deterministic, so any attempt's saved state leads to the same artifact, and the last writer may win.
    """

    def __init__(self, storage: Storage, prefix: str, scratch: Path) -> None:
        self._storage, self._prefix, self._scratch = storage, prefix.rstrip("/"), scratch

    def save(self, name: str, write: Callable[[Path], object]) -> None:
        """Calls `write(path)` on a scratch file, then publishes it under `name`."""
        path = self._scratch / f"saving-{name}"
        write(path)
        self._storage.take_file(f"{self._prefix}/{name}", path)

    def take(self, name: str, path: Path) -> None:
        """Publishes a local file under `name`; the file is gone afterwards."""
        self._storage.take_file(f"{self._prefix}/{name}", path)

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes of a saved file, or `NotFound`."""
        return self._storage.read_range(f"{self._prefix}/{name}", offset, size)

    def load(self, name: str) -> Path | None:
        """A private copy of the saved file, or None when there is none."""
        path = self._scratch / f"loaded-{name}"
        try:
            self._storage.fetch(f"{self._prefix}/{name}", path)
        except NotFound:
            return None
        return path

    def delete(self, name: str) -> None:
        """Forgets one saved file, if there is one."""
        self._storage.delete(f"{self._prefix}/{name}")

    def names(self) -> set[str]:
        """What was saved so far."""
        return {key[len(self._prefix) + 1 :] for key in self._storage.list(self._prefix + "/")}

    def clear(self) -> None:
        """Forgets everything; called once the artifact is committed."""
        self._storage.delete_tree(self._prefix + "/")


def cache_folder() -> Path:
    """Where local copies of what lies in a remote store are kept: $NS_CACHE or ~/.cache/noisy-student."""
    return Path(os.environ.get("NS_CACHE", Path.home() / ".cache" / "noisy-student"))


@dataclass(frozen=True)
class Adopted:
    """A file that lies in the artifact's folder already and goes into the artifact as it is."""

    saved: str
    """Its name there."""
    size: int
    sha256: str
    folder: str = RESUME
    """The resume folder, or that of an attempt whose record was set aside."""


@dataclass
class StageContext:
    """Everything a stage may touch."""

    inputs: Mapping[str, Path]
    """Input name -> local folder with the files of that artifact."""
    results: Mapping[str, Mapping[str, Any]]
    """Input name -> the result document of its record."""
    output: Path
    """Empty folder that becomes the artifact."""
    resume: ResumeFolder
    compute: ComputeConfig
    fingerprint: str
    stopping: Callable[[], bool] = lambda: False
    """True once SIGTERM arrived: save, then raise `Stopped`."""
    history: list[Metric] = field(default_factory=list)
    """Points so far; training keeps them in its checkpoint, so that a resumed run has the whole curve."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Where shards lie that are in no folder of `inputs`: "" -> the dataset's own, when the store is remote;
    field of `DataConfig` -> root of the person's own. A folder or s3://bucket/prefix."""
    shards: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """Size and sha256 of the dataset's own shards, when the store is remote."""
    remote: Mapping[str, RemoteFiles] = field(default_factory=dict)
    """Input name -> its files that are in no folder of `inputs`, but read where they lie (`open`)."""
    part: tuple[int, int] | None = None
    """(i, n): this process does the i-th of n lists of the work, saves it, and leaves the rest to others."""
    salvage: "Callable[[], Mapping[str, Adopted]]" = dict
    """Whole files, by name, of this artifact's record that was set aside as damaged."""
    cache: Path = field(default_factory=cache_folder)
    """Folder for local copies, shared by all processes of this machine."""
    adopted: dict[str, "Adopted"] = field(default_factory=dict)
    """Name in the artifact -> file of the artifact's folder that becomes it, without moving its bytes again."""
    _last: float = field(default=0.0, repr=False)

    def files(self, name: str, pattern: str) -> list[str]:
        """The names of an input's files that match, sorted, wherever they lie."""
        here = {path.name for path in self.inputs[name].glob(pattern)}
        return sorted(here | set(fnmatch.filter(self.remote[name].sizes if name in self.remote else (), pattern)))

    def open(self, name: str, file: str) -> BinaryIO:
        """A file of an input, to be read and sought; one that lies in S3 is fetched by the range."""
        if name in self.remote and file in self.remote[name].sizes:
            return self.remote[name].open(file)
        return (self.inputs[name] / file).open("rb")

    def progress(self, done: int, total: int, text: str = "") -> None:
        """At most five times a second, and always at the end."""
        now = time.monotonic()
        if done >= total or now - self._last > 0.2:
            self._last = now
            emit({"event": "progress", "done": done, "total": total, "text": text})

    def metric(self, key: str, value: float, step: int) -> None:
        """Emits a point now and keeps it in `history`, which the artifact carries as `metrics.jsonl`."""
        point = Metric(event="metric", key=key, value=float(value), step=step, timestamp_ms=time.time_ns() // 1_000_000)
        self.history.append(point)
        emit(point)


StageFunction = Callable[[Any, StageContext], dict[str, JsonValue]]


def on_terminate() -> Callable[[], bool]:
    """Turns SIGTERM into a flag. Python as PID 1 of a pod ignores SIGTERM unless a handler is set."""
    asked: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    return lambda: bool(asked)
