"""Settings of the three stages that train: one trainer, three recipes."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from ns_core.settings import Settings, StageConfig, resource, science


class Augmentation(Settings):
    """Noise on the input: random resized crop, shift, flip and RandAugment (paper section 2, appendix A)."""

    min_area: float = science(0.08, gt=0, le=1, title="Smallest crop")
    """Smallest area of the random resized crop, as a share of the image; 1.0 with max_area 1.0 turns cropping off."""
    max_area: float = science(1.0, gt=0, le=1, title="Largest crop")
    """Largest area of the crop, as a share of the image."""
    hflip: float = science(0.5, ge=0, le=1, title="Horizontal flip")
    """Probability of a horizontal flip."""
    pad: int = science(0, ge=0, title="Random shift")
    """By reflect-padding this many pixels and cropping (official SVHN recipe: 4); 0: none."""
    randaugment_ops: int = science(2, ge=0, le=8, title="RandAugment operations")
    """Operations drawn per image; 0 turns RandAugment off."""
    randaugment_magnitude: float = science(9.0, ge=0, le=30, title="RandAugment magnitude")
    """`paper` and `official`: full strength is 10, and 27 is 2.7 times that. `timm`: 0 to 10, where timm itself
    would clip. `torchvision`: a whole number, 30 at most."""
    randaugment_set: Literal["paper", "official", "timm", "torchvision"] = science("paper", title="RandAugment set")
    """Which operations, and what a magnitude means (`ns_core.data.randaugment` has the tables). `paper`: the
    fourteen of the paper, movements as a share of the side. `official`: the sixteen of the official code,
    movements in pixels. `timm`, `torchvision`: those of these libraries."""
    randaugment_interpolation: Literal["nearest", "bilinear"] = science("nearest", title="RandAugment interpolation")
    """Of rotations and shears (official code: nearest)."""
    randaugment_translate: float = science(100.0, ge=0, title="RandAugment translation")
    """`official`: pixels of a translation at full strength (official code: 100; 4 for SVHN)."""
    randaugment_cutout: float = science(40.0, ge=0, title="RandAugment cut-out")
    """`official`: half the side of a cut-out in pixels at full strength (official code: 40; 4 for SVHN)."""

    @model_validator(mode="after")
    def _areas(self) -> Self:
        if self.min_area > self.max_area:
            raise ValueError(f"min_area {self.min_area} is above max_area {self.max_area}: swap them")
        return self

    @model_validator(mode="after")
    def _magnitude(self) -> Self:
        named, magnitude = self.randaugment_set, self.randaugment_magnitude
        if named == "timm" and magnitude > 10:
            raise ValueError(f"randaugment_magnitude {magnitude:g}: timm's scale ends at 10; choose 10 or another set")
        if named == "torchvision" and magnitude != int(magnitude):
            raise ValueError(f"randaugment_magnitude {magnitude:g}: torchvision's are whole numbers, 0 to 30")
        return self


STILL = Augmentation(min_area=1.0, max_area=1.0, hflip=0.0, randaugment_ops=0, randaugment_magnitude=0.0)
"""None of it: the whole picture, as it is."""


class TrainConfig(StageConfig):
    """What teacher, student and finetune share: one trainer, three recipes."""

    image_size: int = science(224, ge=8)
    """Side of the training images in pixels; labelling and evaluation use it too unless finetuned."""
    batch_size: int = science(128, ge=1)
    """Labelled images an update, over all processes and micro-batches."""
    steps: int = science(1000, ge=1)
    """Optimiser updates."""
    epoch_steps: int = science(100, ge=1)
    """Updates between two looks at the holdout; a checkpoint is written and the noise is asserted as often."""
    lr: float = science(0.016, gt=0, title="Learning rate")
    """Peak learning rate, for this batch size as it stands (official: 0.016 for each 256 labelled images)."""
    optimizer: Literal["sgd", "adamw", "rmsproptf"] = science("rmsproptf")
    """`sgd`: with Nesterov momentum. `adamw`: with a weight decay of its own. `rmsproptf`: RMSprop as in TensorFlow
    (official code)."""
    schedule: Literal["cosine", "staircase"] = science("staircase", title="Learning rate schedule")
    """`cosine`: a half wave down to 0 after the last update. `staircase`: a step down every so many updates (official
    code)."""
    warmup_steps: int = science(0, ge=0, title="Warm-up steps")
    """Updates in which the learning rate rises linearly from 0 (official: 5 epochs); 0: none."""
    decay_steps: float = science(100.0, gt=0)
    """Staircase: multiply by decay_rate each this many updates (official: 2.4 epochs)."""
    decay_rate: float = science(0.97, gt=0, le=1)
    """Staircase: what the learning rate is multiplied by (official: 0.97)."""
    momentum: float = science(0.9, ge=0, lt=1)
    """Of `sgd` and `rmsproptf`."""
    opt_eps: float = science(1e-3, gt=0, title="Epsilon of the optimizer")
    """Of `adamw` and `rmsproptf` (official code: 0.001)."""
    weight_decay: float = science(1e-5, ge=0)
    """L2, added to the gradient; with `adamw` apart from it (official code: 0.00001)."""
    decay_biases: bool = science(True, title="Weight decay of biases")
    """Biases decay like weights, and what BatchNorm learns does not (official code). False: neither does, as in
    timm."""
    label_smoothing: float = science(0.1, ge=0, lt=1)
    """On labelled images and hard pseudo-labels, never on soft ones (official code)."""
    dropout: float = science(0.2, ge=0, lt=1)
    """On the classifier's input (paper: 0.5 for B7 and L2)."""
    stochastic_depth: float = science(0.2, ge=0, lt=1)
    """Drop rate of the last block, growing linearly from 0 (paper: survival 0.8)."""
    augmentation: Augmentation = science(Augmentation())
    mixup: float = science(0.0, ge=0)
    """Alpha of mixup's Beta distribution (Zhang et al. 2018); 0: off. Images mix with images of their own stream."""
    cutmix: float = science(0.0, ge=0, title="CutMix")
    """Alpha of CutMix (Yun et al. 2019); 0: off. With mixup too, each update draws one of both."""
    ema_decay: float = science(0.9999, ge=0, lt=1, title="Decay of the average (EMA)")
    """Decay n is min(ema_decay, (1+n)/(10+n)), on weights and BatchNorm statistics (official code)."""
    bn_momentum: float = science(0.01, gt=0, le=1, title="BatchNorm momentum")
    """torch's meaning: 0.01 is TensorFlow's 0.99."""
    bn_eps: float = science(1e-3, gt=0, title="BatchNorm epsilon")
    """Added to the variance by BatchNorm (official code: 0.001); finetuning keeps its student's."""
    crop_pct: float = science(0.875, gt=0, le=1, title="Central crop")
    """Share of the resized short side that the central crop keeps when labelling and evaluating (official
    code: s/(s+32) for side s); 1.0 keeps all."""
    precision: Literal["float32", "bfloat16"] = science("float32")
    """Of the forward and backward pass; weights, optimiser and loss are float32 either way."""
    accumulation: int = science(1, ge=1, title="Gradient accumulation")
    """Micro-batches whose gradients make one update; each has the same mix of both streams. BatchNorm sees one
    micro-batch at a time, so this changes the result."""
    window_shards: int = science(0, ge=0)
    """Shards that the order of an epoch mixes at a time, so that whole shards are fetched and dropped; 0: all.
    For data sets in S3 that no local disk holds, 64 or so."""
    seed: int = science(0, ge=0, lt=2**32)
    """Added to the recipe's seed, as in every stage."""
    recompute_groups: int = resource(0, ge=0, title="Recomputed block groups")
    """The stem and this many block groups keep no activations and compute them again in the backward pass: the
    same result from less memory."""
    checkpoint_steps: int = resource(0, ge=0)
    """A checkpoint is written after so many updates, too; 0: only where the holdout is looked at."""
    max_bad_fraction: float = resource(0.001, ge=0, le=1)
    """Training fails when more than this share of a stream's images cannot be read; below, each is named and its
    place is taken by another."""

    @model_validator(mode="after")
    def _micro_batches(self) -> Self:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be divided into {self.accumulation} equal micro-batches: "
                "set accumulation to a divisor of batch_size"
            )
        return self


