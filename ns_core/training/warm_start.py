"""A student that starts from its teacher's weights instead of fresh ones (`student.start`).

The paper found fresh weights sometimes better, and a warm start to want many epochs nonetheless (appendix); it
saves updates when a teacher has labelled new images and its student is of the same model. As the official
code's `init_model` does, it takes the averaged weights and BatchNorm statistics.

In: a fresh student and the folder of the teacher's checkpoint. Out: the student with the teacher's weights; its
noise, its optimiser and its schedule are its own.
"""

from pathlib import Path

from torch import nn

from ns_core.errors import UserError
from ns_core.models.checkpoint import ModelCard, load_checkpoint


def start_from(network: nn.Module, card: ModelCard, folder: Path) -> None:
    """Loads the checkpoint in `folder` into `network`, whose card is `card`.

    Raises `UserError` for a teacher of another model or of other classes, `StageFailed` for a damaged checkpoint.
    """
    teacher, its = load_checkpoint(folder)
    if its.model != card.model:
        raise UserError(
            f"student.start=teacher: the teacher is '{its.model}' and the student '{card.model}'; "
            "give both the same model, or set student.start=scratch"
        )
    if its.class_names != card.class_names:
        raise UserError(
            f"student.start=teacher: the teacher's {len(its.class_names)} classes are not the student's "
            f"{len(card.class_names)}; set student.start=scratch"
        )
    if its.bn_eps != card.bn_eps:
        raise UserError(
            f"student.start=teacher: the teacher's bn_eps is {its.bn_eps:g} and the student's {card.bn_eps:g}, with "
            "which its weights mean something else; give both the same"
        )
    network.load_state_dict(teacher.state_dict())
