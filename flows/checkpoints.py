"""Which checkpoint a person means. Imports no torch.

In: a word or a place, as `noisy-student export --help` lists them. Out: its folder on this machine, and what is known
of it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ns_core.artifacts import Finetuned, Imported, Paths, Record, Student, Teacher, damage
from ns_core.errors import NotFound, UserError, nearest
from ns_core.evaluation.reports.report import RunPaths, champion, figures_of, find_run
from ns_core.evaluation.results import FIGURES
from ns_core.fingerprint import SHORT
from ns_core.localize import localize
from ns_core.models.export.request import Facts
from ns_core.stage import cache_folder
from ns_core.storage import Storage, open_storage

STAGES = (Teacher.stage, Student.stage, Finetuned.stage, Imported.stage)
WEIGHTS, CARD = "model.safetensors", "model.json"

_ARTIFACT = re.compile(
    rf"(?:(?P<root>.+)/)?(?P<stage>{'|'.join(STAGES)})/(?P<fingerprint>[0-9a-f]{{{SHORT},64}})"
    rf"(?:/attempt-[0-9a-f]+)?(?:/{re.escape(WEIGHTS)})?/*"
)
"""An artifact as the store, a run's document and MLflow write it; without a root it is of the store in use."""


@dataclass(frozen=True)
class Found:
    """A checkpoint on this machine."""

    folder: Path
    name: str
    """For the output's name."""
    facts: Facts
    store: Storage | None = None
    """Where it is an artifact; None: a plain folder."""
    record: Record | None = None


def find_checkpoint(text: str, storage: Storage) -> Found:
    """What `text` stands for: with a slash a place, without one a run. Raises `UserError` with what there is."""
    if "/" not in text and text not in (".", ".."):
        return _of_run(text, storage)
    match = _ARTIFACT.fullmatch(text)
    if "://" in text and match is None:
        raise UserError(f"'{text}' names no checkpoint: write it as URI/STAGE/FINGERPRINT, STAGE {choice(STAGES)}")
    folder = Path(text).expanduser()
    if match is not None:
        root, stage, fingerprint = match["root"], match["stage"], match["fingerprint"]
        holder = storage if root is None else open_storage(root)
        if "://" in text or holder.size(Paths(stage, fingerprint).record) is not None or not folder.exists():
            return _of_artifact(holder, stage, fingerprint)
    return _of_folder(folder.parent if folder.name == WEIGHTS else folder)


def _of_run(text: str, storage: Storage) -> Found:
    """`RUN`, `RUN:teacher` or `RUN:studentN`."""
    name, _, role = text.partition(":")
    try:
        run = find_run(storage, name)
    except UserError as error:
        if Path(name).is_dir():
            raise UserError(f"{error}; the folder is written ./{name}") from None
        raise
    document: dict[str, Any] = json.loads(storage.read(RunPaths(run).document))
    roles = {"teacher": 0} | {f"student{entry['index']}": entry["index"] for entry in document["generations"]}
    if role and role not in roles:
        raise UserError(f"run {run} has no '{role}'{nearest(role, roles)}: {choice(list(roles))}")
    generation = roles[role] if role else champion(document)
    # The first of its name is the teacher; a selector is trained after it.
    made = {(entry["stage"], entry["generation"]): entry["fingerprint"] for entry in reversed(document["stages"])}
    # A run of one generation may have had an earlier student for its teacher.
    stage = Finetuned.stage if generation or (Teacher.stage, 0) not in made else Teacher.stage
    record = record_of(storage, stage, made[stage, generation])
    words = f"student of generation {generation}" if generation else "first teacher"
    facts = Facts(
        source=f"run {run}, {words} ({record.paths.folder})",
        figures=_numbers(figures_of(document, generation)),
        recipe=document["recipe"],
        seed=document["seed"],
    )
    return Found(localize(storage, record, cache_folder()), f"{run}-{role or 'champion'}", facts, storage, record)


def _of_artifact(storage: Storage, stage: str, fingerprint: str) -> Found:
    record = record_of(storage, stage, fingerprint)
    folder = record.paths.folder
    facts = Facts(source=f"artifact {folder}", figures=_numbers(record.result))
    return Found(localize(storage, record, cache_folder()), folder.replace("/", "-"), facts, storage, record)


def _of_folder(folder: Path) -> Found:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: a checkpoint is a folder with {WEIGHTS} and {CARD}, or a run's name")
    if absent := [name for name in (WEIGHTS, CARD) if not (folder / name).is_file()]:
        raise UserError(f"{folder} is no checkpoint: it has no {' and no '.join(absent)}")
    name = folder.resolve().name
    return Found(folder.absolute(), name, Facts(source=f"folder {name}"))


def record_of(storage: Storage, stage: str, fingerprint: str) -> Record:
    """The record of a whole artifact, which is left as it is if it is not: looking repairs nothing."""
    paths = Paths(stage, fingerprint)
    try:
        record = Record.model_validate_json(storage.read(paths.record))
    except NotFound:
        there = sorted({key.split("/")[1] for key in storage.list(f"{stage}/") if key.endswith("/.artifact.json")})
        raise UserError(f"{storage.uri} has no {paths.folder}: {choice(there) or f'it holds no {stage}'}") from None
    except ValueError as error:
        raise UserError(f"{storage.uri}/{paths.record} cannot be read: run its recipe again to make it anew") from error
    if not record.fingerprint.startswith(fingerprint):
        raise UserError(f"{storage.uri}/{paths.folder} holds fingerprint {record.fingerprint}, not {fingerprint}")
    if problem := damage(storage, record):
        raise UserError(f"{storage.uri}/{paths.folder} is damaged ({problem}): run its recipe again to make it anew")
    return record


def _numbers(figures: Any) -> dict[str, float]:
    """The figures a model card shows, where they were measured."""
    return {name: figures[name] for name in FIGURES if figures.get(name) is not None}


def choice(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