class TeacherConfig(TrainConfig):
    """train-teacher: labelled images only, with noise (paper, algorithm 1, step 1)."""

    STAGE: ClassVar[str] = "train-teacher"
    VERSION: ClassVar[int] = 3

    model: str = science("efficientnet_b0", min_length=1)
    """Any name that `timm.create_model` knows, or one of ours: ns_efficientnet_xs, _s, _m, _l for 32 pixels, and
    small_efficientnet_b0 and the like, which are timm's without two of their strides (official SVHN variant)."""


class StudentConfig(TrainConfig):
    """train-noisy-student: labelled and pseudo-labelled images together (algorithm 1, step 3)."""

    STAGE: ClassVar[str] = "train-noisy-student"
    VERSION: ClassVar[int] = 3

    model: str = science("efficientnet_b0", min_length=1)
    """As the teacher's, equal or larger (paper). `student_models` gives each generation its own."""
    labels: Literal["soft", "hard"] = science("soft", title="Pseudo-labels")
    """`soft`: the teacher's probabilities of all classes. `hard`: its most probable class alone."""
    temperature: float = science(1.0, gt=0)
    """Soft labels are sharpened as p^(1/T); 1 leaves them (official scripts: 1)."""
    ratio: int = science(3, ge=1, le=28)
    """Pseudo-labelled images for each labelled image of a batch."""
    loss: Literal["concat", "official", "algorithm1", "pseudo"] = science("concat")
    """`concat`: mean over the whole batch (paper's text). `official`: labelled mean + ratio * pseudo mean
    (official code). `algorithm1`: labelled mean + pseudo mean (paper, algorithm 1).
    `pseudo`: pseudo mean alone, for pre-training; labelled images pass through the network and teach nothing."""
    start: Literal["scratch", "teacher"] = science("scratch")
    """Initial weights: fresh ones (paper), or the teacher's, which then must be of the same model."""


class FinetuneConfig(TrainConfig):
    """finetune-at-test-resolution: larger, unaugmented labelled images, shallow layers frozen (section 3.1)."""

    STAGE: ClassVar[str] = "finetune-at-test-resolution"
    VERSION: ClassVar[int] = 3

    frozen_blocks: int = science(1, ge=0)
    """The stem and this many block groups keep weights and BatchNorm statistics (official `fix_layer_num`)."""
    schedule_steps: int = science(0, ge=0)
    """The learning rate is that of the last updates of a schedule of so many (official `train_last_step_num`);
    0: these updates have a schedule of their own."""
    augmentation: Augmentation = science(STILL)

    @model_validator(mode="after")
    def _tail(self) -> Self:
        if 0 < self.schedule_steps < self.steps:
            raise ValueError(
                f"schedule_steps {self.schedule_steps} is less than steps {self.steps}: it has no such tail"
            )
        return self
