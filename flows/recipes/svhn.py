"""The SVHN example of the official code: a small EfficientNet-B0 teaches its like from 531,131 extra images.

    noisy-student run svhn --set data.root=FOLDER --set data.download=true

Data: 1.6 GB from http://ufldl.stanford.edu/housenumbers, which torchvision fetches into `data.root`; without
`data.download` its three `*_32x32.mat` have to lie there.

google-research/noisystudent, `local_scripts/run_svhn.sh` and `preprocessing.py`. Student: 109,474 updates of 128
labelled and 640 pseudo-labelled images of 32 pixels. The example downloads a teacher; this one trains it, with the
student's settings on labels alone, 14 million images against the student's 84 million.

Expected: 97.9 % for the teacher and 98.6 +- 0.1 % for the student on the test images (README of the official code);
not measured by us.

Cost: 98 million images. Assumed, not measured: 5,000 a second on one GPU, 5.5 hours.

What differs from the example, because no setting says it:

* After RandAugment the example cuts a grey square of 16 pixels out of every image.
* It shifts after RandAugment, by the padded crop; here the shift comes first.
* It scales pixels by SVHN's own mean and deviation, here they are ImageNet's.
* Its 4,000 holdout images are drawn from all 73,257; here they are spread evenly over the classes, and what
  the leak guard finds to be a copy of a holdout or test image is not trained on.

Of the two ways of the example, with the teacher on the fly or with labels stored first, this is the second: labels
are chosen by the official rule, a threshold at the edge of a bin and the expected number of copies, whose draws are
seeded here; equal images all count.
"""

from math import log
from typing import Any

from ns_core.config import Augmentation, DataConfig, Recipe, SelectConfig, StudentConfig, TeacherConfig
from ns_core.config.paper import LR_PER_256, WARMUP_EPOCHS, unfinetuned

IMAGES = 69_257
"""Labelled: the 73,257 of `train` without 4,000 for the holdout."""
BATCH = 128
STEPS = 109_474
EPOCH = IMAGES / BATCH
FINAL_LR_PER_256 = 0.0002
STAIRS = log(FINAL_LR_PER_256 / LR_PER_256) / log(0.97)
"""From the first learning rate to the last (`final_base_lr`)."""
DECAY_STEPS = (STEPS / EPOCH - WARMUP_EPOCHS) / STAIRS * EPOCH
"""Stairs of 1.37 epochs: they are sized for the epochs after the warm-up, though counted from update 0."""

NOISE = Augmentation(
    min_area=1.0,
    max_area=1.0,
    hflip=0.0,
    pad=4,
    randaugment_ops=2,
    randaugment_set="official",
    randaugment_magnitude=5.0,
    randaugment_translate=4.0,
    randaugment_cutout=4.0,
)
"""No crops and no flips: a mirrored 2 is no digit."""

TRAINING: dict[str, Any] = {
    "model": "small_efficientnet_b0",
    "image_size": 32,
    "crop_pct": 1.0,
    "batch_size": BATCH,
    "steps": STEPS,
    "epoch_steps": round(EPOCH),
    "lr": LR_PER_256 * BATCH / 256,
    "weight_decay": 1e-4,
    "warmup_steps": int(WARMUP_EPOCHS * EPOCH),
    "decay_steps": DECAY_STEPS,
    "augmentation": NOISE,
}
"""What is not here is the official code's by default: RMSProp, averages, dropout and stochastic depth of 0.2."""


def svhn() -> Recipe:
    """The official SVHN example: small EfficientNet-B0, ratio 5, one generation of equal size."""
    student = StudentConfig(**TRAINING, ratio=5, loss="official")
    return Recipe(
        name="svhn",
        description="the official SVHN example: set data.root; 98 million images of 32 pixels, one GPU",
        generations=1,
        data=DataConfig(source="torchvision", dataset="svhn", labels_per_class=0, holdout_images=4_000),
        teacher=TeacherConfig(**TRAINING),
        select=SelectConfig(threshold=0.3, rule="official", per_class=53_113, max_copies=53_113, duplicates="keep"),
        student=student,
        finetune=unfinetuned(student),
    )
