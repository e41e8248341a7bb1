"""The whole run: data, a first teacher, then generation after generation."""

from prefect import flow

from flows.generation import generation
from flows.results import FIGURES, GenerationResult, RunResult
from ns_core.artifacts import Artifact, Finetuned, Teacher
from ns_core.config import Recipe
from ns_core.data.sources import content_digest
from ns_core.settings import StageConfig
from tasks.evaluate_robustness import evaluate_robustness
from tasks.observe import current
from tasks.prepare_dataset import prepare_dataset
from tasks.report import write_report
from tasks.run import Run, StageCall
from tasks.tracking import finish, log_generation, open_child, open_parent, register
from tasks.train_teacher import train_teacher


@flow(name="noisy-student", flow_run_name="{run.run_id}")
def noisy_student(run: Run, recipe: Recipe) -> RunResult:
    """Noisy Student training (Xie et al., CVPR 2020), from a dataset to a report.

    Args:
        run: where things lie
        recipe: the whole experiment
    """
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
    first_report = evaluate_robustness(call(own.evaluate, dataset=dataset, checkpoint=first))
    log_generation(run, 0, {name: first_report.result.get(name) for name in FIGURES})
    register(run, mlflow_run, first, ["teacher-gen1", "champion"])

    teacher: Teacher | Finetuned = first
    teacher_report, results = first_report, list[GenerationResult]()
    for index in range(1, recipe.generations + 1):
        result = generation(run, recipe, index, dataset, teacher, teacher_report)
        results.append(result)
        if result.gate["verdict"] == "promote":
            teacher, teacher_report = result.student, result.student_report
            register(run, mlflow_run, teacher, [f"teacher-gen{index + 1}", "champion"])
        if result.gate["verdict"] == "stop":
            break
    log_generation(run, 0, {name: teacher_report.result.get(name) for name in FIGURES}, "final")
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
    return summary.model_copy(update={"report": write_report(run, summary.document())})
