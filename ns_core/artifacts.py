"""Artifacts: what a stage made, the record that says so, and `materialize`.

On disk or in a bucket, below the store's root:

    {stage}/{fingerprint[:12]}/.artifact.json          the record: its existence is the truth
    {stage}/{fingerprint[:12]}/attempt-{id}/...        the files, below the attempt that wrote them
    {stage}/{fingerprint[:12]}/resume/...              unfinished work of attempts that were cut off
    {stage}/{fingerprint[:12]}/prefect-result.json     Prefect's cache record (advisory)

The record is created last and only if absent, and names the attempt that won, so a reader sees all of one
attempt or nothing: never half of one, never a mix of two. The dot keeps the record out of file listings.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, JsonValue

from ns_core.errors import NotFound, StageFailed, UserError
from ns_core.fingerprint import SHORT, canonical_json
from ns_core.storage import Storage

log = logging.getLogger("noisy_student.artifacts")

DIGEST_LIMIT = 1 << 30
"""Up to this many bytes a local artifact's digests are all recomputed at each look (about 1 s a GiB); above,
and on S3, which checks its own bytes, presence and sizes are."""


@dataclass(frozen=True)
class Paths:
    """Every key that belongs to one artifact."""

    stage: str
    fingerprint: str

    @property
    def folder(self) -> str:
        return f"{self.stage}/{self.fingerprint[:SHORT]}"

    @property
    def record(self) -> str:
        return f"{self.folder}/.artifact.json"

    @property
    def resume(self) -> str:
        return f"{self.folder}/resume"

    @property
    def prefect_result(self) -> str:
        return f"{self.folder}/prefect-result.json"

    def attempt(self, attempt: str) -> str:
        return f"{self.folder}/attempt-{attempt}"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Frozen):
    """A file of an artifact."""

    size: int
    sha256: str


class Record(Frozen):
    """What `.artifact.json` holds."""

    type: str
    stage: str
    version: int
    fingerprint: str
    attempt: str
    science: dict[str, JsonValue]
    """The settings that were hashed, so that two artifacts can be compared field by field."""
    inputs: dict[str, str]
    files: dict[str, FileEntry]
    result: dict[str, JsonValue]
    provenance: dict[str, JsonValue]
    seconds: float

    @property
    def paths(self) -> Paths:
        return Paths(self.stage, self.fingerprint)

    @property
    def prefix(self) -> str:
        """Folder of the files."""
        return self.paths.attempt(self.attempt)


class Artifact(Frozen):
    """A typed reference: small, serialisable, independent of where the store lies.

    Tasks pass these; the files are found through the record in the store.
    """

    stage: ClassVar[str]
    fingerprint: str
    result: dict[str, Any]

    @property
    def paths(self) -> Paths:
        return Paths(self.stage, self.fingerprint)

    @classmethod
    def of(cls, record: Record) -> Self:
        assert record.stage == cls.stage, f"a record of {record.stage} is no {cls.__name__}"
        return cls.model_validate({"type": record.type, "fingerprint": record.fingerprint, "result": record.result})


class Dataset(Artifact):
    """Shards, `index.parquet` and `classes.json`."""

    stage = "prepare-dataset"
    type: Literal["dataset"] = "dataset"


class Teacher(Artifact):
    """`model.safetensors` (EMA weights) and `model.json`."""

    stage = "train-teacher"
    type: Literal["teacher"] = "teacher"


class Student(Artifact):
    """As `Teacher`."""

    stage = "train-noisy-student"
    type: Literal["student"] = "student"


class Finetuned(Artifact):
    """As `Teacher`, at the test resolution."""

    stage = "finetune-at-test-resolution"
    type: Literal["finetuned"] = "finetuned"


class Imported(Artifact):
    """As `Teacher`, made elsewhere."""

    stage = "import-checkpoint"
    type: Literal["imported"] = "imported"


class PseudoLabels(Artifact):
    """One Parquet file for each shard of the pool."""

    stage = "infer-unlabeled"
    type: Literal["pseudo-labels"] = "pseudo-labels"


class Selection(Artifact):
    """`selection.parquet`, `dropped.parquet`, and shards of its own where they were asked for."""

    stage = "filter-and-balance"
    type: Literal["selection"] = "selection"


class Report(Artifact):
    """`report.json`, the predictions it rests on, and `examples.parquet`."""

    stage = "evaluate-robustness"
    type: Literal["report"] = "report"


Checkpoint = Teacher | Student | Finetuned | Imported

TYPES: dict[str, type[Artifact]] = {
    kind.stage: kind for kind in (Dataset, Teacher, Student, Finetuned, Imported, PseudoLabels, Selection, Report)
}


def new_attempt() -> str:
    """A name no other attempt has."""
    return uuid4().hex[:12]


def file_entry(path: Path) -> FileEntry:
    """Size and sha256 of a local file."""
    with open(path, "rb") as file:
        return FileEntry(size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def commit(
    storage: Storage, record: Record, directory: Path, stored: Mapping[str, tuple[str, FileEntry]] | None = None
) -> Record:
    """Publishes `directory` as the files of `record`, then the record, and returns the one that stands.

    `stored`: more files of the artifact, by name, that lie in the store already: (key, what they hold).
    When another attempt at the same fingerprint was quicker, its record is returned and this attempt's
    files are deleted: both are good, one counts.
    """
    files = {}
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        name = path.relative_to(directory).as_posix()
        files[name] = file_entry(path)
        storage.put_file(f"{record.prefix}/{name}", path)
    for name, (key, entry) in (stored or {}).items():
        try:
            storage.copy(key, f"{record.prefix}/{name}")
        except NotFound:
            # A rival that has committed clears what both had saved.
            if (standing := load(storage, record.paths)) is None:
                raise
            storage.delete_tree(record.prefix + "/")
            return standing
        files[name] = entry
    record = record.model_copy(update={"files": files})
    text = canonical_json(record.model_dump(mode="json"))
    storage.create(record.paths.record, text.encode("ascii"))
    # What stands is asked for, not inferred: S3 may refuse a create that its own lost reply had granted.
    standing = load(storage, record.paths)
    if standing is None:
        raise StageFailed(f"{record.paths.folder}: the record that was just written is gone")
    if standing.attempt != record.attempt:
        storage.delete_tree(record.prefix + "/")
    return standing


def load(storage: Storage, paths: Paths) -> Record | None:
    """The record of an artifact, unchecked; None when there is none. A record of another shape is none."""
    try:
        record = Record.model_validate_json(storage.read(paths.record))
    except NotFound:
        return None
    except ValueError:
        set_aside(storage, paths, "its record cannot be read")
        return None
    if record.fingerprint != paths.fingerprint:
        raise UserError(
            f"{storage.uri}/{paths.folder} holds fingerprint {record.fingerprint}, wanted {paths.fingerprint}: "
            "their first 12 digits clash; use another --store"
        )
    return record


def damage(storage: Storage, record: Record) -> str | None:
    """What is wrong with the files of a record, in words; None when nothing is."""
    total = sum(entry.size for entry in record.files.values())
    for name, entry in record.files.items():
        key = f"{record.prefix}/{name}"
        size = storage.size(key)
        if size is None:
            return f"{name} is gone"
        if size != entry.size:
            return f"{name} has {size} bytes instead of {entry.size}"
        local = storage.local_path(key)
        if local is not None and total <= DIGEST_LIMIT and file_entry(local).sha256 != entry.sha256:
            return f"{name} has another sha256 than was recorded"
    return None


def find(storage: Storage, paths: Paths) -> Record | None:
    """The record of a whole artifact. A damaged one is set aside, said so, and counts as absent."""
    record = load(storage, paths)
    if record is None:
        return None
    problem = damage(storage, record)
    if problem is None:
        return record
    set_aside(storage, paths, problem)
    return None


def set_aside(storage: Storage, paths: Paths, problem: str) -> None:
    """Renames the record of a damaged artifact, so that it counts as absent, and says so."""
    log.warning("%s is damaged (%s): set aside, to be computed again", paths.folder, problem)
    try:
        storage.move(paths.record, f"{paths.record}.damaged-{new_attempt()}")
    except NotFound:
        log.info("%s was set aside by another process", paths.folder)


def materialize(storage: Storage, paths: Paths, compute: Callable[[], None]) -> tuple[Record, bool]:
    """The artifact, made by `compute` if the store lacks it; and whether it was there already.

    `compute` has to end with `commit`. Raises `StageFailed` when it ends without.
    """
    if record := find(storage, paths):
        return record, True
    compute()
    record = find(storage, paths)
    if record is None:
        raise StageFailed(f"{paths.stage}: the worker ended without committing {paths.folder}")
    return record, False


def timed_record(record: Mapping[str, Any], started: float) -> Record:
    """A record without files yet, its duration taken from `started` (`time.monotonic()`)."""
    return Record.model_validate({**record, "files": {}, "seconds": round(time.monotonic() - started, 3)})
