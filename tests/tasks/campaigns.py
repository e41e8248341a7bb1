"""Campaigns as MLflow sees them, without training: runs of recipes, checkpoints of a few bytes."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ns_core.artifacts import TYPES, Artifact, Record
from ns_core.config import ComputeConfig, Recipe
from ns_core.storage import open_storage
from ns_core.tracking import Tracker
from tasks.run import Run
from tests.lineage_stores import Maker

GATE: dict[str, Any] = {
    "verdict": "promote",
    "reason": "Promoted the student: +5.3 points\n of accuracy.",
    "holdout_gain": 0.053,
    "interval": [0.02, 0.09],
    "p_value": 0.004,
    "worst_class_change": 0.1,
    "ece_change": -0.01,
}


@cache
def _template() -> TemporaryDirectory[str]:
    """Holds a migrated database: 3 s of CPU once, and not in every test."""
    folder = TemporaryDirectory(prefix="ns-template-")
    Tracker(f"sqlite:///{folder.name}/mlflow.db", "test", Path(folder.name) / "spool").close()
    return folder


def run_of(folder: Path, uri: str = "", run_id: str = "digits-20261122-221500-3fa9") -> Run:
    """A run whose store and state lie in `folder`; MLflow is a file there unless `uri` is given."""
    database = folder / "mlflow.db"
    if not (uri or database.exists()):
        shutil.copy(Path(_template().name) / "mlflow.db", database)
    return Run(
        run_id=run_id,
        store=str(folder / "store"),
        home=str(folder / "home"),
        tracking_uri=uri or f"sqlite:///{database}",
        experiment="noisy-student",
        compute=ComputeConfig(),
    )


def recipe_of(name: str = "digits", seed: int = 0, generations: int = 3) -> Recipe:
    return Recipe(name=name, seed=seed, generations=generations)


def reference(record: Record) -> Artifact:
    return TYPES[record.stage].of(record)


def checkpoint(run: Run, folder: Path, stage: str, name: str) -> Artifact:
    """One in the run's store whose weights are its name."""
    maker = Maker(open_storage(run.store), folder / "files")
    return reference(maker.artifact(stage, name, {"model.safetensors": name.encode()}))


def client(run: Run) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(run.tracking_uri, run.tracking_uri)
