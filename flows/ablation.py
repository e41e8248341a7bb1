"""An ablation: the arms of a study, each a campaign of its own over several seeds, and one comparison of them.

In: a study, a recipe, how many seeds. Out: an `Ablation`, which is also what `ablations/{id}/` of the store keeps. The
arms of a seed go one after the other, so that what they share (data, teacher, often labels and selection) is computed
by the first and found by the others; so a run that was killed goes on where it was. An arm that fails is listed with
its reason, and the others go on.
"""

import hashlib
from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from flows import place
from flows.attended import attended
from flows.form import name_of, parsed
from flows.noisy_student import noisy_student
from flows.recipes.digits import digits
from flows.results import RunResult
from flows.studies import Study, StudyName, study_named
from ns_core.config import Recipe
from ns_core.errors import StageFailed, UserError
from ns_core.evaluation.reports.ablation import Ablation, ArmRun
from tasks.ablation_report import report_ablation
from tasks.observe import Watch, current, watching
from tasks.run import Run

DIGITS = digits()
MOST_SEEDS = 30


def _name() -> str:
    """The run's own name; for a run of a worker one that a retry gives again."""
    run = place.given()
    if run is not None:
        return run.run_id
    words = f"{name_of(flow_run.parameters['recipe'])}-ablation-{flow_run.parameters['study']}"
    return place.run_id(words, flow_run.scheduled_start_time, str(flow_run.id)[-4:])


@flow(name="ablation", flow_run_name=_name, validate_parameters=False)
def ablation(
    study: Annotated[StudyName, Field(title="Study", json_schema_extra={"position": 0})] = "noise",
    seeds: Annotated[int, Field(title="Seeds", ge=1, le=MOST_SEEDS)] = 3,
    recipe: Recipe = DIGITS,
) -> Ablation | State[Ablation]:
    """The arms of a study against its baseline, over several seeds.

    Args:
        study: the question, as in the paper's ablation tables
        seeds: how often each arm is run, on the recipe's seed and those after it; 1 to 30. One proves nothing, and five
            tell differences of a standard deviation or two
        recipe: the experiment that the arms change in a setting or two
    """

    def body() -> Ablation:
        base, chosen = parsed(recipe, Recipe), study_named(study)
        count = _count(seeds)
        run = place.given() or place.in_worker(base, flow_run.name)
        return _compared(run, chosen, base, count)

    made = attended(body)
    if place.given() or isinstance(made, State):
        return made
    return Completed(message=made.words, data=made)


def _count(seeds: object) -> int:
    if not isinstance(seeds, int) or not 1 <= seeds <= MOST_SEEDS:
        raise UserError(f"seeds: a whole number from 1 to {MOST_SEEDS}, got {seeds!r}")
    return seeds


def _compared(run: Run, study: Study, base: Recipe, seeds: int) -> Ablation:
    arms = {arm.name: arm.recipe(base, study.name) for arm in study.arms}  # a recipe that cannot be is told now
    runs = []
    for seed in range(base.seed, base.seed + seeds):
        for arm in study.arms:
            seeded = arms[arm.name].override([f"seed={seed}"])
            runs.append(_campaign(run, arm.name, seeded))
    told = {arm.name: (arm.words, arm.paper) for arm in study.arms}
    return report_ablation(run, (study.name, study.question), base.name, told, runs)


def _campaign(run: Run, arm: str, recipe: Recipe) -> ArmRun:
    """One arm on one seed. What goes wrong in it is in what it returns; a cancelled run goes no further."""
    listener, name = current().listener, f"{recipe.name}, seed {recipe.seed}"
    if listener:
        listener.logged(name)
    own = run.model_copy(update={"run_id": _run_id(run, recipe)})
    try:
        with watching(Watch(listener=listener)), place.giving(own):
            made = noisy_student(recipe)
    except (UserError, StageFailed) as error:
        reason = " ".join(str(error).split())
        get_run_logger().error("%s failed: %s", name, reason)
        if listener:
            listener.logged(f"{name} failed: {reason}")
        return ArmRun(arm=arm, seed=recipe.seed, run_id=own.run_id, failure=reason)
    assert isinstance(made, RunResult), "a campaign of this process raises what goes wrong"
    return ArmRun(arm=arm, seed=recipe.seed, run_id=own.run_id, document=made.document())


def _run_id(run: Run, recipe: Recipe) -> str:
    """The arm's own: of this ablation, arm and seed, so that a retry writes the same report again."""
    mark = hashlib.sha256(f"{run.run_id} {recipe.name} {recipe.seed}".encode()).hexdigest()[:4]
    return f"{run.run_id}-{recipe.name.rsplit('-', 1)[-1]}-s{recipe.seed}-{mark}"
