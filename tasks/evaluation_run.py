"""The MLflow run of an evaluation that belongs to no recipe: a parent, and a child for each checkpoint.

Two levels as everywhere, so that its figures compare with those of pipeline runs (`tasks.tracking`).
"""

from collections.abc import Mapping

from ns_core.config import EvaluateConfig, Recipe
from ns_core.fingerprint import digest
from tasks.mlflow_links import prefect_tags, show_run_in_prefect
from tasks.run import Run
from tasks.tracker import tracker
from tasks.tracking import ALL, open_child, recipe_tags, run_name


def open_evaluation(run: Run, name: str, config: EvaluateConfig, identity: Mapping[str, str]) -> Run:
    """The run with its MLflow parent; the same checkpoint, images and settings find the same one again.

    `identity`: fingerprints of what is evaluated, and on what.
    """
    science, recipe = config.science(), _recipe(name, config)
    tags = recipe_tags(recipe) | {"ns.generation": ALL, "ns.run": run.run_id, **prefect_tags()}
    params = {f"evaluate.{field}": value for field, value in science.items()}
    key = digest({"evaluate": science, **identity})
    parent = tracker(run).parent(run_name(recipe), key, {**params, **identity}, tags)
    show_run_in_prefect(run, parent, "mlflow-run", run_name(recipe))
    return run.model_copy(update={"mlflow_run": parent})


def open_checkpoint(run: Run, name: str, config: EvaluateConfig, generation: int) -> str:
    """The child of one checkpoint; 0 is the baseline where there is one. `tasks.tracking.finish` ends it too."""
    return open_child(run, _recipe(name, config), generation)


def _recipe(name: str, config: EvaluateConfig) -> Recipe:
    return Recipe(name=name, evaluate=config, seed=config.seed)
