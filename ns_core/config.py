"""What a person can set: one frozen model a stage, and the `Recipe` that holds them all.

Defaults follow the paper where it states a value and `reference: official code` where only the code
does; recipes in `flows/recipes` derive from them. Loads neither torch nor Prefect.
"""

from typing import ClassVar, Literal, Self, TypeVar, get_args

from pydantic import model_validator

from ns_core.settings import Settings, StageConfig, resource, science

CORRUPTIONS = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
]


class DataConfig(StageConfig):
    """prepare-dataset: the images, and how they are split."""

    STAGE: ClassVar[str] = "prepare-dataset"
    VERSION: ClassVar[int] = 1

    source: Literal["digits", "folder"] = science("digits")
    """`digits`: scikit-learn's 1,797 handwritten digits. `folder`: a folder with one folder a class."""
    labeled: str = resource("")
    """Folder of labelled images, one folder a class (source `folder`). Its place is not identity; its bytes are."""
    unlabeled: str = resource("")
    """Folder of unlabelled images, at any depth (source `folder`)."""
    holdout: str = resource("")
    """Folder of holdout images by class; empty: split off the labelled part."""
    test: str = resource("")
    """Folder of test images by class; empty: split off the labelled part."""
    labels_per_class: int = science(5, ge=1)
    """Labelled images a class (source `digits`)."""
    holdout_images: int = science(300, ge=10)
    """Images of the holdout (source `digits`)."""
    test_images: int = science(400, ge=10)
    """Images of the test split (source `digits`)."""
    holdout_fraction: float = science(0.15, gt=0, lt=1)
    """Share of each class split off for every choice (source `folder`, no holdout folder)."""
    test_fraction: float = science(0.15, gt=0, lt=1)
    """Share of each class split off for the report (source `folder`, no test folder)."""
    max_corrupt_fraction: float = science(0.01, ge=0, le=1)
    """The stage fails when more than this share of the images cannot be decoded."""
    shard_images: int = science(10_000, ge=1)
    """Images in one shard at most."""
    seed: int = science(0, ge=0, lt=2**32)
    """Added to the recipe's seed, as in every stage."""

    @model_validator(mode="after")
    def _fractions(self) -> Self:
        if self.holdout_fraction + self.test_fraction >= 1:
            raise ValueError("holdout_fraction + test_fraction leave nothing to train on: lower one")
        return self


