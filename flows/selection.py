"""Which images the students see: a teacher labels the pool and a selection is made of it, anew or once for all.

In: settings, a dataset and the network that labels. Out: a `Chosen`, which says whose labels the selection holds, and
the labels of another teacher for the same images.
"""

from collections.abc import Callable

from flows.results import Chosen
from ns_core.artifacts import Dataset, Finetuned, PseudoLabels, Teacher
from ns_core.config import Recipe
from tasks.filter_and_balance import filter_and_balance
from tasks.infer_unlabeled import infer_unlabeled
from tasks.run import Run, StageCall
from tasks.selection_report import report_selection
from tasks.train_teacher import train_teacher

Call = Callable[..., StageCall]
"""Settings and inputs of a stage -> its call, in a generation that is settled."""


def choose(call: Call, own: Recipe, dataset: Dataset, labeller: Teacher | Finetuned) -> Chosen:
    """The pool labelled by `labeller`, the selection of it, and what people are shown of that."""
    labels = infer_unlabeled(call(own.infer, dataset=dataset, teacher=labeller))
    selecting = call(own.select, dataset=dataset, pseudo_labels=labels)
    selection = filter_and_balance(selecting)
    report_selection(selecting, selection)
    return Chosen(selection=selection, labeller=labeller.fingerprint, generation=selecting.generation)


def choose_by_selector(call: Call, run: Run, recipe: Recipe, dataset: Dataset, first: Teacher | None = None) -> Chosen:
    """The selection for all generations, by a network of its own: `recipe.selector`, trained as the first teacher is.

    It draws from the seed of generation 1. The curve of its training is in its artifact and not in MLflow, where
    generation 0 has the first teacher's. `first`: the first teacher of these images, where it is at hand.
    """
    own, selector = recipe.for_generation(1), first
    if selector is None or recipe.selector != own.teacher.model:
        config = own.teacher.model_copy(update={"model": recipe.selector})
        selector = train_teacher(StageCall(run, 0, config, {"dataset": dataset}))
    return choose(call, own, dataset, selector)


def labels_for(
    call: Call, own: Recipe, dataset: Dataset, teacher: Teacher | Finetuned, chosen: Chosen
) -> dict[str, PseudoLabels]:
    """The student's input `labels`: `teacher`'s of the selected images; none where the selection holds them already."""
    if chosen.labeller == teacher.fingerprint:
        return {}
    return {"labels": infer_unlabeled(call(own.infer, dataset=dataset, teacher=teacher, selection=chosen.selection))}
