"""Whether the fast ways of computing a trained network keep its labels: those of the demo, teacher and students.

    python -m benchmarks.infer_agreement        about 3 minutes on 2 cores

The recipe `digits` is run in an empty store; then each of its checkpoints labels the pool of 1,047 images as it stands,
and by `fast_predictor` in float32 (BatchNorm folded) and in bfloat16. Shares of equal labels, 0..1: of all images, and
of those that the network as it stands gives a confidence of 0.3 or more. The last line of standard output is one JSON
object.
"""

import json
import os
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "2"

import numpy as np

from benchmarks.digits_gain import run
from benchmarks.measure import environment
from benchmarks.prepared import files_of
from ns_core.data.image_source import ImageSource, eval_batches
from ns_core.data.index import DatasetIndex
from ns_core.data.pseudo_labels import softmax
from ns_core.data.reading import ShardReader
from ns_core.data.rows import rows_of
from ns_core.models.checkpoint import load_checkpoint
from ns_core.models.fast import fast_predictor
from ns_core.models.predict import Predictor, choose_device

SEED, BATCH, CONFIDENT = 11, 256, 0.3
TRAINING = ("train-teacher", "train-noisy-student", "finetune-at-test-resolution")
FLOORS = {"float32": 1.0, "bfloat16_confident": 0.999}


def agreement(checkpoint: Path, dataset: Path) -> dict[str, float]:
    """Of one network."""
    network, card = load_checkpoint(checkpoint)
    pool, device = DatasetIndex.load(dataset).split("pool"), choose_device("cpu")
    rows = rows_of(pool, np.zeros((len(pool), 0), np.float32))
    batches = list(eval_batches(ImageSource(ShardReader(dataset)), rows, (card.test_size, card.crop_pct), BATCH))
    wanted = np.concatenate([Predictor(network, card, device).logits(batch) for batch in batches])
    sure = softmax(wanted).max(axis=1) >= CONFIDENT
    found = {"images": float(len(pool)), "confident_images": float(sure.sum())}
    for precision in ("float32", "bfloat16"):
        predictor = fast_predictor(network, card, device, precision)
        logits = np.concatenate([predictor.logits(batch) for batch in batches])
        same = logits.argmax(axis=1) == wanted.argmax(axis=1)
        found |= {precision: float(same.mean()), f"{precision}_confident": float(same[sure].mean())}
        found[f"{precision}_largest_difference"] = float(np.abs(logits - wanted).max() / np.abs(wanted).max())
    return {name: float(f"{value:.5g}") for name, value in found.items()}


def main() -> None:
    """Runs the demo, compares, prints."""
    with tempfile.TemporaryDirectory(prefix="infer-agreement-") as name:
        stages = run("digits", SEED, Path(name))["stages"]
        (dataset,) = (files_of(stage["uri"]) for stage in stages if stage["stage"] == "prepare-dataset")
        networks = {
            f"{stage['stage']}-g{stage['generation']}": agreement(files_of(stage["uri"]), dataset)
            for stage in stages
            if stage["stage"] in TRAINING
        }
    figures = {"networks": networks, "confidence": CONFIDENT, "floors": FLOORS}
    answer = {
        "benchmark": "infer_agreement",
        "ratios": {},
        "figures": figures,
        "environment": environment("torch", "timm"),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
