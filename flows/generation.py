"""One generation: label, select, train, finetune, evaluate. A subflow, so that it shows as such in the UI."""

from prefect import flow

from flows.results import FIGURES, GenerationResult
from ns_core.artifacts import Artifact, Dataset, Finetuned, Report, Teacher
from ns_core.config import Recipe
from ns_core.settings import StageConfig
from tasks.evaluate_robustness import evaluate_robustness
from tasks.filter_and_balance import filter_and_balance
from tasks.finetune_at_test_resolution import finetune_at_test_resolution
from tasks.infer_unlabeled import infer_unlabeled
from tasks.run import Run, StageCall
from tasks.tracking import log_generation, open_child
from tasks.train_noisy_student import train_noisy_student


@flow(name="generation", flow_run_name="generation-{index}")
def generation(
    run: Run,
    recipe: Recipe,
    index: int,
    dataset: Dataset,
    teacher: Teacher | Finetuned,
    teacher_report: Report,
) -> GenerationResult:
    """The pool is labelled by `teacher`; a larger noised student learns from it and faces the gate."""
    own = recipe.for_generation(index)
    mlflow_run = open_child(run, recipe, index)

    def call(config: StageConfig, **inputs: Artifact) -> StageCall:
        return StageCall(run, index, config, inputs, mlflow_run=mlflow_run)

    labels = infer_unlabeled(call(own.infer, dataset=dataset, teacher=teacher))
    selection = filter_and_balance(call(own.select, dataset=dataset, pseudo_labels=labels))
    start = {"teacher": teacher} if own.student.start == "teacher" else {}
    student = train_noisy_student(call(own.student, dataset=dataset, selection=selection, **start))
    finetuned = finetune_at_test_resolution(call(own.finetune, dataset=dataset, student=student))
    report = evaluate_robustness(call(own.evaluate, dataset=dataset, checkpoint=finetuned, baseline=teacher_report))
    kept, rows = selection.result["kept"], selection.result["rows"]
    log_generation(run, index, {**{name: report.result.get(name) for name in FIGURES}, "kept": kept, "rows": rows})
    return GenerationResult(
        index=index,
        teacher_report=teacher_report,
        student_report=report,
        student=finetuned,
        kept=kept,
        rows=rows,
        gate=report.result["gate"],
    )
