"""evaluate-robustness: clean, corrupted and attacked accuracy, calibration, and the gate."""

from ns_core.artifacts import Report
from tasks.policy import stage_task
from tasks.run import StageCall
from tasks.work import work


@stage_task
def evaluate_robustness(call: StageCall) -> Report:
    """Inputs: `dataset`, `checkpoint`, and `baseline` (the teacher's report) for the gate."""
    return Report.of(work(call))
