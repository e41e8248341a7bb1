"""The evaluation of one checkpoint, alone or against another: what `noisy-student evaluate` runs.

In: a checkpoint in words, the suites as an `EvaluateConfig`. Out: an `Evaluation`, and what the tasks left in the
store, in MLflow and in Prefect. A network from elsewhere is imported first; a baseline is evaluated with the same
settings on the same images, so that the comparison is paired.
"""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows import place
from flows.attended import attended
from flows.form import parsed
from flows.official import official_inputs
from flows.subject import Subject, find_baseline, find_subject, measurable
from ns_core.artifacts import Artifact, Checkpoint, Frozen, Imported, Report
from ns_core.config import EvaluateConfig, Recipe
from ns_core.evaluation.results import FIGURES
from ns_core.storage import open_storage
from tasks.evaluate_robustness import evaluate_robustness
from tasks.evaluation_run import open_checkpoint, open_evaluation
from tasks.import_checkpoint import import_checkpoint
from tasks.observe import StageOutcome, current
from tasks.robustness_report import report_robustness
from tasks.run import Run, StageCall
from tasks.tracking import ended, finish, log_generation

STANDARD = EvaluateConfig()


class Evaluation(Frozen):
    """What an evaluation returns."""

    run_id: str
    checkpoint: str
    """`stage/fingerprint` of the checkpoint in the store."""
    model: str
    report: Report
    generation: int
    """The report's page is that of this generation; 1 where a baseline is generation 0."""
    baseline: Report | None
    stages: list[StageOutcome]


def _name() -> str:
    """The run's own name; for a run of a worker one that a retry gives again."""
    run = place.given()
    if run is not None:
        return run.run_id
    words = str(flow_run.parameters["checkpoint"])
    return place.run_id(f"evaluate-{words}", flow_run.scheduled_start_time, str(flow_run.id)[-4:])


@flow(name="evaluate", flow_run_name=_name, validate_parameters=False)
def evaluate(
    checkpoint: str,
    against: str = "",
    weights: str = "",
    pretrained: bool = False,
    classes: str = "",
    config: EvaluateConfig = STANDARD,
) -> Evaluation | State[Evaluation]:
    """The whole robustness evaluation of one checkpoint.

    Args:
        checkpoint: what is evaluated: a run of this store or `latest`, `RUN:teacher`, `RUN:student2`,
            `STAGE/FINGERPRINT`, a folder, or `timm:NAME`; folders and files as the worker's machine sees them
        against: another checkpoint, named like the first (no `timm:`), to compare with image by image; empty: none
        weights: file with the weights of `timm:NAME`
        pretrained: download timm's own weights of `timm:NAME` instead
        classes: file with the class names of `timm:NAME`, one a line in the network's order; empty: ImageNet's
        config: suites, budgets, and the folders of official sets
    """

    def body() -> Evaluation:
        settings = parsed(config, EvaluateConfig)
        run = place.given() or place.in_worker(Recipe(), flow_run.name)
        storage = open_storage(run.store)
        subject = find_subject(checkpoint, storage, weights, pretrained, classes)
        other = find_baseline(against, storage) if against else None
        return _evaluated(run, settings, subject, other)

    return attended(body)


def _evaluated(run: Run, config: EvaluateConfig, subject: Subject, other: Subject | None) -> Evaluation:
    """Both checkpoints in the store, then both reports, the baseline's first."""
    config, official = measurable(config, subject), official_inputs(config)
    checkpoint, baseline = _held(run, subject), _held(run, other) if other else None
    identity = {"checkpoint": checkpoint.fingerprint, **official}
    if baseline is not None:
        identity["against"] = baseline.fingerprint
    if subject.dataset is not None:
        identity["dataset"] = subject.dataset.fingerprint
    name = f"evaluate-{subject.name}"
    run = open_evaluation(run, name, config, identity)

    def report(one: Checkpoint, generation: int, **inputs: Artifact) -> Report:
        if subject.dataset is not None:
            inputs["dataset"] = subject.dataset
        child = open_checkpoint(run, name, config, generation)
        call = StageCall(run, generation, config, {"checkpoint": one, **inputs}, official, child)
        made = evaluate_robustness(call)
        report_robustness(call, made)
        log_generation(run, generation, {figure: made.result.get(figure) for figure in FIGURES})
        return made

    try:
        before = report(baseline, 0) if baseline else None
        generation = 1 if before else 0
        after = report(checkpoint, generation, **({"baseline": before} if before else {}))
        log_generation(run, 0, {figure: after.result.get(figure) for figure in FIGURES}, "final")
    except BaseException as error:
        finish(run, ended(error))
        raise
    finish(run, ended(None))
    return Evaluation(
        run_id=run.run_id,
        checkpoint=f"{checkpoint.stage}/{checkpoint.fingerprint}",
        model=checkpoint.result["model"],
        report=after,
        generation=generation,
        baseline=before,
        stages=current().ledger,
    )


def _held(run: Run, subject: Subject) -> Checkpoint:
    """The checkpoint in the store, imported if it is from elsewhere."""
    if subject.held is not None:
        return subject.held
    assert subject.foreign is not None
    imported: Imported = import_checkpoint(StageCall(run, 0, subject.foreign, {}, subject.digests))
    return imported
