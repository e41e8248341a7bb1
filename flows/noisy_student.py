"""The whole run: data, a first teacher, then generation after generation.

In: a recipe, which is all that a run's form in Prefect asks for; where things lie is told by `flows.place`.
Out: a `RunResult`, and what the tasks left in the store, in MLflow and in Prefect.
"""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows import place
from flows.attended import attended
from flows.generation import generation
from flows.official import official_inputs
from flows.recipes.digits import digits
from flows.results import GenerationResult, RunResult, Standing
from flows.selection import choose_by_selector
from ns_core.artifacts import Artifact
from ns_core.config import Recipe
from ns_core.data.sources import content_digest
from ns_core.evaluation.results import FIGURES
from ns_core.settings import StageConfig
from tasks.evaluate_robustness import evaluate_robustness
from tasks.observe import current
from tasks.prepare_dataset import prepare_dataset
from tasks.report import write_report
from tasks.robustness_report import report_robustness
from tasks.run import Run, StageCall
from tasks.tracking import finish, log_generation, open_child, open_parent, register
from tasks.train_teacher import train_teacher

DIGITS = digits()


def _name() -> str:
    """The run's own name; for a run of a worker one that a retry gives again."""
    run = place.given()
    if run is not None:
        return run.run_id
    recipe: Recipe = flow_run.parameters["recipe"]
    return place.run_id(recipe.name, flow_run.scheduled_start_time, str(flow_run.id)[-4:])


@flow(name="noisy-student", flow_run_name=_name)
def noisy_student(recipe: Recipe = DIGITS) -> RunResult | State[RunResult]:
    """Noisy Student training (Xie et al., CVPR 2020), from a dataset to a report.

    A mistake that only shows in a worker ends its run with the line as the state's message, which is what a
    person sees in Prefect's page; started from here, it is raised as `UserError`.

    Args:
        recipe: the whole experiment; what differs from an earlier run is computed, the rest comes from the store
    """
    return attended(lambda: _tracked(place.given() or place.in_worker(recipe, flow_run.name), recipe))


def _tracked(run: Run, recipe: Recipe) -> RunResult:
    run = open_parent(run, recipe)
    try:
        result = _generations(run, recipe)
    except BaseException:
        finish(run, "FAILED")
        raise
    finish(run, "FINISHED")
    return result


def _generations(run: Run, recipe: Recipe) -> RunResult:
    own = recipe.for_generation(0)
    mlflow_run = open_child(run, recipe, 0)

    def call(config: StageConfig, **inputs: Artifact) -> StageCall:
        return StageCall(run, 0, config, inputs, mlflow_run=mlflow_run)

    source = {"source": content_digest(own.data)}
    dataset = prepare_dataset(StageCall(run, 0, own.data, {}, source, mlflow_run))
    first = train_teacher(call(own.teacher, dataset=dataset))
    official = official_inputs(own.evaluate)
    evaluating = StageCall(run, 0, own.evaluate, {"dataset": dataset, "checkpoint": first}, official, mlflow_run)
    first_report = evaluate_robustness(evaluating)
    report_robustness(evaluating, first_report)
    log_generation(run, 0, {name: first_report.result.get(name) for name in FIGURES})
    register(run, mlflow_run, first, ["teacher-gen1", "champion"])

    standing, results = Standing(teacher=first, report=first_report, official=official), list[GenerationResult]()
    if recipe.selector and recipe.generations:
        chosen = choose_by_selector(call, run, recipe, dataset, first)
        standing = standing.model_copy(update={"chosen": chosen})
    for index in range(1, recipe.generations + 1):
        result = generation(run, recipe, index, dataset, standing)
        results.append(result)
        standing = _after(result, standing, recipe)
        if result.gate["verdict"] == "promote":
            register(run, mlflow_run, standing.teacher, [f"teacher-gen{index + 1}", "champion"])
        if result.gate["verdict"] == "stop":
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
        report="",
    )
    return summary.model_copy(update=write_report(run, summary.document()).model_dump())


def _after(result: GenerationResult, before: Standing, recipe: Recipe) -> Standing:
    """What the next generation starts from."""
    promoted = result.gate["verdict"] == "promote"
    return Standing(
        teacher=result.student if promoted else before.teacher,
        report=result.student_report if promoted else before.report,
        chosen=result.chosen if recipe.selection == "once" else None,
        official=before.official,
    )
