"""Noisy Student on your own images: a folder with one folder a class, and a folder of unlabelled ones.

    noisy-student run folder --set data.labeled=photos/labeled --set data.unlabeled=photos/pool

Data: your own; the pool's may lie at any depth. Lists and shards do as well, with `data.source` (docs/DATA.md). 15 %
of the labelled images become the holdout and as many the test split, unless `data.holdout` and `data.test` name others.

Three sizes, by how many images have a label; the pool should be some times larger:

    recipe          labelled images      teacher; students   pixels   images seen   assumed hours
    folder_small    up to about 2,000    B0; B0, B0             128   1.1 million             0.4
    folder          up to about 50,000   B0; B0, B2             128   2.8 million               1
    folder_large    more                 B0; B2, B4             224    46 million              32

The hours are of one GPU, assumed and not measured: 800 images a second at 128 pixels, 400 at 224; `noisy-student plan`
says it for your machine. What to expect depends on your images: the gate compares each student with its teacher on the
holdout, and keeps the teacher where it is not better.

Then look at the selection's page before you believe it, and set `select.threshold` and `select.per_class` by it.
"""

from typing import Any

from ns_core.config import DataConfig, FinetuneConfig, Recipe, SelectConfig, StudentConfig, TeacherConfig

SHORT = {
    "image_size": 128,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.02,
    "opt_eps": 1e-8,
    "schedule": "cosine",
    "warmup_steps": 200,
    "bn_momentum": 0.1,
    "ema_decay": 0.999,
}

LONG: dict[str, Any] = SHORT | {"image_size": 224, "warmup_steps": 2000, "ema_decay": 0.9995, "precision": "bfloat16"}


def folder() -> Recipe:
    """Your own folders (data.labeled, data.unlabeled), EfficientNet-B0 to B2 at 128 pixels, two generations."""
    return Recipe(
        name="folder",
        description="your own folders: set data.labeled and data.unlabeled",
        generations=2,
        data=DataConfig(source="folder"),
        teacher=TeacherConfig(model="efficientnet_b0", batch_size=64, steps=4000, epoch_steps=200, **SHORT),
        select=SelectConfig(threshold=0.5, per_class=1000, max_copies=5),
        student=StudentConfig(model="efficientnet_b0", batch_size=32, ratio=4, steps=8000, epoch_steps=200, **SHORT),
        student_models=("efficientnet_b0", "efficientnet_b2"),
        finetune=FinetuneConfig(
            **SHORT | {"image_size": 160, "lr": 1e-4, "warmup_steps": 0, "ema_decay": 0.99},
            batch_size=64,
            steps=100,
            epoch_steps=50,
            frozen_blocks=3,
        ),
    )


def folder_small() -> Recipe:
    """Up to about 2,000 labelled images: shorter, fewer images a class, and students of the teacher's size."""
    return folder().override(
        [
            "name=folder_small",
            "description=your own folders, up to about 2,000 labelled images: set data.labeled and data.unlabeled",
            "teacher.batch_size=32",
            "teacher.steps=2000",
            "teacher.epoch_steps=100",
            "select.per_class=300",
            "student.batch_size=16",
            "student.ratio=7",
            "student.steps=4000",
            "student.epoch_steps=100",
            'student_models=["efficientnet_b0"]',
            "finetune.batch_size=32",
            "finetune.steps=50",
            "finetune.epoch_steps=25",
        ]
    )


def folder_large() -> Recipe:
    """From about 50,000 labelled images: 224 pixels, B0 teaches B2 and that B4, with what is selected in shards."""
    return Recipe(
        name="folder_large",
        description="your own folders, from about 50,000 labelled images: set data.labeled and data.unlabeled",
        generations=2,
        data=DataConfig(source="folder", holdout_fraction=0.05, test_fraction=0.05),
        teacher=TeacherConfig(model="efficientnet_b0", batch_size=256, steps=30_000, epoch_steps=1000, **LONG),
        select=SelectConfig(threshold=0.4, per_class=10_000, max_copies=5, materialize=True),
        student=StudentConfig(model="efficientnet_b2", batch_size=128, ratio=4, steps=30_000, epoch_steps=1000, **LONG),
        student_models=("efficientnet_b2", "efficientnet_b4"),
        finetune=FinetuneConfig(
            **LONG | {"image_size": 288, "lr": 1e-4, "warmup_steps": 0, "ema_decay": 0.99},
            batch_size=128,
            steps=1000,
            epoch_steps=250,
            frozen_blocks=3,
        ),
    )
