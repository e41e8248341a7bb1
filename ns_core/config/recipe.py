"""A complete experiment: the settings of all stages, and where and how fast they run."""

from typing import Literal, Self, TypeVar

from pydantic import model_validator

from ns_core.config.data import DataConfig
from ns_core.config.evaluation import EvaluateConfig, InferConfig, SelectConfig
from ns_core.config.training import FinetuneConfig, StudentConfig, TeacherConfig
from ns_core.settings import Settings, resource, science


class ComputeConfig(Settings):
    """Where it runs and how fast; nothing here changes the result."""

    device: Literal["auto", "cpu", "cuda"] = resource("auto")
    """`auto`: the GPU, where there is one."""
    processes: int = resource(1, ge=1, le=64)
    """Worker processes of a stage that trains or labels on this machine, one for each GPU. Training shares each batch
    among them, labelling the shards."""
    threads: int = resource(0, ge=0)
    """Compute threads of a worker; 0: one for each core."""
    loader_workers: int = resource(2, ge=1, le=64)
    """Threads that decode and augment ahead of training, in each process."""
    compile: bool = resource(False)
    """torch.compile of the training step, and of the teacher that labels: faster on most GPUs; on CPUs for labelling
    only, after a minute or so."""
    cache_gigabytes: float = resource(50.0, gt=0)
    """Local copies of shards that lie in S3, in 2^30 bytes; the longest unused go first."""
    memory_gigabytes: float = resource(4.0, gt=0)
    """Of the tables that filter-and-balance sorts, in 2^30 bytes; what is more goes through temporary files."""
    keep_checkpoints: int = resource(2, ge=1)
    """Resume checkpoints that are kept; older ones are deleted."""
    retries: int = resource(2, ge=0, le=10)
    """Times a failed stage is started again; it goes on from its last checkpoint."""
    retry_delay_seconds: float = resource(2.0, ge=0)
    """Pause before the first retry; it doubles each time."""
    profile: bool = resource(False)
    """Training writes a trace of some updates, `trace.json.gz`, into its artifact (for chrome://tracing, Perfetto)."""


StageT = TypeVar("StageT", DataConfig, TeacherConfig, SelectConfig, StudentConfig, FinetuneConfig, EvaluateConfig)


def _seeded(stage: StageT, seed: int) -> StageT:
    return stage.model_copy(update={"seed": stage.seed + seed})


class Recipe(Settings):
    """A complete experiment."""

    name: str = resource("unnamed")
    """Of the experiment: its runs, in Prefect, in MLflow and in the store, are called by it."""
    description: str = resource("")
    """What it is for, in a sentence."""
    generations: int = science(3, ge=0, le=50)
    """Students, one after the other, each with the best network so far as its teacher; 0: the first teacher alone."""
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
    finetune: FinetuneConfig = science(FinetuneConfig(), title="Finetuning")
    evaluate: EvaluateConfig = science(EvaluateConfig(), title="Evaluation and gate")
    compute: ComputeConfig = resource(ComputeConfig())

    def for_generation(self, generation: int) -> "Recipe":
        """The recipe as generation `generation` (1, 2, ...) uses it: its student, and seeds of its own.

        Each stage draws from a seed of its own, so that the teacher and the students of a run do not share
        their initial weights.
        """
        models = self.student_models or (self.student.model,)
        student = self.student.model_copy(update={"model": models[min(generation, len(models)) - 1]})
        own = self.seed + 1000 * generation
        return self.model_copy(
            update={
                "data": _seeded(self.data, self.seed),
                "teacher": _seeded(self.teacher, self.seed),
                "select": _seeded(self.select, own),
                "student": _seeded(student, own),
                "finetune": _seeded(self.finetune, own),
                "evaluate": _seeded(self.evaluate, self.seed),
            }
        )

    @model_validator(mode="after")
    def _seeds(self) -> Self:
        stages = (self.data, self.teacher, self.select, self.student, self.finetune, self.evaluate)
        largest = self.seed + 1000 * self.generations + max(stage.seed for stage in stages)
        if largest >= 2**32:  # what a key of data.order holds
            raise ValueError(f"seed + 1000 * generations + a stage's seed come to {largest}, over 2^32: lower the seed")
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
