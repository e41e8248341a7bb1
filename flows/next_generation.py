"""The next generation alone, for a schedule: the standing teacher and whatever is new in the pool.

In: a recipe. Who teaches is asked of the model registry, what there is to learn from of the sources. Out: a `Step`, and
what a run leaves in the store, in MLflow and in Prefect. The registry's aliases move only if the gate promotes.

The generation is the one after the teacher's: its student, seeds and settings are those that a campaign's generation
of that number has. So a campaign of N generations and N calls, on the same images and each of them promoted, make the
same artifacts. `recipe.generations` is not looked at. After `keep-teacher` the number stays: the next call tries the
same generation again once there are new images, where a campaign would go on to the next one.

With `selection=once` a selector selects from today's pool, as in a campaign. Without one the selection that the teacher
or one before it learned from is labelled anew, as long as it is of today's images and settings; else the standing
teacher selects anew.
"""

from dataclasses import replace

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from flows import place
from flows.attended import attended
from flows.fairness import check_fair
from flows.form import name_of, parsed
from flows.generation import generation
from flows.opening import Opening
from flows.recipes.digits import digits
from flows.results import Chosen, GenerationResult, RunResult, Standing
from flows.selection import choose, choose_by_selector
from flows.standing_teacher import StandingTeacher, check_promoted, earlier_labeller, gate_baseline, standing_teacher
from ns_core.artifacts import Dataset
from ns_core.config import Recipe
from ns_core.evaluation.results import FIGURES
from ns_core.lineage import Lineage, read_lineage
from ns_core.storage import open_storage
from tasks.observe import StageOutcome, current
from tasks.report import write_report
from tasks.run import Run
from tasks.tracking import ended, finish, log_generation, open_child, open_parent, register_teacher

DIGITS = digits()


class Step(RunResult):
    """A run of one generation."""

    @property
    def words(self) -> str:
        """What came of it, in one line."""
        (made,) = self.generations
        if all(stage.state == "cached" for stage in self.stages):
            return f"nothing is new, all was in the store; of generation {made.index} the gate said: {_said(made)}"
        return f"generation {made.index}: {_said(made)}"


def _name() -> str:
    """The run's own name; for a run of a worker one that a retry gives again."""
    run = place.given()
    if run is not None:
        return run.run_id
    recipe = name_of(flow_run.parameters["recipe"])
    return place.run_id(f"{recipe}-next", flow_run.scheduled_start_time, str(flow_run.id)[-4:])


@flow(name="generation", flow_run_name=_name, validate_parameters=False)
def next_generation(recipe: Recipe = DIGITS) -> Step | State[Step]:
    """One more generation: the model registry's teacher labels today's pool and teaches a student that faces the gate.

    Where the registry has no teacher yet, the first one is trained. With nothing new every stage comes from the store.
    A mistake that only shows in a worker ends its run with the line as the state's message; started from here, it is
    raised as `UserError`.

    Args:
        recipe: the whole experiment, as a campaign has it; its name says which registered model teaches
    """

    def body() -> Step:
        read = parsed(recipe, Recipe)
        return _tracked(place.given() or place.in_worker(read, flow_run.name), read)

    step = attended(body)
    if place.given() or isinstance(step, State):
        return step
    return Completed(message=step.words, data=step)


def _tracked(run: Run, recipe: Recipe) -> Step:
    """Asks who teaches, opens the run in MLflow, and ends it there."""
    teacher = standing_teacher(run, recipe)
    opening = Opening.of(run, recipe)
    dataset = Dataset(fingerprint=opening.preparing().paths.fingerprint, result={})
    first = opening.teaching(dataset).paths.fingerprint
    identity = {"teacher": teacher.checkpoint.fingerprint if teacher else first, "dataset": dataset.fingerprint}
    run = open_parent(run, recipe, identity)
    try:
        index = teacher.generation + 1 if teacher else 1
        opening = replace(opening, run=run, mlflow_run=open_child(run, recipe, index - 1))
        result = _step(opening, recipe, teacher)
    except BaseException as error:
        finish(run, ended(error))
        raise
    finish(run, ended(None))
    _tell(result.words)
    return result


