"""train-teacher: labelled images -> the first teacher."""

from ns_core.artifacts import Teacher
from tasks.policy import stage_task
from tasks.run import StageCall
from tasks.work import work


@stage_task
def train_teacher(call: StageCall) -> Teacher:
    """Inputs: `dataset`."""
    return Teacher.of(work(call))
