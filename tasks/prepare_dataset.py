"""prepare-dataset: a person's images -> shards, index and class names."""

from ns_core.artifacts import Dataset
from tasks.policy import stage_task
from tasks.run import StageCall
from tasks.work import work


@stage_task
def prepare_dataset(call: StageCall) -> Dataset:
    """Inputs: none, or the fingerprint of a folder's bytes."""
    return Dataset.of(work(call))
