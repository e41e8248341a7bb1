"""A complete experiment: the settings of all stages, and where and how fast they run."""

from typing import Any, Literal, Self, TypeVar

from pydantic import model_validator

from ns_core.config.compute import ComputeConfig
from ns_core.config.data import DataConfig
from ns_core.config.evaluation import EvaluateConfig, InferConfig, SelectConfig
from ns_core.config.training import FinetuneConfig, StudentConfig, TeacherConfig
from ns_core.settings import Settings, resource, science

AUTO_GENERATIONS = 10
"""The most of `generations=auto`."""
StageT = TypeVar(
    "StageT", DataConfig, TeacherConfig, InferConfig, SelectConfig, StudentConfig, FinetuneConfig, EvaluateConfig
)


def _seeded(stage: StageT, seed: int) -> StageT:
    return stage.model_copy(update={"seed": stage.seed + seed})


class Recipe(Settings):
    """A complete experiment."""

    name: str = resource("unnamed")
    """Of the experiment: its runs, in Prefect, in MLflow and in the store, are called by it."""
    description: str = resource("")
    """What it is for, in a sentence."""
    generations: int = science(3, ge=0, le=50)
    """Students, one after the other, each with the best network so far as its teacher; 0: the first teacher alone.
    `auto`: 10, and `until=gate`."""
    until: Literal["generations", "gate"] = science("generations", added=True, title="Goes on until")
    """`generations`: so many, or the gate finds a student significantly worse. `gate`: also until the gate promotes a
    student no more; `generations` is then the most."""
    seed: int = science(0, ge=0, lt=2**32)
    """Seeds the split, every network, every order and every augmentation."""
    data: DataConfig = science(DataConfig())
    teacher: TeacherConfig = science(TeacherConfig())
    infer: InferConfig = science(InferConfig(), title="Labelling")
    select: SelectConfig = science(SelectConfig(), title="Selection")
    selection: Literal["each", "once"] = science("each", title="Select anew")
    """`each`: every generation's teacher selects anew. `once`: one selection for all generations, which each teacher
    labels anew (paper, section 3.1, and the official code's `reassign`)."""
    selector: str = science("", title="Network that selects")
    """With `selection=once`: the network, trained as the teacher is, that selects (paper: EfficientNet-B0); empty:
    the first teacher."""
    student: StudentConfig = science(StudentConfig())
    student_models: tuple[str, ...] = science(
        (), form={"items": {"type": "string", "minLength": 1}}, title="Student models"
    )
    """Architecture of the student in generation 1, 2, ...; the last one repeats. Empty: student.model in all."""
    student_ratios: tuple[int, ...] = science(
        (), form={"items": {"type": "integer", "minimum": 1, "maximum": 28}}, title="Student ratios", added=True
    )
    """Pseudo-labelled images for each labelled one in generation 1, 2, ...; the last one repeats (paper: 14, 14, 28).
    Empty: student.ratio in all."""
    finetune: FinetuneConfig = science(FinetuneConfig(), title="Finetuning")
    evaluate: EvaluateConfig = science(EvaluateConfig(), title="Evaluation and gate")
    compute: ComputeConfig = resource(ComputeConfig())

    def for_generation(self, generation: int) -> "Recipe":
        """The recipe as generation `generation` (1, 2, ...) uses it: its student, and seeds of its own.

        Each stage draws from a seed of its own, so that the teacher and the students of a run do not share
        their initial weights.
        """
        models = self.student_models or (self.student.model,)
        ratios = self.student_ratios or (self.student.ratio,)
        places = min(generation, len(models)) - 1, min(generation, len(ratios)) - 1
        student = self.student.model_copy(update={"model": models[places[0]], "ratio": ratios[places[1]]})
        own = self.seed + 1000 * generation
        # Of the whole pool no share is drawn, and a seed that draws nothing is no part of the identity.
        share = self.seed if self.select.pool_fraction < 1 else 0
        select = self.select.model_copy(update={"pool_seed": self.select.pool_seed + share})
        return self.model_copy(
            update={
                "data": _seeded(self.data, self.seed),
                "teacher": _seeded(self.teacher, self.seed),
                "infer": _seeded(self.infer, own) if self.infer.noised else self.infer,
                "select": _seeded(select, own),
                "student": _seeded(student, own),
                "finetune": _seeded(self.finetune, own),
                "evaluate": _seeded(self.evaluate, self.seed),
            }
        )

    @model_validator(mode="before")
    @classmethod
    def _auto(cls, document: Any) -> Any:
        if isinstance(document, dict) and document.get("generations") == "auto":
            return {**document, "generations": AUTO_GENERATIONS, "until": "gate"}
        return document

    @model_validator(mode="after")
    def _seeds(self) -> Self:
        stages = (self.data, self.teacher, self.infer, self.select, self.student, self.finetune, self.evaluate)
        largest = self.seed + 1000 * self.generations + max(self.select.pool_seed, *(stage.seed for stage in stages))
        if largest >= 2**32:  # what a key of data.order holds
            raise ValueError(f"seed + 1000 * generations + a stage's seed come to {largest}, over 2^32: lower the seed")
        return self

    @model_validator(mode="after")
    def _ratios(self) -> Self:
        outside = [ratio for ratio in self.student_ratios if not 1 <= ratio <= 28]
        if outside:
            raise ValueError(f"student_ratios: {outside[0]} is none, they are whole numbers from 1 to 28")
        return self

    @model_validator(mode="after")
    def _resolutions(self) -> Self:
        if self.finetune.image_size < self.student.image_size:
            raise ValueError(
                f"finetune.image_size {self.finetune.image_size} is below student.image_size "
                f"{self.student.image_size}: finetuning is for the test resolution, which is not smaller"
            )
        return self

    @model_validator(mode="after")
    def _selector(self) -> Self:
        if self.selector and self.selection == "each":
            raise ValueError(f"selector '{self.selector}' selects once for all generations: set selection=once")
        return self

    @model_validator(mode="after")
    def _warm_start(self) -> Self:
        students = (self.student_models or (self.student.model,))[: self.generations]
        others = [model for model in students if model != self.teacher.model]
        if self.student.start == "teacher" and others:
            raise ValueError(
                f"student.start=teacher: the student '{others[0]}' cannot take the weights of the teacher "
                f"'{self.teacher.model}'; give both the same model, or set student.start=scratch"
            )
        return self
