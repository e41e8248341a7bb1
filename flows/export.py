"""Which checkpoint a person means, and its export by a child process. Imports no torch.

In: a word or a place, as `noisy-student export --help` lists them. Out: the folder of an export, checked, and the line
that says so.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ns_core.artifacts import Finetuned, Paths, Record, Student, Teacher, damage
from ns_core.errors import NotFound, StageFailed, UserError, nearest
from ns_core.evaluation.report import RunPaths, champion, figures_of, find_run
from ns_core.fingerprint import SHORT
from ns_core.launch.local import WORKER_ENVIRONMENT, die_with_parent
from ns_core.localize import localize
from ns_core.models.export import FORMATS
from ns_core.models.export.request import ExportOutcome, ExportRequest, Facts
from ns_core.stage import cache_folder
from ns_core.storage import Storage, open_storage

STAGES = (Teacher.stage, Student.stage, Finetuned.stage)
FIGURES = ("holdout_top1", "test_top1", "ece", "mean_corruption_error", "fgsm_strongest_top1")
TAIL_LINES = 5
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


def export(checkpoint: str, name: str, output: str | None, store: str) -> str:
    """Exports to `output`, or to `{checkpoint}-{name}` in the working directory; the line that says what came out.

    Raises `UserError` for what a person can mend, `StageFailed` when the export or its check fails.
    """
    if name not in FORMATS:
        raise UserError(f"no format '{name}'{nearest(name, FORMATS)}: choose one of {', '.join(FORMATS)}")
    found = find_checkpoint(checkpoint, open_storage(store))
    place = Path(output or f"{found.name}-{name}")
    outcome = _in_child(ExportRequest(checkpoint=found.folder, format=name, output=place, facts=found.facts))
    return (
        f"{name}: {place}, {outcome.size / 1e6:.1f} MB, logits equal to the checkpoint's within "
        f"{outcome.max_difference:.1e} (largest {outcome.largest_logit:.2g})"
    )


def find_checkpoint(text: str, storage: Storage) -> Found:
    """What `text` stands for: with a slash a place, without one a run. Raises `UserError` with what there is."""
    if "/" not in text and text not in (".", ".."):
        return _of_run(text, storage)
    match = _ARTIFACT.fullmatch(text)
    if "://" in text and match is None:
        raise UserError(f"'{text}' names no checkpoint: write it as URI/STAGE/FINGERPRINT, STAGE {_choice(STAGES)}")
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
        raise UserError(f"run {run} has no '{role}'{nearest(role, roles)}: {_choice(list(roles))}")
    generation = roles[role] if role else champion(document)
    stage = Finetuned.stage if generation else Teacher.stage
    # The first of its name is the teacher; a selector is trained after it.
    made = {(entry["stage"], entry["generation"]): entry["fingerprint"] for entry in reversed(document["stages"])}
    record = _record(storage, stage, made[stage, generation])
    words = f"student of generation {generation}" if generation else "first teacher"
    facts = Facts(
        source=f"run {run}, {words} ({record.paths.folder})",
        figures=_numbers(figures_of(document, generation)),
        recipe=document["recipe"],
        seed=document["seed"],
    )
    return Found(localize(storage, record, cache_folder()), f"{run}-{role or 'champion'}", facts)


def _of_artifact(storage: Storage, stage: str, fingerprint: str) -> Found:
    record = _record(storage, stage, fingerprint)
    folder = record.paths.folder
    facts = Facts(source=f"artifact {folder}", figures=_numbers(record.result))
    return Found(localize(storage, record, cache_folder()), folder.replace("/", "-"), facts)


def _of_folder(folder: Path) -> Found:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: a checkpoint is a folder with {WEIGHTS} and {CARD}, or a run's name")
    if absent := [name for name in (WEIGHTS, CARD) if not (folder / name).is_file()]:
        raise UserError(f"{folder} is no checkpoint: it has no {' and no '.join(absent)}")
    name = folder.resolve().name
    return Found(folder.absolute(), name, Facts(source=f"folder {name}"))


def _record(storage: Storage, stage: str, fingerprint: str) -> Record:
    """The record of a whole artifact, which is left as it is if it is not: an export repairs nothing."""
    paths = Paths(stage, fingerprint)
    try:
        record = Record.model_validate_json(storage.read(paths.record))
    except NotFound:
        there = sorted({key.split("/")[1] for key in storage.list(f"{stage}/") if key.endswith("/.artifact.json")})
        raise UserError(f"{storage.uri} has no {paths.folder}: {_choice(there) or f'it holds no {stage}'}") from None
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


def _choice(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _in_child(request: ExportRequest) -> ExportOutcome:
    """`python -m ns_core.models.export`, which ends with this process."""
    child = subprocess.run(
        [sys.executable, "-m", "ns_core.models.export"],
        input=request.model_dump_json(),
        capture_output=True,
        text=True,
        errors="replace",
        env={**WORKER_ENVIRONMENT, **os.environ},
        preexec_fn=die_with_parent(os.getpid()),
    )
    if child.returncode != 0:
        last = " | ".join(line for line in child.stderr.splitlines()[-TAIL_LINES:] if line.strip())
        raise StageFailed(f"the export ended with exit status {child.returncode}; last lines: {last}")
    outcome = ExportOutcome.model_validate_json(child.stdout.splitlines()[-1])
    if outcome.mistake is not None:
        raise UserError(outcome.mistake)
    if outcome.failure is not None:
        raise StageFailed(outcome.failure)
    return outcome
