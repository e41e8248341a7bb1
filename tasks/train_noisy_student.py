"""train-noisy-student: labelled and pseudo-labelled images -> a larger, noised student."""

from ns_core.artifacts import Student
from tasks.policy import stage_task
from tasks.run import StageCall
from tasks.work import work


@stage_task
def train_noisy_student(call: StageCall) -> Student:
    """Inputs: `dataset`, `selection`; `labels` where a teacher labelled the selected images anew; `teacher` where the
    student starts from its weights."""
    return Student.of(work(call))
