"""The dataset alone: what `noisy-student prepare` runs."""

from prefect import flow

from ns_core.artifacts import Dataset
from ns_core.config import Recipe
from ns_core.data.sources import content_digest
from tasks.prepare_dataset import prepare_dataset
from tasks.run import Run, StageCall


@flow(name="prepare", flow_run_name="{run.run_id}")
def prepare_data(run: Run, recipe: Recipe, mlflow_run: str = "") -> Dataset:
    """The first stage of a run.

    Args:
        run: where things lie
        recipe: its `data` section is used
        mlflow_run: the MLflow run that is told of it; none by default
    """
    data = recipe.for_generation(0).data
    return prepare_dataset(StageCall(run, 0, data, {}, {"source": content_digest(data)}, mlflow_run))
