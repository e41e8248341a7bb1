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
from ns_core.resume import Adopted, ResumeFolder
from ns_core.storage.ranged import RemoteFiles

MARK = "@ns "
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


def cache_folder() -> Path:
    """Where local copies of what lies in a remote store are kept: $NS_CACHE or ~/.cache/noisy-student."""
    return Path(os.environ.get("NS_CACHE", Path.home() / ".cache" / "noisy-student"))


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
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Of each input, and of what that was made of: `pseudo_labels`, `pseudo_labels/teacher`."""
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
    salvage: Callable[[], Mapping[str, Adopted]] = dict
    """Whole files, by name, of this artifact's record that was set aside as damaged."""
    cache: Path = field(default_factory=cache_folder)
    """Folder for local copies, shared by all processes of this machine."""
    adopted: dict[str, Adopted] = field(default_factory=dict)
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
