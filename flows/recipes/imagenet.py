"""Noisy Student on ImageNet: EfficientNet-B0 to B7, each taught by its own size, and the paper's chain up to L2.

    noisy-student run imagenet_b3 --set data.labeled=IMAGENET --set data.unlabeled=POOL
    noisy-student run imagenet_l2 --set data.labeled=IMAGENET --set data.unlabeled=POOL

Data: `data.labeled` is ImageNet's root as https://image-net.org hands it out after registration (docs/DATA.md).
`data.unlabeled` is a folder of millions of images, your own: the paper's 300 million, of which its rule kept 81
million, are not public.

Top-1 on ImageNet's validation set in the paper (table of B0 to B7, "teacher: same architecture, no iteration"), and
what a run takes: the images that teacher and student see, and days of one GPU. The days are assumed, not measured:
6 operations for each multiply-add of Tan and Le 2019, table 2, at 10 TFLOP/s; `noisy-student plan` says it for a
machine.

    recipe        labels alone  noisy student   pixels   billion images   GPU days
    imagenet_b0           77.3           78.1      224              2.2          6
    imagenet_b1           79.2           80.2      240              4.0         20
    imagenet_b2           80.0           81.1      260              4.0         28
    imagenet_b3           81.7           82.5      300              4.0         50
    imagenet_b4           83.2           84.4      380              4.0        118
    imagenet_b5           84.0           85.0      456              2.2        154
    imagenet_b6           84.5           85.6      528              2.2        296
    imagenet_b7           85.0           85.9      600              2.2        576

`imagenet_l2`: B7 teaches L2, L2 the next, and that one the last, with 14, 14 and 28 pseudo-labelled images for each
labelled one; in the paper 85.0, then 87.6, 88.1 and 88.4 (table of iterations). The students see 6.7, 6.7 and 13.0
billion images of 475 pixels in 218,949 updates each; one at 14:1 took the paper six days on a TPU v3 pod of 2,048
cores.

What differs from the paper:

* The B0 that selects for L2 is trained as the first teacher is, at its 600 pixels and with its noise; of the paper's
  it is only known that it is a B0. With B0 to B7 the teacher selects.
* A class gets exactly its most confident images, where the official code draws from those above the edge of a bin
  (`select.rule=official` does so too), and of equal files one counts.
* A holdout of 2 % of the training images, which nothing is trained on, decides whether a student becomes the
  teacher. The paper chose on the validation set itself.
* The groups of blocks that finetuning freezes are our choice (`ns_core.config.paper`).

The pool is labelled once. What is selected is copied into shards of its own, and for L2 the teacher of each iteration
labels that anew with all 1,000 probabilities: 162 GB for 81 million images, for which the student wants room in
NS_CACHE. `infer.top_k=10` makes that 4 GB.

`accumulation` (a divisor of 2048; BatchNorm then sees one micro-batch at a time) and `recompute_groups`, in
`teacher`, `student` and `finetune`, bound the memory.
"""

from collections.abc import Callable
from functools import partial

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
to read it seven times and each student of L2 48 times and more; in sequence with `student.window_shards`."""

RATIOS = (14, 14, 28)
"""Of the three students L2 (paper, table of iterations)."""


def imagenet_l2() -> Recipe:
    """The paper's three iterations: B7 teaches an L2, which teaches the next, and that one the last."""
    return Recipe(
        name="imagenet_l2",
        description="the paper: ImageNet and a pool of millions, B7 to L2 in three steps, 27 billion images",
        generations=3,
        data=DATA,
        teacher=teacher_config(MODELS["b7"], IMAGENET_IMAGES, BATCH),
        select=SELECT,
        selection="once",
        selector=MODELS["b0"].timm,
        student=student_config(MODELS["l2"], IMAGENET_IMAGES, BATCH),
        student_ratios=RATIOS,
        finetune=finetune_config(MODELS["l2"], IMAGENET_IMAGES, BATCH),
    ).override(PRECISION)


def _equal_size(size: str) -> Recipe:
    """One generation: 350 epochs on labels alone, then a student of the same network, 700 epochs up to B4."""
    student = student_config(MODELS[size], IMAGENET_IMAGES, BATCH)
    teacher = teacher_config(MODELS[size], IMAGENET_IMAGES, BATCH)
    images = BATCH * (teacher.steps + student.steps * (1 + student.ratio)) / 1e9
    named, pixels = size.upper(), student.image_size
    return Recipe(
        name=f"imagenet_{size}",
        description=f"ImageNet and a pool of millions, {named} teaches {named} once; {images:.1f} billion images of "
        f"{pixels} pixels",
        generations=1,
        data=DATA,
        teacher=teacher,
        select=SELECT,
        student=student,
        finetune=unfinetuned(student),
    ).override(PRECISION)


EQUAL_SIZE: dict[str, Callable[[], Recipe]] = {
    f"imagenet_{size}": partial(_equal_size, size) for size in MODELS if size != "l2"
}
"""`imagenet_b0` to `imagenet_b7`."""
