"""Settings of the three stages that train: one trainer, three recipes."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from ns_core.settings import Settings, StageConfig, resource, science


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
    window_shards: int = science(0, ge=0)
    """Shards that the order of an epoch mixes at a time, so that whole shards are fetched and dropped; 0: all.
    For data sets in S3 that no local disk holds, 64 or so."""
    max_bad_fraction: float = resource(0.001, ge=0, le=1)
    """Training fails when more than this share of a stream's images cannot be read; below, each is named and its
    place is taken by another."""
    seed: int = science(0, ge=0, lt=2**32)


class TeacherConfig(TrainConfig):
    """train-teacher: labelled images only, with noise (paper, algorithm 1, step 1)."""

    STAGE: ClassVar[str] = "train-teacher"
    VERSION: ClassVar[int] = 2

    model: str = science("efficientnet_b0")
    """Any name that `timm.create_model` knows, or one of ours (ns_efficientnet_xs, _s, _m)."""


class StudentConfig(TrainConfig):
    """train-noisy-student: labelled and pseudo-labelled images together (algorithm 1, step 3)."""

    STAGE: ClassVar[str] = "train-noisy-student"
    VERSION: ClassVar[int] = 2

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
    VERSION: ClassVar[int] = 2

    frozen_blocks: int = science(1, ge=0)
    """The stem and this many block groups keep weights and BatchNorm statistics (official `fix_layer_num`)."""
    augmentation: Augmentation = science(
        Augmentation(min_area=1.0, max_area=1.0, hflip=0.0, randaugment_ops=0, randaugment_magnitude=0.0)
    )
