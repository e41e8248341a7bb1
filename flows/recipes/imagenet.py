"""Noisy Student on ImageNet, as the paper has it.

    noisy-student run imagenet --set data.labeled=IMAGENET --set data.unlabeled=POOL
    noisy-student run imagenet_b0 --set data.labeled=IMAGENET --set data.unlabeled=POOL

`data.labeled` is ImageNet's root as it is handed out (docs/DATA.md), `data.unlabeled` a folder of millions of
images; the paper had 300 million, of which its rule kept 81 million. A student L2 sees 2,048 labelled and 28,672
pseudo-labelled images of 475 pixels in each of 218,949 updates, 6.7 billion in all, and took the paper six days on
a TPU v3 pod of 2,048 cores; there are three. `imagenet_b0` is the method for a machine with a few GPUs: 2.2 billion
images of 224 pixels through the smallest network, teacher and student together.

Top-1 on ImageNet's validation set, in the paper: B7 85.0, then L2 87.6, 88.1 and 88.4; B0 77.3 on labels alone and
78.1 taught by itself.

What differs from the paper:

* Its third iteration has 28 pseudo-labelled images for each labelled one. `student.ratio` is one for all
  generations, 14.
* The B0 that selects is trained as the first teacher is, at its 600 pixels and with its noise; of the paper's it is
  only known that it is a B0.
* A class gets exactly its most confident images, where the official code draws from those above the edge of a bin
  (`select.rule=official` does so too), and of equal files one counts.
* A holdout of 2 % of the training images, which nothing is trained on, decides whether a student becomes the
  teacher. The paper chose on the validation set itself.
* The groups of blocks that finetuning freezes are our choice (`ns_core.config.paper`).

The B0 labels the pool once. What it selects is copied into shards of its own, and the teacher of each iteration labels
that anew with all 1,000 probabilities: 162 GB for 81 million images, for which the student wants room in NS_CACHE.
`infer.top_k=10` makes that 4 GB.

`accumulation` (a divisor of 2048; BatchNorm then sees one micro-batch at a time) and `recompute_groups`, in
`teacher`, `student` and `finetune`, bound the memory.
"""

from ns_core.config import DataConfig, Recipe, SelectConfig
from ns_core.config.paper import (
    IMAGENET_IMAGES,
    MODELS,
    finetune_config,
    student_config,
    teacher_config,
    unfinetuned,
)

BATCH = 2048
"""Labelled images an update; the paper found 512 and 1,024 as good."""

PRECISION = [f"{stage}.precision=bfloat16" for stage in ("teacher", "student", "finetune")]
"""The default of the official code."""

DATA = DataConfig(source="imagenet", holdout_fraction=0.02)
"""The holdout has about 25,600 images (official EfficientNet code: 25,022)."""

SELECT = SelectConfig(threshold=0.3, per_class=130_000, max_copies=130_000, materialize=True)
"""Short classes are repeated without limit, as in the official code. What is selected lies together, for `imagenet_b0`
to read it seven times and each student of `imagenet` 48 times; in sequence with `student.window_shards`."""


def imagenet() -> Recipe:
    """The paper's three iterations: B7 teaches an L2, which teaches the next, and that one the last."""
    return Recipe(
        name="imagenet",
        description="the paper: ImageNet and a pool of millions, B7 to L2 in three steps of 6.7 billion images each",
        generations=3,
        data=DATA,
        teacher=teacher_config(MODELS["b7"], IMAGENET_IMAGES, BATCH),
        select=SELECT,
        selection="once",
        selector=MODELS["b0"].timm,
        student=student_config(MODELS["l2"], IMAGENET_IMAGES, BATCH),
        finetune=finetune_config(MODELS["l2"], IMAGENET_IMAGES, BATCH),
    ).override(PRECISION)


def imagenet_b0() -> Recipe:
    """One generation at equal size: B0, 350 epochs on labels alone, teaches B0 for 700 at ratio 1."""
    student = student_config(MODELS["b0"], IMAGENET_IMAGES, BATCH)
    return Recipe(
        name="imagenet_b0",
        description="ImageNet and a pool of millions, B0 teaches B0 once; 2.2 billion images of 224 pixels",
        generations=1,
        data=DATA,
        teacher=teacher_config(MODELS["b0"], IMAGENET_IMAGES, BATCH),
        select=SELECT,
        student=student,
        finetune=unfinetuned(student),
    ).override(PRECISION)
