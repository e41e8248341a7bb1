"""The finished runs of a store, as far as they say which artifacts they hold. Imports no Prefect.

In: `runs/*/run.json`. Out: `HeldRun`s, the latest last.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ns_core.artifacts import Finetuned, Paths, Teacher
from ns_core.errors import NotFound, UserError, nearest
from ns_core.evaluation.reports.report import RunPaths, champion
from ns_core.storage import Storage

CHAMPION = "champion"
"""The role of the model that stands at the end."""
_AT_ONCE = 16


@dataclass(frozen=True)
class HeldRun:
    """A run and its artifacts."""

    run_id: str
    recipe: str
    seed: int
    folders: dict[str, int]
    """Artifact, `{stage}/{fingerprint[:12]}` -> the generation it belongs to; the first that made it."""
    checkpoints: dict[str, str]
    """`champion`, `teacher`, `student1`, ... -> artifact."""

    @property
    def command(self) -> str:
        """Which runs it again, but for the `--set` it was given, which is in MLflow."""
        return f"noisy-student run {self.recipe} --seed {self.seed}"


def run_keys(storage: Storage) -> list[str]:
    """The keys of all runs' documents."""
    return [key for key in storage.list("runs/") if key == RunPaths(key.split("/")[1]).document]


def held_runs(storage: Storage) -> list[HeldRun]:
    """All finished runs. Raises `UserError` for a document that cannot be read: what it holds cannot be told."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = [run for run in pool.map(lambda key: _held(storage, key), run_keys(storage)) if run is not None]
    return sorted(found, key=lambda run: run.run_id)


def holders(runs: list[HeldRun]) -> dict[str, list[str]]:
    """Artifact -> the runs that hold it, with the generation: `digits-20261122-221500-3fa9 g1`."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for folder, generation in run.folders.items():
            found.setdefault(folder, []).append(f"{run.run_id} g{generation}")
    return found


def checkpoint_of(run: HeldRun, role: str) -> str:
    """The artifact of `teacher`, `student2`, ..., or of the champion for an empty role. Raises `UserError`."""
    role = role or CHAMPION
    if role not in run.checkpoints:
        raise UserError(
            f"run {run.run_id} has no '{role}'{nearest(role, run.checkpoints)}: {', '.join(run.checkpoints)}"
        )
    return run.checkpoints[role]


def _held(storage: Storage, key: str) -> HeldRun | None:
    try:
        document: dict[str, Any] = json.loads(storage.read(key))
        return _read(key.split("/")[1], document)
    except NotFound:  # removed meanwhile
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{storage.uri}/{key} cannot be read ({type(error).__name__}: {error}), so what it holds is not known: "
            "run its recipe again, or remove the run's folder"
        ) from error


def _read(run_id: str, document: dict[str, Any]) -> HeldRun:
    folders: dict[str, int] = {}
    made: dict[tuple[str, int], str] = {}
    for entry in document["stages"]:
        folder = Paths(entry["stage"], entry["fingerprint"]).folder
        folders.setdefault(folder, entry["generation"])
        # The first of its name is the teacher; a selector is trained after it.
        made.setdefault((entry["stage"], entry["generation"]), folder)
    generations = {0: "teacher"} | {entry["index"]: f"student{entry['index']}" for entry in document["generations"]}
    stands = champion(document)
    checkpoints = dict[str, str]()
    for one, role in generations.items():
        # A run of one generation may have had an earlier student for its teacher.
        place = (made.get((Teacher.stage, 0)) if not one else None) or made.get((Finetuned.stage, one))
        if place is not None:
            checkpoints |= {role: place} | ({CHAMPION: place} if one == stands else {})
    return HeldRun(run_id, document["recipe"], document["seed"], folders, checkpoints)
