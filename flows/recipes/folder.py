"""Noisy Student on your own images: a folder with one folder a class, and a folder of unlabelled ones.

    noisy-student run folder --set data.labeled=photos/labeled --set data.unlabeled=photos/pool

Starts small: EfficientNet-B0 teaches B0, then B2, at 128 pixels, scaled for some thousand images and one GPU.
"""

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
