"""An audit: what the teacher's labels of the pool would be worth, before a student is trained on them.

In: a recipe, how many folds, a precision that is wanted. Out: an `Audit`, which is also what `audits/{id}/` of the
store keeps. The dataset, the teacher, its labels and the selection are those of the recipe's own run, which finds them
made; the folds' teachers are the audit's alone. What it takes: with K folds K more teachers; with none nothing that the
run would not have taken.
"""

from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from flows import place
from flows.attended import attended
from flows.audit_command import CHOICES, FOLDS, TARGET, check
from flows.form import name_of, parsed
from flows.opening import Opening
from flows.recipes.digits import digits
from ns_core.artifacts import Dataset, PseudoLabels
from ns_core.audit.audit import Audit
from ns_core.audit.folds import FoldConfig
from ns_core.audit.page import title
from ns_core.config import Recipe
from ns_core.errors import UserError
from tasks.audit_folds import hold_out_fold, in_folds
from tasks.audit_report import Labelled, report_audit
from tasks.filter_and_balance import filter_and_balance
from tasks.infer_unlabeled import infer_unlabeled
from tasks.observe import current
from tasks.run import Run, StageCall
from tasks.train_teacher import train_teacher

DIGITS = digits()


def _name() -> str:
    """The run's own name; for a run of a worker one that a retry gives again."""
    run = place.given()
    if run is not None:
        return run.run_id
    words = f"{name_of(flow_run.parameters['recipe'])}-audit"
    return place.run_id(words, flow_run.scheduled_start_time, str(flow_run.id)[-4:])


@flow(name="audit", flow_run_name=_name, validate_parameters=False)
def audit(
    folds: Annotated[int, Field(title="Folds", json_schema_extra={"enum": list(CHOICES)})] = FOLDS,
    target: Annotated[float, Field(title="Wanted precision", gt=0, lt=1)] = TARGET,
    recipe: Recipe = DIGITS,
) -> Audit | State[Audit]:
    """What the teacher's labels of the pool are worth, estimated from labelled images that it was not trained on.

    Args:
        folds: parts of the labelled images that are each held out of a teacher of their own, 2 to 20; 0: the holdout
            tells alone, and no further teacher is trained
        target: precision that a threshold is sought for in each class, above 0 and below 1
        recipe: the experiment whose selection is audited
    """

    def body() -> Audit:
        base = parsed(recipe, Recipe)
        count, wanted = check(folds, target)
        run = place.given() or place.in_worker(base, flow_run.name)
        return _audited(run, base, count, wanted)

    made = attended(body)
    if place.given() or isinstance(made, State):
        return made
    return Completed(message=title(made), data=made)


def _audited(run: Run, recipe: Recipe, folds: int, target: float) -> Audit:
    opening, own = Opening.of(run, recipe), recipe.for_generation(1)
    dataset = opening.dataset()
    config = own.teacher.model_copy(update={"model": recipe.selector}) if recipe.selector else own.teacher
    opening = Opening(run, recipe.for_generation(0).model_copy(update={"teacher": config}), opening.source)
    teacher = opening.first_teacher(dataset)
    labels = infer_unlabeled(opening.call(own.infer, dataset=dataset, teacher=teacher))
    selection = filter_and_balance(opening.call(own.select, dataset=dataset, pseudo_labels=labels))
    by_fold = [_of_fold(opening, dataset, folds, fold) for fold in range(folds)]
    labelled = Labelled(dataset=dataset, labels=labels, selection=selection, folds=by_fold)
    return report_audit(run, recipe, labelled, target)


def _of_fold(opening: Opening, dataset: Dataset, folds: int, fold: int) -> PseudoLabels:
    """The labels of a fold by a teacher that was trained without it."""
    if listener := current().listener:
        listener.logged(f"fold {fold + 1} of {folds}")
    recipe = opening.recipe
    without = hold_out_fold(opening.run, dataset, FoldConfig(folds=folds, fold=fold, seed=recipe.seed))
    run = in_folds(opening.run, dataset)
    try:
        teacher = train_teacher(StageCall(run, 0, recipe.teacher, {"dataset": without}))
        return infer_unlabeled(StageCall(run, 0, recipe.infer, {"dataset": without, "teacher": teacher}))
    except UserError as error:
        raise UserError(f"fold {fold + 1} of {folds}: {error}; --folds 0 audits by the holdout alone") from error
