"""What MLflow is told: a parent run for each pipeline run, a child for each generation.

Parents carry `gen/*` (step = generation) and `final/*`; children carry `train/*`, `finetune/*`, `infer/*`, `val/*`,
`pl/*`, `timing/*`. The names differ by level, so that MLflow's grouping never mixes them. Stages that came
from the cache are told as well, from the curves that the artifact keeps: identical points count once.
"""

from asyncio import CancelledError
from collections.abc import Iterable, Mapping
from typing import Any

from prefect.exceptions import CancelledRun, TerminationSignal

from ns_core.artifacts import Artifact, Dataset, Selection, Student, Teacher, load
from ns_core.config import Recipe
from ns_core.fingerprint import digest
from ns_core.storage import Storage, open_storage
from ns_core.tracking import Point
from tasks.mlflow_links import prefect_tags, show_run_in_prefect
from tasks.model_registry import model_name, register_judged, register_teacher
from tasks.observe import StageOutcome
from tasks.run import Run, StageCall
from tasks.stage_figures import charted, curve, profile, result_points, source
from tasks.tracker import tracker

__all__ = [
    "ended",
    "finish",
    "log_generation",
    "log_metric",
    "model_name",
    "open_child",
    "open_parent",
    "prefect_tags",
    "record_stage",
    "register_judged",
    "register_teacher",
    "tracker",
]

ALL = "all"
"""The tag `ns.generation` of a parent run."""
_KEY_CHARACTERS = 4
"""Of the key in a run's name: two campaigns of one recipe and seed that differ in a setting are told apart."""

_children: dict[str, dict[int, str]] = {}
"""Parent run -> generation -> child run, of the runs that are open in this process."""


def open_parent(run: Run, recipe: Recipe, identity: Mapping[str, str] | None = None) -> Run:
    """The run with its MLflow parent; a recipe of the same name, settings and seed finds the same one again.

    `identity`: fingerprints that tell a run of the recipe from others, of one that goes on from a given teacher.
    """
    params, name = {**dict(_flat("", recipe.science())), **(identity or {})}, run_name(recipe)
    # An arm of an ablation may differ from the recipe, or from an arm of another study, by its name alone.
    key = digest({"name": recipe.name, "recipe": recipe.science(), **(identity or {})})
    if identity:
        name = f"{name}-next-{key[:_KEY_CHARACTERS]}"
    tags = recipe_tags(recipe) | {"ns.generation": ALL, "ns.run": run.run_id, **prefect_tags()}
    parent = tracker(run).parent(name, key, params, tags)
    show_run_in_prefect(run, parent, "mlflow-run", name)
    return run.model_copy(update={"mlflow_run": parent})


def open_child(run: Run, recipe: Recipe, generation: int) -> str:
    """The MLflow run of a generation (0: the first teacher). It ends those of earlier generations."""
    key = digest({"recipe": recipe.science(), "generation": generation})
    name = f"{run_name(recipe)}-g{generation}"
    tags = recipe_tags(recipe) | {"ns.generation": str(generation), "ns.run": run.run_id, **prefect_tags()}
    child = tracker(run).child(run.mlflow_run, name, key, tags)
    siblings = _children.setdefault(run.mlflow_run, {})
    for earlier in [each for each in siblings if each < generation]:
        tracker(run).finish(siblings.pop(earlier), "FINISHED")
    siblings[generation] = child
    if generation:
        show_run_in_prefect(run, child, "mlflow-generation", name)
    return child


def run_name(recipe: Recipe) -> str:
    """`digits-seed0-3fa9`: a campaign on a chart, told from those with other settings."""
    return f"{recipe.name}-seed{recipe.seed}-{digest(recipe.science())[:_KEY_CHARACTERS]}"


def recipe_tags(recipe: Recipe) -> dict[str, str]:
    """What runs are filtered and grouped by, on both levels."""
    return {"ns.recipe": recipe.name, "ns.arm": recipe.name, "ns.seed": str(recipe.seed)}


def log_metric(call: StageCall, event: Mapping[str, Any]) -> None:
    """One point of a running worker."""
    if key := charted(call.stage, event["key"]):
        point = Point(key, event["value"], event["step"], event["timestamp_ms"])
        tracker(call.run).log(call.mlflow_run, [point])


def record_stage(call: StageCall, outcome: StageOutcome, artifact: Artifact) -> None:
    """Curves, figures and datasets of a finished stage, computed or cached, into the generation's run."""
    storage = open_storage(call.run.store)
    record = load(storage, call.paths) if call.mlflow_run else None
    if record is None:
        return
    line = tracker(call.run)
    line.tags(call.mlflow_run, {f"ns.fingerprint.{call.stage}": outcome.fingerprint})
    line.log(call.mlflow_run, [*curve(storage, record), *result_points(artifact, record, call.generation)])
    if isinstance(artifact, Teacher | Student):
        for one in call.inputs.values():
            _record_input(call, storage, one)


def _record_input(call: StageCall, storage: Storage, dataset: Artifact) -> None:
    """What a network was trained on becomes a dataset of the run."""
    context = {Dataset.stage: "labelled", Selection.stage: "pseudo-labelled"}.get(dataset.stage)
    record = load(storage, dataset.paths) if context else None
    if context and record is not None:
        facts = source(storage, record), profile(storage, record)
        tracker(call.run).dataset(call.mlflow_run, dataset.stage, dataset.fingerprint, *facts, context)


def log_generation(run: Run, generation: int, figures: Mapping[str, float | None], prefix: str = "gen") -> None:
    """Figures of a generation into the parent run, with the generation as step."""
    points = [
        Point(f"{prefix}/{name}", value, generation, generation) for name, value in figures.items() if value is not None
    ]
    tracker(run).log(run.mlflow_run, points)


def ended(error: BaseException | None) -> str:
    """MLflow's status of a run that ended so: KILLED where a person or SIGTERM stopped it."""
    if error is None:
        return "FINISHED"
    stopped = (KeyboardInterrupt, TerminationSignal, CancelledRun, CancelledError)
    return "KILLED" if isinstance(error, stopped) else "FAILED"


def finish(run: Run, status: str) -> None:
    """Ends the parent and its children's runs as FINISHED, FAILED or KILLED."""
    line = tracker(run)
    for child in _children.pop(run.mlflow_run, {}).values():
        line.finish(child, status)
    line.finish(run.mlflow_run, status)


def _flat(prefix: str, document: Mapping[str, Any]) -> Iterable[tuple[str, object]]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value
