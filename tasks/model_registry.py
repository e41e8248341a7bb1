"""The registered model of a campaign: its first teacher, and each student with what the gate said of it.

In: checkpoints in the store. Out: versions of `noisy-student-<recipe>` that point at them, told apart by tags.
Aliases: `teacher` and `champion` (who teaches next), `teacher-gen<N>` (who teaches generation N), `candidate` (the
last that was judged). Only the process that orders the stages moves them: MLflow cannot compare and swap.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ns_core.artifacts import Artifact, load
from ns_core.config import Recipe
from ns_core.errors import Unreachable
from ns_core.registry import open_registry
from ns_core.storage import open_storage
from tasks.run import Run
from tasks.tracker import tracker

NAME_CHARACTERS = 100
"""Of a recipe's name in a model's; MLflow takes 256 in all."""
TAG_CHARACTERS = 4000
"""Of a version's tag; MLflow takes 5000 bytes."""
STANDING = ("teacher", "champion")
"""Aliases of the model that teaches next."""


def model_name(recipe: Recipe) -> str:
    """The registered model of a campaign; seeds and settings of one recipe share it."""
    name = re.sub(r"[^\w-]+", "-", recipe.name, flags=re.ASCII).strip("-")[:NAME_CHARACTERS]
    return f"noisy-student-{name or 'unnamed'}"


def register_teacher(run: Run, mlflow_run: str, recipe: Recipe, teacher: Artifact) -> None:
    """The first teacher as a version.

    It stands until a student is promoted: a campaign that is run again, or resumed, takes `teacher` and `champion`
    from no student of it that holds them.
    """
    tags = _tags(run, recipe, 0, teacher) | {"ns.gate.verdict": "first"}
    standing = () if mlflow_run and _succeeded(run, model_name(recipe), teacher) else STANDING
    _register(run, mlflow_run, recipe, teacher, tags, [*standing, "teacher-gen1"])


def register_judged(
    run: Run, mlflow_run: str, recipe: Recipe, generation: int, student: Artifact, gate: Mapping[str, Any]
) -> None:
    """The student of a generation as a version, after its gate (`evaluation.figures.gate`, as a document).

    Promoted, it becomes `teacher` and `champion`; with another verdict these stay where they are.
    """
    judged = {f"ns.gate.{name}": _one_line(value) for name, value in gate.items() if value is not None}
    promoted = [*STANDING, f"teacher-gen{generation + 1}"] if gate["verdict"] == "promote" else []
    tags = _tags(run, recipe, generation, student) | judged
    _register(run, mlflow_run, recipe, student, tags, ["candidate", *promoted])


def _tags(run: Run, recipe: Recipe, generation: int, checkpoint: Artifact) -> dict[str, str]:
    return {
        "ns.recipe": recipe.name,
        "ns.seed": str(recipe.seed),
        "ns.generation": str(generation),
        "ns.stage": checkpoint.stage,
        "ns.fingerprint": checkpoint.fingerprint,
        "ns.run": run.run_id,
    }


def _one_line(value: object) -> str:
    """A field of the gate's: a figure as it is, an interval as `0.02 to 0.09`, words in one line."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " to ".join(map(_one_line, value))
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())[:TAG_CHARACTERS]


def _register(
    run: Run, mlflow_run: str, recipe: Recipe, checkpoint: Artifact, tags: Mapping[str, str], aliases: Sequence[str]
) -> None:
    """Makes the checkpoint a version, once, and moves the aliases to it."""
    storage = open_storage(run.store)
    record = load(storage, checkpoint.paths) if mlflow_run else None
    if record is None:
        return
    uri = f"{storage.uri}/{record.prefix}/model.safetensors"
    weights = record.files["model.safetensors"].sha256
    params = {name: str(value) for name, value in checkpoint.result.items()}
    tracker(run).register(model_name(recipe), mlflow_run, uri, weights, params, aliases, tags=tags)


def _succeeded(run: Run, model: str, teacher: Artifact) -> bool:
    """Whether the teacher is a version already, and another one stands. False while MLflow is away."""
    try:
        with open_registry(run.tracking_uri, run.experiment) as registry:
            versions = [one for one in registry.registered() if one.model == model] if registry else []
    except Unreachable:
        return False
    known = any(one.folder == teacher.paths.folder for one in versions)
    return known and any("teacher" in one.aliases and one.folder != teacher.paths.folder for one in versions)
