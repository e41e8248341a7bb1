"""The models of the paper with their noise and their length, and the settings that follow from them.

In: a row of `MODELS`, the number of labelled images and the labelled batch. Out: a `TeacherConfig`,
`StudentConfig` or `FinetuneConfig`, with everything that the paper counts in epochs counted in updates.

Sources: Xie et al. 2020 (arXiv 1911.04252) and google-research/noisystudent: `main.py` for the optimiser, the
schedule, the averages and the loss, `efficientnet_builder.py` for sizes and dropout,
`local_scripts/imagenet/train_offline.sh` for RandAugment, ratio and length of B0 to B7.

An epoch is `images / batch` updates, a fraction as in the official code, and lengths are cut to whole updates.
"""

from dataclasses import dataclass
from typing import Any

from ns_core.config.training import Augmentation, FinetuneConfig, StudentConfig, TeacherConfig

IMAGENET_IMAGES = 1_281_167
"""Of ImageNet's training set, which the official schedules count as an epoch."""
EPOCHS = 350
"""Of a model whose `train_ratio` is 1."""
WARMUP_EPOCHS = 5
DECAY_EPOCHS = 2.4
"""Between two stairs of the learning rate, which go down by 3 %; times `train_ratio`."""
LR_PER_256 = 0.016
"""Peak learning rate for each 256 labelled images of a batch (`base_learning_rate`)."""
FINETUNE_EPOCHS = 1.5
"""At test resolution (paper, section 3.1)."""
FINETUNE_FROZEN_GROUPS = 3
"""Of an EfficientNet's seven. Ours: the paper freezes its shallow layers and does not say how many."""


@dataclass(frozen=True)
class PaperModel:
    """One architecture, as the paper trained it."""

    timm: str
    """Name in timm; the `tf_` ones pad like TensorFlow, and so do the published weights."""
    train_size: int
    """Side of the training images in pixels."""
    test_size: int
    """Side of the images it is tested on."""
    dropout: float
    magnitude: float
    """Of RandAugment's two operations; 0: random crops and flips only."""
    ratio: int
    """Pseudo-labelled images for each labelled one."""
    train_ratio: int
    """Times 350 epochs, with stairs as much longer (paper: 700 epochs up to B4, 350 above)."""


MODELS = {
    "b0": PaperModel("tf_efficientnet_b0", 224, 224, 0.2, 0, 1, 2),
    "b1": PaperModel("tf_efficientnet_b1", 240, 240, 0.2, 0, 3, 2),
    "b2": PaperModel("tf_efficientnet_b2", 260, 260, 0.3, 6, 3, 2),
    "b3": PaperModel("tf_efficientnet_b3", 300, 300, 0.3, 12, 3, 2),
    "b4": PaperModel("tf_efficientnet_b4", 380, 380, 0.4, 15, 3, 2),
    "b5": PaperModel("tf_efficientnet_b5", 456, 456, 0.4, 18, 3, 1),
    "b6": PaperModel("tf_efficientnet_b6", 528, 528, 0.5, 24, 3, 1),
    "b7": PaperModel("tf_efficientnet_b7", 600, 600, 0.5, 27, 3, 1),
    # The paper's first two iterations of L2 have ratio 14, the third 28.
    "l2": PaperModel("tf_efficientnet_l2", 475, 800, 0.5, 27, 14, 1),
}


def crop_pct(size: int) -> float:
    """Share of the short side that the central crop keeps: a margin of 16 pixels all round (`CROP_PADDING`)."""
    return size / (size + 32)


def teacher_config(model: PaperModel, images: int, batch_size: int) -> TeacherConfig:
    """The first teacher: 350 epochs, which is how EfficientNets are trained on labels alone, with the student's
    noise (the paper retrained its baselines with RandAugment)."""
    return TeacherConfig(model=model.timm, **_training(model, images, batch_size, 1))


def student_config(model: PaperModel, images: int, batch_size: int) -> StudentConfig:
    """The student, from scratch on soft labels, with the loss that the official code weighs its decay against."""
    return StudentConfig(
        model=model.timm,
        ratio=model.ratio,
        labels="soft",
        temperature=1.0,
        loss="official",
        start="scratch",
        **_training(model, images, batch_size, model.train_ratio),
    )


def finetune_config(model: PaperModel, images: int, batch_size: int) -> FinetuneConfig:
    """1.5 epochs at test resolution, with the learning rates of the end of the student's schedule.

    The input noise is gone (`remove_aug`), dropout and stochastic depth stay.
    """
    whole = _training(model, images, batch_size, model.train_ratio)
    own = {
        "image_size": model.test_size,
        "crop_pct": crop_pct(model.test_size),
        "steps": _updates(FINETUNE_EPOCHS, images, batch_size),
        "schedule_steps": whole["steps"],
        "frozen_blocks": FINETUNE_FROZEN_GROUPS,
        "augmentation": FinetuneConfig().augmentation,
    }
    return FinetuneConfig(**whole | own)


def unfinetuned(student: StudentConfig) -> FinetuneConfig:
    """The stage for a student that the paper did not finetune: a run always has it.

    One update of the head at the last rate of the student's schedule, at the student's resolution; all seven
    groups of an EfficientNet's blocks stay as they are.
    """
    shared = {name: value for name, value in student if name in FinetuneConfig.model_fields}
    own = {
        "steps": 1,
        "epoch_steps": 1,
        "schedule_steps": student.steps,
        "frozen_blocks": 7,
        "stochastic_depth": 0.0,
        "augmentation": FinetuneConfig().augmentation,
    }
    return FinetuneConfig(**shared | own)


def _training(model: PaperModel, images: int, batch_size: int, train_ratio: int) -> dict[str, Any]:
    """The fields that all three stages have, for training from scratch at the training resolution."""
    epoch = images / batch_size
    return {
        "image_size": model.train_size,
        "crop_pct": crop_pct(model.train_size),
        "batch_size": batch_size,
        "steps": _updates(EPOCHS * train_ratio, images, batch_size),
        "epoch_steps": max(1, int(epoch)),
        "optimizer": "rmsproptf",
        "lr": LR_PER_256 * batch_size / 256,
        "momentum": 0.9,
        "opt_eps": 1e-3,
        "weight_decay": 1e-5,
        "decay_biases": True,
        "schedule": "staircase",
        "warmup_steps": int(WARMUP_EPOCHS * epoch),
        "decay_steps": DECAY_EPOCHS * train_ratio * epoch,
        "decay_rate": 0.97,
        "label_smoothing": 0.1,
        "ema_decay": 0.9999,
        "dropout": model.dropout,
        "stochastic_depth": 0.2,
        "bn_momentum": 0.01,
        "bn_eps": 1e-3,
        "augmentation": _noise(model.magnitude),
    }


def _noise(magnitude: float) -> Augmentation:
    """Random resized crop and flip, then two operations of the official set, whose movements are in pixels."""
    ops = 2 if magnitude else 0
    return Augmentation(
        min_area=0.08,
        max_area=1.0,
        hflip=0.5,
        randaugment_ops=ops,
        randaugment_set="official",
        randaugment_magnitude=magnitude,
    )


def _updates(epochs: float, images: int, batch_size: int) -> int:
    return max(1, int(epochs * images / batch_size))
