"""Noisy Student on CIFAR-10 with 4,000 labels: the usual split of semi-supervised learning.

    noisy-student run cifar10_4k --set data.root=FOLDER --set data.download=true

Data: 170 MB from https://www.cs.toronto.edu/~kriz/cifar.html, which torchvision fetches into `data.root`; without
`data.download` its `cifar-10-batches-py` has to lie there. 400 images a class keep their labels, 2,000 are the
holdout, the other 44,000 are the pool; the report is of the 10,000 test images.

Expected: not measured by us, and the paper has no CIFAR-10. The nearest published figures are of a reproduction with
5,000 labels and ResNets of 20 to 38 layers (github.com/lego0901/embedded-noisystudent): teacher 82.3 %, its three
students 86.4, 87.6 and 88.3 %; a network on all 50,000 labels 93.3 %. There the input noise was what counted: without
RandAugment 86.4 %, without any noise 84.6 %; dropout of 0.5 and stochastic depth cost small networks accuracy.

Cost: 93 million images of 32 pixels. Assumed, not measured: 5,000 a second on one GPU, 5 hours.

The small EfficientNets of the SVHN example, B0 teaching B0, B1 and B2. Threshold, temperature and balance follow
`digits`, where they were measured: with ten classes and label smoothing a teacher is seldom surer than 0.9.
"""

from typing import Any

from ns_core.config import Augmentation, DataConfig, Recipe, SelectConfig, StudentConfig, TeacherConfig
from ns_core.config.paper import unfinetuned

NOISE = Augmentation(
    min_area=1.0,
    max_area=1.0,
    hflip=0.5,
    pad=4,
    randaugment_ops=2,
    randaugment_magnitude=9.0,
    randaugment_interpolation="bilinear",
)

TRAINING: dict[str, Any] = {
    "model": "small_efficientnet_b0",
    "image_size": 32,
    "crop_pct": 1.0,
    "batch_size": 64,
    "optimizer": "sgd",
    "schedule": "cosine",
    "lr": 0.05,
    "warmup_steps": 500,
    "weight_decay": 5e-4,
    "decay_biases": False,
    "bn_momentum": 0.1,
    "ema_decay": 0.999,
    "dropout": 0.2,
    "stochastic_depth": 0.1,
    "augmentation": NOISE,
}


def cifar10_4k() -> Recipe:
    """CIFAR-10, 400 labels a class: small EfficientNet-B0 teaches B0, B1 and B2."""
    student = StudentConfig(**TRAINING, steps=60_000, epoch_steps=2_000, ratio=7, temperature=0.5)
    return Recipe(
        name="cifar10_4k",
        description="CIFAR-10 with 4,000 labels, three generations: set data.root; 93 million images of 32 pixels",
        generations=3,
        data=DataConfig(source="torchvision", dataset="cifar10", labels_per_class=400, holdout_images=2_000),
        teacher=TeacherConfig(**TRAINING, steps=20_000, epoch_steps=1_000),
        select=SelectConfig(threshold=0.6, per_class=4_400, max_copies=3),
        student=student,
        student_models=tuple(f"small_efficientnet_{size}" for size in ("b0", "b1", "b2")),
        finetune=unfinetuned(student),
    )
