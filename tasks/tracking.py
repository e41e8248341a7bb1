"""What MLflow is told: a parent run for each pipeline run, a child for each generation.

Parents carry `gen/*` (step = generation) and `final/*`; children carry `train/*`, `finetune/*`, `val/*`,
`pl/*`, `timing/*`. The names differ by level, so that MLflow's grouping never mixes them. Stages that came
from the cache are told as well, from the curves that the artifact keeps: identical points count once.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from ns_core.artifacts import Artifact, Dataset, Finetuned, PseudoLabels, Report, Selection, Teacher, load
from ns_core.config import Recipe
from ns_core.errors import NotFound
from ns_core.evaluation.results import FIGURES
from ns_core.fingerprint import digest
from ns_core.storage import open_storage
from ns_core.tracking import Point, Tracker
from tasks.observe import StageOutcome
from tasks.run import Run, StageCall

REGISTERED = "noisy-student"
"""Name of the registered model whose versions point at checkpoints in the store."""

_children: dict[str, dict[int, str]] = {}
"""Parent run -> generation -> child run, of the runs that are open in this process."""


@cache
def _tracker(uri: str, experiment: str, spool: Path) -> Tracker:
    return Tracker(uri, experiment, spool)


def tracker(run: Run) -> Tracker:
    """This process's line to MLflow."""
    return _tracker(run.tracking_uri, run.experiment, run.spool)


def open_parent(run: Run, recipe: Recipe) -> Run:
    """The run with its MLflow parent; the same recipe and seed find the same one again."""
    params = dict(_flat("", recipe.science()))
    tags = {
        "ns.recipe": recipe.name,
        "ns.arm": recipe.name,
        "ns.seed": str(recipe.seed),
        "ns.run": run.run_id,
    }
    parent = tracker(run).parent(
        f"{recipe.name}-seed{recipe.seed}", digest(recipe.science()), params, {**tags, **prefect_tags()}
    )
    return run.model_copy(update={"mlflow_run": parent})


def open_child(run: Run, recipe: Recipe, generation: int) -> str:
    """The MLflow run of a generation (0: the first teacher)."""
    key = digest({"recipe": recipe.science(), "generation": generation})
    tags = {"ns.recipe": recipe.name, "ns.arm": recipe.name, "ns.seed": str(recipe.seed)}
    name = f"{recipe.name}-seed{recipe.seed}-g{generation}"
    tags |= {"ns.generation": str(generation), **prefect_tags()}
    child = tracker(run).child(run.mlflow_run, name, key, tags)
    _children.setdefault(run.mlflow_run, {})[generation] = child
    return child


def prefect_tags() -> dict[str, str]:
    """The way from MLflow back to Prefect."""
    tags = {
        "prefect.flow_run_id": flow_run.id or "",
        "prefect.flow_run_url": flow_run.ui_url or "",
    }
    return {name: value for name, value in tags.items() if value}


def log_metric(call: StageCall, event: Mapping[str, Any]) -> None:
    """One point of a running worker."""
    point = Point(event["key"], event["value"], event["step"], event["timestamp_ms"])
    tracker(call.run).log(call.mlflow_run, [point])


def record_stage(call: StageCall, outcome: StageOutcome, artifact: Artifact) -> None:
    """Curves, figures and inputs of a finished stage, computed or cached, into the generation's run."""
    record = load(open_storage(call.run.store), call.paths) if call.mlflow_run else None
    if record is None:
        return
    line = tracker(call.run)
    line.tags(call.mlflow_run, {f"ns.fingerprint.{call.stage}": outcome.fingerprint})
    line.log(call.mlflow_run, _curve(call, f"{record.prefix}/metrics.jsonl"))
    figures = {f"timing/{call.stage}_s": record.seconds, **_figures(artifact)}
    stamp = _stamp(outcome)
    line.log(call.mlflow_run, [Point(name, value, call.generation, stamp) for name, value in figures.items()])
    if isinstance(artifact, Dataset | Selection):
        profile = {name: value for name, value in artifact.result.items() if isinstance(value, int | float)}
        context = "labelled" if isinstance(artifact, Dataset) else "pseudo-labelled"
        source = {"uri": outcome.uri}
        line.dataset(call.mlflow_run, call.stage, artifact.fingerprint, source, profile, context)
    if isinstance(artifact, Teacher | Finetuned):
        register(call.run, call.mlflow_run, artifact, [f"candidate-gen{call.generation}"])


def register(run: Run, mlflow_run: str, checkpoint: Artifact, aliases: list[str]) -> None:
    """Makes a checkpoint a version of the registered model, once, and moves aliases to it."""
    storage = open_storage(run.store)
    record = load(storage, checkpoint.paths)
    if record is not None and mlflow_run:
        uri = f"{storage.uri}/{record.prefix}/model.safetensors"
        weights = record.files["model.safetensors"].sha256
        params = {name: str(value) for name, value in checkpoint.result.items()}
        tracker(run).register(REGISTERED, mlflow_run, uri, weights, params, aliases)


def log_generation(run: Run, generation: int, figures: Mapping[str, float | None], prefix: str = "gen") -> None:
    """Figures of a generation into the parent run, with the generation as step."""
    points = [
        Point(f"{prefix}/{name}", value, generation, generation) for name, value in figures.items() if value is not None
    ]
    tracker(run).log(run.mlflow_run, points)


def _figures(artifact: Artifact) -> dict[str, float]:
    """The scalars of a result that belong on a chart."""
    result = artifact.result
    if isinstance(artifact, Selection):
        shares = {f"pl/dropped_{reason}": float(count) for reason, count in result["dropped"].items()}
        names = ("kept", "rows", "mean_confidence", "duplication", "largest_duplication", "effective_images")
        return {**{f"pl/{name}": float(result[name]) for name in names}, **shares}
    if isinstance(artifact, PseudoLabels):
        return {"pl/images": float(result["images"])}
    if isinstance(artifact, Report):
        return {f"val/{name}": float(result[name]) for name in FIGURES if result.get(name) is not None}
    return {}


def _curve(call: StageCall, key: str) -> list[Point]:
    try:
        lines = open_storage(call.run.store).read(key).decode().splitlines()
    except NotFound:
        return []
    points = [json.loads(line) for line in lines]
    return [Point(point["key"], point["value"], point["step"], point["timestamp_ms"]) for point in points]


def _stamp(outcome: StageOutcome) -> int:
    """A time that is the same whenever the same artifact is told again, so that MLflow keeps one point."""
    return int(outcome.fingerprint[:8], 16)


def _flat(prefix: str, document: Mapping[str, Any]) -> Iterable[tuple[str, object]]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def finish(run: Run, status: str) -> None:
    """Ends the parent and its children's runs as FINISHED or FAILED."""
    line = tracker(run)
    for child in _children.pop(run.mlflow_run, {}).values():
        line.finish(child, status)
    line.finish(run.mlflow_run, status)
