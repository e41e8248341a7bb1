"""import-checkpoint: a network from elsewhere as a checkpoint of this store."""

from ns_core.artifacts import Imported
from tasks.policy import stage_task
from tasks.run import StageCall
from tasks.work import work


@stage_task
def import_checkpoint(call: StageCall) -> Imported:
    """Inputs: none, or the digests of the files that are imported."""
    return Imported.of(work(call))
