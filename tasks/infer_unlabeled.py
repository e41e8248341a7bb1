"""infer-unlabeled: the noise-free teacher labels the pool."""

from ns_core.artifacts import PseudoLabels
from tasks.policy import stage_task
from tasks.run import StageCall
from tasks.work import work


@stage_task
def infer_unlabeled(call: StageCall) -> PseudoLabels:
    """Inputs: `dataset`, `teacher`, and `selection` where only its images are labelled."""
    return PseudoLabels.of(work(call))
