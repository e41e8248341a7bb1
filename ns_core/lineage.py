"""What was made of what: all records of a store as one graph.

In: a store, of which the records are read and nothing is changed. Out: a `Lineage`, walked back to what an artifact
was made of, and forward to what was made of it. Artifacts go by their folder, `{stage}/{fingerprint[:12]}`.

An input is another artifact, or a digest of what is none: `source` (a person's images), `official.*` (sets to be
measured on), `weights` and `card` (a network from elsewhere). One that should be an artifact and has no record here is
`missing`: it was removed, or lies in another store.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import TopologicalSorter
from typing import Literal, NamedTuple

from pydantic import JsonValue

from ns_core.artifacts import (
    TYPES,
    Dataset,
    Finetuned,
    Imported,
    Paths,
    PseudoLabels,
    Record,
    Report,
    Selection,
    Student,
    Teacher,
)
from ns_core.errors import NotFound, UserError, nearest
from ns_core.fingerprint import SHORT
from ns_core.storage import Storage

CHECKPOINTS = (Teacher.stage, Student.stage, Finetuned.stage, Imported.stage)

INPUTS: Mapping[str, tuple[str, ...]] = {
    "dataset": (Dataset.stage,),
    "pseudo_labels": (PseudoLabels.stage,),
    "labels": (PseudoLabels.stage,),
    "selection": (Selection.stage,),
    "student": (Student.stage,),
    "teacher": CHECKPOINTS,
    "checkpoint": CHECKPOINTS,
    "baseline": (Report.stage,),
}
"""Name of an input that is an artifact -> the stages that may have made it."""

_FIGURES = (
    *("model", "parameters", "holdout_top1", "test_top1", "ece", "mean_corruption_error"),
    *("kept", "rows", "images", "classes", "labeled", "pool", "holdout", "test"),
)
"""Of a result document, what tells artifacts of a stage from each other."""
_AT_ONCE = 16
"""Requests under way: of a record in S3 most of the time is waiting."""
_LEAST = 4
"""Digits of a fingerprint that a person may write."""


@dataclass(frozen=True)
class Made:
    """An artifact: of its record what lineage needs, a few hundred bytes."""

    stage: str
    fingerprint: str
    attempt: str
    inputs: Mapping[str, str]
    figures: Mapping[str, JsonValue]
    files: int
    size: int
    """Bytes of the files."""
    seconds: float
    started_at: str
    """UTC, ISO 8601; empty where the record does not say."""
    commit: str
    """Git commit of the code; empty where the record does not say."""
    source: str = ""
    """Of a dataset: where its images came from, as `data.source` names it."""

    @property
    def name(self) -> str:
        return Paths(self.stage, self.fingerprint).folder


class Input(NamedTuple):
    """One input of an artifact."""

    role: str
    kind: Literal["artifact", "missing", "source"]
    name: str
    """Its folder; of a missing one whose stage cannot be told `stage|stage/0123456789ab`, of a source the digest."""


@dataclass(frozen=True)
class Lineage:
    """The artifacts of a store by folder, and the records that cannot be read: folder -> why."""

    made: Mapping[str, Made]
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def inputs(self, name: str) -> list[Input]:
        """What an artifact was made of, by role."""
        return [self._input(role, digest) for role, digest in sorted(self.made[name].inputs.items())]

    def uses(self, name: str) -> list[tuple[str, str]]:
        """(role, artifact) of what was made of this one, which may be a missing one."""
        return self._uses.get(name, [])

    @cached_property
    def missing(self) -> frozenset[str]:
        """Inputs that have no record in this store."""
        return frozenset(one.name for name in self.made for one in self.inputs(name) if one.kind == "missing")

    def ancestors(self, names: Iterable[str]) -> set[str]:
        """These and all they were made of, as far as the store has records."""
        return _walk(names, lambda name: (one.name for one in self.inputs(name) if one.kind == "artifact"))

    def descendants(self, names: Iterable[str]) -> set[str]:
        """These and all that was made of them."""
        return _walk(names, lambda name: (user for _, user in self.uses(name)))

    def latest_first(self, names: Iterable[str]) -> list[str]:
        """In such an order that what was made of another comes before it."""
        chosen = set(names)
        sorter: TopologicalSorter[str] = TopologicalSorter()
        for name in sorted(chosen):
            sorter.add(name, *(one.name for one in self.inputs(name) if one.name in chosen))
        return list(sorter.static_order())[::-1]

    def find(self, text: str) -> str:
        """The artifact that `STAGE/FINGERPRINT` stands for, the fingerprint whole or its first 4 digits or more.

        Raises `UserError` for one that is not there, or does not tell two of them apart.
        """
        stage, _, digits = text.rstrip("/").partition("/")
        if stage not in TYPES:
            raise UserError(
                f"'{stage}' is no stage{nearest(stage, TYPES)}: write STAGE/FINGERPRINT, {', '.join(TYPES)}"
            )
        if not re.fullmatch(rf"[0-9a-f]{{{_LEAST},64}}", digits):
            raise UserError(f"'{digits}' is no fingerprint: give its first {_LEAST} digits or more, or all 64")
        of_stage = {name: one.fingerprint for name, one in self.made.items() if one.stage == stage}
        found = sorted(name for name, fingerprint in of_stage.items() if fingerprint.startswith(digits))
        if len(found) == 1:
            return found[0]
        if not found and (short := Paths(stage, digits).folder) in self.missing | self.unreadable.keys():
            return short
        if found:
            raise UserError(f"{len(found)} artifacts of {stage} begin with {digits}, write more of one: {_some(found)}")
        raise UserError(f"no {stage}/{digits} in this store; it has {_some(sorted(of_stage)) or f'no {stage}'}")

    @cached_property
    def _of_fingerprint(self) -> dict[str, str]:
        return {one.fingerprint: name for name, one in self.made.items()}

    @cached_property
    def _uses(self) -> dict[str, list[tuple[str, str]]]:
        users: dict[str, list[tuple[str, str]]] = {}
        for name in sorted(self.made):
            for one in self.inputs(name):
                users.setdefault(one.name, []).append((one.role, name))
        return users

    def _input(self, role: str, digest: str) -> Input:
        if digest in self._of_fingerprint:
            return Input(role, "artifact", self._of_fingerprint[digest])
        if role in INPUTS:
            return Input(role, "missing", Paths("|".join(INPUTS[role]), digest).folder)
        return Input(role, "source", digest)


def read_lineage(storage: Storage) -> Lineage:
    """All records of a store, some of them at a time. A record that goes away meanwhile is none."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        keys = [key for found in pool.map(lambda stage: _record_keys(storage, stage), TYPES) for key in found]
        read = [one for one in pool.map(lambda key: _read(storage, key), keys) if one is not None]
    made = {one.name: one for one in read if isinstance(one, Made)}
    return Lineage(made, dict(one for one in read if not isinstance(one, Made)))


