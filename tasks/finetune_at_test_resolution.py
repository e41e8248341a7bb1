"""finetune-at-test-resolution: the student on larger, unaugmented labelled images."""

from ns_core.artifacts import Finetuned
from tasks.policy import stage_task
from tasks.run import StageCall
from tasks.work import work


@stage_task
def finetune_at_test_resolution(call: StageCall) -> Finetuned:
    """Inputs: `dataset`, `student`."""
    return Finetuned.of(work(call))