def _step(opening: Opening, recipe: Recipe, teacher: StandingTeacher | None) -> Step:
    run, storage = opening.run, open_storage(opening.run.store)
    dataset = opening.dataset()
    if teacher is None:
        standing = _first(opening, recipe, dataset)
    else:
        lineage = read_lineage(storage)
        check_fair(storage, lineage, recipe, dataset, teacher)
        standing = _standing(opening, recipe, dataset, teacher, lineage)
    index = teacher.generation + 1 if teacher else 1
    log_generation(run, index - 1, _figures(standing))
    result = generation(run, recipe, index, dataset, standing)
    promoted = result.gate["verdict"] == "promote"
    if promoted:
        check_promoted(run, recipe, result.student)
    last = result.student_report if promoted else standing.report
    log_generation(run, 0, {name: last.result.get(name) for name in FIGURES}, "final")
    summary = Step(
        run_id=run.run_id,
        recipe=recipe.name,
        seed=recipe.seed,
        stages=current().ledger,
        first_teacher=standing.teacher,
        teacher_report=standing.report,
        generations=[result],
        report="",
    )
    return summary.model_copy(update=write_report(run, summary.document()).model_dump())


def _first(opening: Opening, recipe: Recipe, dataset: Dataset) -> Standing:
    """The first teacher of a model that has none yet, trained and registered as a campaign's."""
    first = opening.first_teacher(dataset)
    opening = opening.with_official()
    report = opening.report(dataset, first)
    register_teacher(opening.run, opening.mlflow_run, recipe, first)
    chosen = None
    if recipe.selector:
        chosen = choose_by_selector(opening.call, opening.run, recipe, dataset, first)
    return Standing(teacher=first, report=report, official=opening.official, chosen=chosen)


def _standing(
    opening: Opening, recipe: Recipe, dataset: Dataset, teacher: StandingTeacher, lineage: Lineage
) -> Standing:
    """The registry's teacher, measured on today's images."""
    _list(opening.run, teacher)
    opening = opening.with_official()
    report = opening.report(dataset, teacher.checkpoint, **gate_baseline(opening, lineage, dataset, teacher))
    chosen = _chosen(opening, recipe, dataset, teacher, lineage) if recipe.selection == "once" else None
    return Standing(teacher=teacher.checkpoint, report=report, official=opening.official, chosen=chosen)


def _chosen(
    opening: Opening, recipe: Recipe, dataset: Dataset, teacher: StandingTeacher, lineage: Lineage
) -> Chosen | None:
    """The selection for all generations, as far as there is one for today's images."""
    if recipe.selector:
        return choose_by_selector(opening.call, opening.run, recipe, dataset)
    if before := earlier_labeller(lineage, recipe, dataset, teacher):
        index, labeller = before
        return choose(opening.call, recipe.for_generation(index), dataset, labeller)
    return None


def _list(run: Run, teacher: StandingTeacher) -> None:
    """The teacher among the stages of the run, though it was made by another one."""
    watch, paths = current(), teacher.checkpoint.paths
    outcome = StageOutcome(
        stage=paths.stage,
        generation=0,
        fingerprint=paths.fingerprint,
        state="cached",
        seconds=0.0,
        uri=f"{open_storage(run.store).uri}/{paths.folder}",
    )
    watch.ledger.append(outcome)
    if watch.listener:
        watch.listener.started(outcome.stage, 0)
        watch.listener.ended(outcome)


def _figures(standing: Standing) -> dict[str, float | None]:
    return {name: standing.report.result.get(name) for name in FIGURES}


def _said(made: GenerationResult) -> str:
    return f"{made.gate['verdict']}. {made.gate['reason']}"


def _tell(words: str) -> None:
    """One line to the log, and to whoever watches."""
    get_run_logger().info("%s", words)
    if listener := current().listener:
        listener.logged(words)
