"""The MLflow run of an evaluation that belongs to no recipe: a parent, and a child for each checkpoint.

Two levels as everywhere, so that its figures compare with those of pipeline runs (`tasks.tracking`).
"""

from collections.abc import Mapping
from typing import Any

from ns_core.config import EvaluateConfig, Recipe
from ns_core.fingerprint import digest
from tasks.run import Run
from tasks.tracking import open_child, prefect_tags, tracker


def open_evaluation(run: Run, name: str, config: EvaluateConfig, identity: Mapping[str, str]) -> Run:
    """The run with its MLflow parent; the same checkpoint, images and settings find the same one again.

    `identity`: fingerprints of what is evaluated, and on what.
    """
    science = config.science()
    tags = {"ns.recipe": name, "ns.arm": name, "ns.seed": str(config.seed), "ns.run": run.run_id}
    params: dict[str, Any] = {f"evaluate.{field}": value for field, value in science.items()}
    key = digest({"evaluate": science, **identity})
    parent = tracker(run).parent(name, key, {**params, **identity}, {**tags, **prefect_tags()})
    return run.model_copy(update={"mlflow_run": parent})


def open_checkpoint(run: Run, name: str, config: EvaluateConfig, generation: int) -> str:
    """The child of one checkpoint; 0 is the baseline where there is one. `tasks.tracking.finish` ends it too."""
    return open_child(run, Recipe(name=name, evaluate=config, seed=config.seed), generation)
