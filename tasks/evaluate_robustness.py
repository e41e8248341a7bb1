"""evaluate-robustness: clean, corrupted, perturbed and attacked accuracy, official sets, calibration, and the gate."""

from ns_core.artifacts import Report
from tasks.policy import stage_task
from tasks.run import StageCall
from tasks.work import work


@stage_task
def evaluate_robustness(call: StageCall) -> Report:
    """Inputs: `checkpoint`; `dataset` unless only official sets are measured; `baseline` (another report, such as the
    teacher's) for paired figures and the gate; and the digests of the official sets' folders."""
    return Report.of(work(call))
