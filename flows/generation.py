"""One generation: label, select, train, finetune, evaluate, and the gate's verdict into the model registry.

A subflow, so that it shows as such in the UI, of a campaign or of the deployed flow of the same name.

Where the selection is made once for all generations, those that find it made only label it anew.
"""

from prefect import flow

from flows.results import GenerationResult, Standing
from flows.selection import choose, labels_for
from ns_core.artifacts import Artifact, Dataset
from ns_core.config import Recipe
from ns_core.evaluation.results import FIGURES
from ns_core.settings import StageConfig
from tasks.evaluate_robustness import evaluate_robustness
from tasks.finetune_at_test_resolution import finetune_at_test_resolution
from tasks.generation_report import report_generation
from tasks.robustness_report import report_robustness
from tasks.run import Run, StageCall
from tasks.tracking import log_generation, open_child, register_judged
from tasks.train_noisy_student import train_noisy_student


@flow(name="generation", flow_run_name="generation-{index}")
def generation(run: Run, recipe: Recipe, index: int, dataset: Dataset, standing: Standing) -> GenerationResult:
    """The teacher's pseudo-labels teach a larger noised student, which then faces the gate."""
    own, teacher = recipe.for_generation(index), standing.teacher
    mlflow_run = open_child(run, recipe, index)

    def call(config: StageConfig, **inputs: Artifact) -> StageCall:
        return StageCall(run, index, config, inputs, mlflow_run=mlflow_run)

    chosen = standing.chosen or choose(call, own, dataset, teacher)
    labels = labels_for(call, own, dataset, teacher, chosen)
    start = {"teacher": teacher} if own.student.start == "teacher" else {}
    student = train_noisy_student(call(own.student, dataset=dataset, selection=chosen.selection, **labels, **start))
    finetuned = finetune_at_test_resolution(call(own.finetune, dataset=dataset, student=student))
    judged = {"dataset": dataset, "checkpoint": finetuned, "baseline": standing.report}
    evaluating = StageCall(run, index, own.evaluate, judged, standing.official, mlflow_run)
    report = evaluate_robustness(evaluating)
    report_robustness(evaluating, report)
    kept, rows = chosen.selection.result["kept"], chosen.selection.result["rows"]
    log_generation(run, index, {**{name: report.result.get(name) for name in FIGURES}, "kept": kept, "rows": rows})
    result = GenerationResult(
        index=index,
        teacher_report=standing.report,
        student_report=report,
        student=finetuned,
        chosen=chosen,
        kept=kept,
        rows=rows,
        gate=report.result["gate"],
    )
    register_judged(run, mlflow_run, recipe, index, finetuned, result.gate)
    report_generation(run, mlflow_run, recipe, result.summary())
    return result
