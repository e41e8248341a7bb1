"""Who teaches next, as the model registry has it, and what the store knows of that network's past.

In: a recipe, MLflow's address, the worker's store. Out: a `StandingTeacher`; the report in which it faced its gate;
who labelled the pool for its selection. Stages are not started here.
"""

from dataclasses import dataclass

from flows.checkpoints import record_of
from flows.opening import Opening
from ns_core.artifacts import TYPES, Dataset, Finetuned, Report, Selection, Teacher
from ns_core.config import Recipe
from ns_core.errors import StageFailed, UserError
from ns_core.fingerprint import stage_fingerprint
from ns_core.lineage import Lineage
from ns_core.registry import Registered, open_registry
from ns_core.storage import open_storage
from tasks.run import Run
from tasks.tracking import model_name

ALIAS = "teacher"


@dataclass(frozen=True)
class StandingTeacher:
    """The version of the registered model that teaches now."""

    checkpoint: Teacher | Finetuned
    generation: int
    """Whose student it was; 0: a first teacher."""
    seed: str
    """Of the recipe that it was registered from; empty where that is not known."""

    @property
    def name(self) -> str:
        return self.checkpoint.paths.folder


def standing_teacher(run: Run, recipe: Recipe) -> StandingTeacher | None:
    """The network under the alias `teacher`; None where the recipe's model has none yet.

    Raises `UserError` when MLflow is away, and when the checkpoint is not in this run's store. A store that was moved
    is the same store: what counts is that the artifact is there.
    """
    version = _version(run, recipe)
    if version is None:
        return None
    words = f"{version.model}@{ALIAS} (version {version.version})"
    storage, (stage, _, fingerprint) = open_storage(run.store), version.folder.partition("/")
    if stage not in (Teacher.stage, Finetuned.stage):
        raise UserError(f"{words} is {version.folder}, no teacher and no finetuned student: move the alias to one")
    if not version.tags.get("ns.generation", "").isdecimal():
        raise UserError(f"{words} has no tag ns.generation: set it to the generation it is the student of, or 0")
    try:
        checkpoint = TYPES[stage].of(record_of(storage, stage, fingerprint))
    except UserError as error:
        elsewhere = (
            "" if version.root == storage.uri else f"; it was registered from {version.root}: set NS_STORE to it"
        )
        raise UserError(f"{words} cannot be used: {error}{elsewhere}") from error
    assert isinstance(checkpoint, Teacher | Finetuned)
    return StandingTeacher(checkpoint, int(version.tags["ns.generation"]), version.tags.get("ns.seed", ""))


def check_promoted(run: Run, recipe: Recipe, student: Finetuned) -> None:
    """A promotion that the registry was not told of is none. Raises `UserError` or `StageFailed`."""
    version = _version(run, recipe)
    if version is None or version.folder != student.paths.folder:
        raise StageFailed(
            f"the gate promoted {student.paths.folder}, but MLflow has not taken it for {model_name(recipe)}@{ALIAS}: "
            "run it again once MLflow answers; nothing is computed twice"
        )


def _version(run: Run, recipe: Recipe) -> Registered | None:
    with open_registry(run.tracking_uri, run.experiment) as registry:
        return registry.standing(model_name(recipe), ALIAS) if registry else None


def gate_baseline(opening: Opening, lineage: Lineage, dataset: Dataset, teacher: StandingTeacher) -> dict[str, Report]:
    """The input `baseline` of the evaluation in which the teacher passed its gate, if that was on this dataset and by
    these settings: a campaign goes on from that report, not from one of the teacher alone. Else nothing."""
    reports = [one for one in lineage.made.values() if one.stage == Report.stage and "baseline" in one.inputs]
    for report in sorted(reports, key=lambda one: (one.started_at, one.fingerprint)):
        baseline = Report(fingerprint=report.inputs["baseline"], result={})
        call = opening.evaluating(dataset, teacher.checkpoint, baseline=baseline)
        if call.paths.fingerprint == report.fingerprint:
            return {"baseline": baseline}
    return {}


def earlier_labeller(
    lineage: Lineage, recipe: Recipe, dataset: Dataset, teacher: StandingTeacher
) -> tuple[int, Teacher | Finetuned] | None:
    """Of the selection that the teacher, or one before it, learned from: its generation, and who labelled the pool.

    None where that was of other images or by other settings: it is then no selection of today's pool.
    """
    before = [lineage.made[name] for name in sorted(lineage.ancestors([teacher.name])) if name in lineage.made]
    selections = {one.fingerprint for one in before if one.stage == Selection.stage}
    networks: list[Teacher | Finetuned] = [
        Teacher(fingerprint=one.fingerprint, result={})
        if one.stage == Teacher.stage
        else Finetuned(fingerprint=one.fingerprint, result={})
        for one in before
        if one.stage in (Teacher.stage, Finetuned.stage)
    ]
    for generation in range(teacher.generation, 0, -1):
        own = recipe.for_generation(generation)
        for network in networks:
            if _selection(own, dataset, network) in selections:
                return generation, network
    return None


def _selection(own: Recipe, dataset: Dataset, labeller: Teacher | Finetuned) -> str:
    """The fingerprint of what `own` selects by a network's labels."""
    inputs = {"dataset": dataset.fingerprint}
    labels = stage_fingerprint(own.infer, {**inputs, "teacher": labeller.fingerprint})
    return stage_fingerprint(own.select, {**inputs, "pseudo_labels": labels})
