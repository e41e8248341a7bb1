"""What a worker is told, as one JSON file: which stage, on what, where the store is."""

from typing import Any

from ns_core.artifacts import Frozen
from ns_core.config import ComputeConfig

PARALLEL_STAGES = frozenset({"train-teacher", "train-noisy-student", "finetune-at-test-resolution"})
"""Stages whose work several processes share, step by step (`torchrun`)."""
SHARDED_STAGES = frozenset({"infer-unlabeled", "evaluate-robustness"})
"""Stages whose work is a list of shards or scenes, of which several processes take a part each."""


class InputReference(Frozen):
    """An artifact by name."""

    stage: str
    fingerprint: str


class WorkerSpec(Frozen):
    """One attempt at one stage."""

    stage: str
    fingerprint: str
    config: dict[str, Any]
    """The whole stage configuration, resource fields included."""
    inputs: dict[str, InputReference]
    extra_inputs: dict[str, str] = {}
    """Fingerprints of inputs that are no artifacts, such as a folder of images."""
    store: str
    places: dict[str, str] = {}
    """Root of the person's own shards by field of `DataConfig`, where the dataset's index points to them."""
    compute: ComputeConfig
    part: tuple[int, int] | None = None
    """(i, n): the worker does the i-th of n lists of the work and commits nothing; None: it does what is left, and
    commits."""

    @property
    def processes(self) -> int:
        """How many run the stage together on a machine."""
        return self.compute.processes if self.stage in PARALLEL_STAGES else 1

    @property
    def parts(self) -> int:
        """Into how many lists the work is divided, one for each worker on a machine; 1: it is not."""
        return self.compute.processes if self.stage in SHARDED_STAGES and self.part is None else 1

    def inputs_by_fingerprint(self) -> dict[str, str]:
        """As the record keeps them and as they were hashed."""
        return {**{name: item.fingerprint for name, item in self.inputs.items()}, **self.extra_inputs}
