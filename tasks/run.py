"""What every task needs to know of the run it belongs to, and one call of one stage."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ns_core.artifacts import Artifact, Frozen, Paths
from ns_core.config import ComputeConfig
from ns_core.fingerprint import stage_fingerprint
from ns_core.launch.spec import InputReference, WorkerSpec
from ns_core.settings import StageConfig


class Run(Frozen):
    """A run of a recipe. Nothing here is part of an artifact's identity."""

    run_id: str
    store: str
    """Root of the artifacts: a folder or s3://bucket/prefix."""
    home: str
    """Folder of Prefect's and MLflow's local state."""
    tracking_uri: str
    experiment: str
    compute: ComputeConfig
    places: dict[str, str] = {}
    """Field of `data` -> folder or s3:// URI below which a person's own shards lie."""
    mlflow_run: str = ""
    """The parent run; a handle of our own where MLflow was away when it began."""

    @property
    def spool(self) -> Path:
        """What MLflow could not be told yet."""
        return Path(self.home) / "mlflow-spool"


@dataclass(frozen=True)
class StageCall:
    """One stage with its settings and inputs: everything but the decision whether to compute."""

    run: Run
    generation: int
    config: StageConfig
    inputs: dict[str, Artifact]
    extra_inputs: dict[str, str] = field(default_factory=dict)
    """Fingerprints of inputs that are no artifacts, such as a folder of images."""
    mlflow_run: str = ""
    """The generation's run, likewise; empty: not tracked."""

    @property
    def stage(self) -> str:
        return self.config.STAGE

    @cached_property
    def paths(self) -> Paths:
        inputs = {name: artifact.fingerprint for name, artifact in self.inputs.items()}
        return Paths(self.stage, stage_fingerprint(self.config, {**inputs, **self.extra_inputs}))

    def worker_spec(self) -> WorkerSpec:
        """What the worker is told."""
        return WorkerSpec(
            stage=self.stage,
            fingerprint=self.paths.fingerprint,
            config=self.config.model_dump(mode="json"),
            inputs={
                name: InputReference(stage=artifact.paths.stage, fingerprint=artifact.fingerprint)
                for name, artifact in self.inputs.items()
            },
            extra_inputs=self.extra_inputs,
            store=self.run.store,
            compute=self.run.compute.for_stage(self.stage),
            places=self.run.places,
        )