class Augmentation(Settings):
    """Noise on the input: random resized crop, shift, flip and RandAugment (paper section 2, appendix A)."""

    min_area: float = science(0.08, gt=0, le=1)
    """Smallest area of the random resized crop; 1.0 with max_area 1.0 turns cropping off."""
    max_area: float = science(1.0, gt=0, le=1)
    hflip: float = science(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    pad: int = science(0, ge=0)
    """Random shift by reflect-padding this many pixels and cropping (official SVHN recipe: 4)."""
    randaugment_ops: int = science(2, ge=0, le=8)
    """Operations drawn per image; 0 turns RandAugment off."""
    randaugment_magnitude: float = science(9.0, ge=0, le=30)
    """On the official scale whose full strength is 10 (27 = 2.7 times full scale)."""

    @model_validator(mode="after")
    def _areas(self) -> Self:
        if self.min_area > self.max_area:
            raise ValueError(f"min_area {self.min_area} is above max_area {self.max_area}: swap them")
        return self


class TrainConfig(StageConfig):
    """What teacher, student and finetune share: one trainer, three recipes."""

    image_size: int = science(224, ge=8)
    """Side of the training images in pixels; labelling and evaluation use it too unless finetuned."""
    crop_pct: float = science(0.875, gt=0, le=1)
    """Share of the resized short side that the central crop keeps when labelling and evaluating (official
    code: s/(s+32) for side s); 1.0 keeps all."""
    batch_size: int = science(128, ge=1)
    """Labelled images a step."""
    steps: int = science(1000, ge=1)
    """Optimiser updates."""
    epoch_steps: int = science(100, ge=1)
    """Updates between two looks at the holdout; a checkpoint is written and the noise is asserted as often."""
    optimizer: Literal["sgd", "adamw", "rmsproptf"] = science("rmsproptf")
    lr: float = science(0.016, gt=0)
    """Peak learning rate, for this batch size as it stands (official: 0.016 for each 256 labelled images)."""
    momentum: float = science(0.9, ge=0, lt=1)
    opt_eps: float = science(1e-3, gt=0)
    weight_decay: float = science(1e-5, ge=0)
    schedule: Literal["cosine", "staircase"] = science("staircase")
    warmup_steps: int = science(0, ge=0)
    decay_steps: float = science(100.0, gt=0)
    """Staircase: multiply by decay_rate each this many updates (official: 2.4 epochs)."""
    decay_rate: float = science(0.97, gt=0, le=1)
    label_smoothing: float = science(0.1, ge=0, lt=1)
    """On labelled images and hard pseudo-labels, never on soft ones (official code)."""
    ema_decay: float = science(0.9999, ge=0, lt=1)
    """Decay n is min(ema_decay, (1+n)/(10+n)), on weights and BatchNorm statistics (official code)."""
    dropout: float = science(0.2, ge=0, lt=1)
    """On the classifier's input (paper: 0.5 for B7 and L2)."""
    stochastic_depth: float = science(0.2, ge=0, lt=1)
    """Drop rate of the last block, growing linearly from 0 (paper: survival 0.8)."""
    bn_momentum: float = science(0.01, gt=0, le=1)
    """torch's meaning: 0.01 is TensorFlow's 0.99."""
    augmentation: Augmentation = science(Augmentation())
    seed: int = science(0, ge=0, lt=2**32)


class TeacherConfig(TrainConfig):
    """train-teacher: labelled images only, with noise (paper, algorithm 1, step 1)."""

    STAGE: ClassVar[str] = "train-teacher"
    VERSION: ClassVar[int] = 1

    model: str = science("efficientnet_b0")
    """Any name that `timm.create_model` knows, or one of ours (ns_efficientnet_xs, _s, _m)."""


class InferConfig(StageConfig):
    """infer-unlabeled: the noise-free teacher labels the pool (algorithm 1, step 2)."""

    STAGE: ClassVar[str] = "infer-unlabeled"
    VERSION: ClassVar[int] = 1

    batch_size: int = resource(256, ge=1)


class SelectConfig(StageConfig):
    """filter-and-balance: which pseudo-labelled images the student sees, and how often."""

    STAGE: ClassVar[str] = "filter-and-balance"
    VERSION: ClassVar[int] = 1

    threshold: float = science(0.3, ge=0, le=1)
    """Lowest confidence that is kept (paper: 0.3 for 1,000 classes; few classes want more)."""
    per_class: int = science(130_000, ge=1)
    """Images kept of each predicted class, the most confident first (paper: 130,000)."""
    max_copies: int = science(10, ge=1)
    """Classes with fewer images than `per_class` repeat theirs, at most this often."""
    seed: int = science(0, ge=0, lt=2**32)
    """Decides which images of a short class get the odd copy."""


class StudentConfig(TrainConfig):
    """train-noisy-student: labelled and pseudo-labelled images together (algorithm 1, step 3)."""

    STAGE: ClassVar[str] = "train-noisy-student"
    VERSION: ClassVar[int] = 1

    model: str = science("efficientnet_b0")
    ratio: int = science(3, ge=1, le=28)
    """Pseudo-labelled images for each labelled image of a batch."""
    labels: Literal["soft", "hard"] = science("soft")
    temperature: float = science(1.0, gt=0)
    """Soft labels are sharpened as p^(1/T); 1 leaves them (official scripts: 1)."""
    loss: Literal["concat", "official", "algorithm1"] = science("concat")
    """`concat`: mean over the whole batch (paper's text). `official`: labelled mean + ratio * pseudo mean
    (official code). `algorithm1`: labelled mean + pseudo mean (paper, algorithm 1)."""


class FinetuneConfig(TrainConfig):
    """finetune-at-test-resolution: larger, unaugmented labelled images, shallow layers frozen (section 3.1)."""

    STAGE: ClassVar[str] = "finetune-at-test-resolution"
    VERSION: ClassVar[int] = 1

    frozen_blocks: int = science(1, ge=0)
    """The stem and this many block groups keep weights and BatchNorm statistics (official `fix_layer_num`)."""
    augmentation: Augmentation = science(
        Augmentation(min_area=1.0, max_area=1.0, hflip=0.0, randaugment_ops=0, randaugment_magnitude=0.0)
    )


class EvaluateConfig(StageConfig):
    """evaluate-robustness: clean accuracy, corruptions, FGSM, calibration, and the gate."""

    STAGE: ClassVar[str] = "evaluate-robustness"
    VERSION: ClassVar[int] = 1

    corruptions: tuple[CORRUPTIONS, ...] = science(get_args(CORRUPTIONS))
    severities: tuple[int, ...] = science((1, 3, 5))
    fgsm_eps: tuple[float, ...] = science((0.0, 2.0, 4.0, 8.0, 16.0))
    """In 0..255 units of the model's input pixels (paper, figure 3)."""
    max_images: int = science(2_000, ge=10)
    """Test images used for corruptions and FGSM; a seeded, stratified draw when there are more."""
    min_gain: float = science(0.0, ge=-1, le=1)
    """Gate: the student's holdout accuracy minus the teacher's must reach this."""
    max_worst_class_drop: float = science(0.2, ge=0, le=1)
    max_ece_rise: float = science(0.15, ge=0, le=1)
    stop_p_value: float = science(0.01, gt=0, lt=1)
    """Gate: a student that is worse at this level of an exact McNemar test stops the run."""
    batch_size: int = resource(256, ge=1)
    seed: int = science(0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _severities(self) -> Self:
        if wrong := [level for level in self.severities if not 1 <= level <= 5]:
            raise ValueError(f"severities: {wrong[0]} is not one of 1 to 5")
        if wrong_eps := [eps for eps in self.fgsm_eps if not 0 <= eps <= 255]:
            raise ValueError(f"fgsm_eps: {wrong_eps[0]} is not between 0 and 255")
        return self


class ComputeConfig(Settings):
    """Where and how fast; nothing here is part of an identity."""

    device: Literal["auto", "cpu", "cuda"] = resource("auto")
    threads: int = resource(0, ge=0)
    """Compute threads of a worker; 0: one for each core."""
    loader_workers: int = resource(2, ge=1, le=64)
    """Threads that decode and augment ahead of training."""
    retries: int = resource(2, ge=0, le=10)
    """Times a failed stage is started again; it goes on from its last checkpoint."""
    retry_delay_seconds: float = resource(2.0, ge=0)
    """Pause before the first retry; it doubles each time."""


StageT = TypeVar("StageT", DataConfig, TeacherConfig, SelectConfig, StudentConfig, FinetuneConfig, EvaluateConfig)


def _seeded(stage: StageT, seed: int) -> StageT:
    return stage.model_copy(update={"seed": stage.seed + seed})


class Recipe(Settings):
    """A complete experiment."""

    name: str = resource("unnamed")
    description: str = resource("")
    generations: int = science(3, ge=0, le=50)
    seed: int = science(0, ge=0, lt=2**32)
    """Seeds the split, every network, every order and every augmentation."""
    data: DataConfig = science(DataConfig())
    teacher: TeacherConfig = science(TeacherConfig())
    infer: InferConfig = science(InferConfig())
    select: SelectConfig = science(SelectConfig())
    student: StudentConfig = science(StudentConfig())
    student_models: tuple[str, ...] = science(())
    """Architecture of the student in generation 1, 2, ...; the last one repeats. Empty: student.model in all."""
    finetune: FinetuneConfig = science(FinetuneConfig())
    evaluate: EvaluateConfig = science(EvaluateConfig())
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
