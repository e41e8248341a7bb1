"""The whole run: data, a first teacher, then generation after generation.

In: a recipe, which is all that a run's form in Prefect asks for; where things lie is told by `flows.place`.
Out: a `RunResult`, and what the tasks left in the store, in MLflow and in Prefect.
"""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows import place
from flows.attended import attended
from flows.form import name_of, parsed
from flows.generation import generation
from flows.opening import Opening
from flows.recipes.digits import digits
from flows.results import GenerationResult, RunResult, Standing
from flows.selection import choose_by_selector
from ns_core.config import Recipe
from ns_core.evaluation.results import FIGURES
from tasks.observe import current
from tasks.report import write_report
from tasks.run import Run
from tasks.tracking import ended, finish, log_generation, open_child, open_parent, register_teacher

DIGITS = digits()


def _name() -> str:
    """The run's own name; for a run of a worker one that a retry gives again."""
    run = place.given()
    if run is not None:
        return run.run_id
    recipe = name_of(flow_run.parameters["recipe"])
    return place.run_id(recipe, flow_run.scheduled_start_time, str(flow_run.id)[-4:])


@flow(name="noisy-student", flow_run_name=_name, validate_parameters=False)
def noisy_student(recipe: Recipe = DIGITS) -> RunResult | State[RunResult]:
    """Noisy Student training (Xie et al., CVPR 2020), from a dataset to a report.

    A mistake that only shows in a worker ends its run with the line as the state's message, which is what a
    person sees in Prefect's page; started from here, it is raised as `UserError`.

    Args:
        recipe: the whole experiment; what differs from an earlier run is computed, the rest comes from the store
    """

    def body() -> RunResult:
        read = parsed(recipe, Recipe)
        return _tracked(place.given() or place.in_worker(read, flow_run.name), read)

    return attended(body)


def _tracked(run: Run, recipe: Recipe) -> RunResult:
    run = open_parent(run, recipe)
    try:
        result = _generations(run, recipe)
    except BaseException as error:
        finish(run, ended(error))
        raise
    finish(run, ended(None))
    return result


def _generations(run: Run, recipe: Recipe) -> RunResult:
    mlflow_run = open_child(run, recipe, 0)
    opening = Opening.of(run, recipe, mlflow_run)
    dataset = opening.dataset()
    first = opening.first_teacher(dataset)
    opening = opening.with_official()
    first_report = opening.report(dataset, first)
    log_generation(run, 0, {name: first_report.result.get(name) for name in FIGURES})
    register_teacher(run, mlflow_run, recipe, first)

    standing = Standing(teacher=first, report=first_report, official=opening.official)
    results = list[GenerationResult]()
    if recipe.selector and recipe.generations:
        chosen = choose_by_selector(opening.call, run, recipe, dataset, first)
        standing = standing.model_copy(update={"chosen": chosen})
    for index in range(1, recipe.generations + 1):
        result = generation(run, recipe, index, dataset, standing)
        results.append(result)
        standing = _after(result, standing, recipe)
        if _ends(result.gate["verdict"], recipe):
            break
    log_generation(run, 0, {name: standing.report.result.get(name) for name in FIGURES}, "final")
    summary = RunResult(
        run_id=run.run_id,
        recipe=recipe.name,
        seed=recipe.seed,
        stages=current().ledger,
        first_teacher=first,
        teacher_report=first_report,
        generations=results,
        ending=_ending(results, recipe),
        report="",
    )
    return summary.model_copy(update=write_report(run, summary.document()).model_dump())


def _ends(verdict: str, recipe: Recipe) -> bool:
    return verdict == "stop" or (recipe.until == "gate" and verdict != "promote")


def _ending(results: list[GenerationResult], recipe: Recipe) -> str:
    """Why there was no further generation. A teacher that is kept is a success: nothing better was found."""
    if not results:
        return "none was asked for"
    verdict = results[-1].gate["verdict"]
    if _ends(verdict, recipe):
        what = "found the student worse" if verdict == "stop" else "promoted no student"
        return f"the gate {what} in generation {len(results)}: the teacher stays"
    most = " at most" if recipe.until == "gate" else ""
    return f"{len(results)}{most} {'was' if len(results) == 1 else 'were'} asked for"


def _after(result: GenerationResult, before: Standing, recipe: Recipe) -> Standing:
    """What the next generation starts from."""
    promoted = result.gate["verdict"] == "promote"
    return Standing(
        teacher=result.student if promoted else before.teacher,
        report=result.student_report if promoted else before.report,
        chosen=result.chosen if recipe.selection == "once" else None,
        official=before.official,
    )
