"""filter-and-balance: which pseudo-labelled images the student sees."""

from ns_core.artifacts import Selection
from tasks.policy import stage_task
from tasks.run import StageCall
from tasks.work import work


@stage_task
def filter_and_balance(call: StageCall) -> Selection:
    """Inputs: `dataset`, `pseudo_labels`."""
    return Selection.of(work(call))