def _record_keys(storage: Storage, stage: str) -> list[str]:
    shape = re.compile(rf"{stage}/[0-9a-f]{{{SHORT}}}/\.artifact\.json")
    return [key for key in storage.list(f"{stage}/") if shape.fullmatch(key)]


def _read(storage: Storage, key: str) -> Made | tuple[str, str] | None:
    """One artifact; or its folder and why its record cannot be read, which is left as it is."""
    folder = key.rpartition("/")[0]
    try:
        record = Record.model_validate_json(storage.read(key))
    except NotFound:
        return None
    except ValueError as error:
        return folder, str(error).split("\n")[0]
    if record.paths.folder != folder:
        return folder, f"it is the record of {record.paths.folder}"
    return _made(record)


def _made(record: Record) -> Made:
    git = record.provenance.get("git")
    commit = git.get("commit") if isinstance(git, dict) else None
    return Made(
        stage=record.stage,
        fingerprint=record.fingerprint,
        attempt=record.attempt,
        inputs=record.inputs,
        figures={name: record.result[name] for name in _FIGURES if record.result.get(name) is not None},
        files=len(record.files),
        size=sum(entry.size for entry in record.files.values()),
        seconds=record.seconds,
        started_at=str(record.provenance.get("started_at") or ""),
        commit=str(commit or ""),
        source=str(record.science.get("source", "")) if record.stage == Dataset.stage else "",
    )


def _walk(names: Iterable[str], following: Callable[[str], Iterator[str]]) -> set[str]:
    seen, waiting = set[str](), list(names)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(following(name))
    return seen


def _some(names: list[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
