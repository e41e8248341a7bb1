"""Labelling from JPEGs: ours beside timm's `inference.py`, same images, checkpoint and threads, on 2 cores.

    python -m benchmarks.infer                 about 12 minutes on 2 idle cores

EfficientNet-B0 at 224 pixels from JPEGs of 500 x 400, and at 32 pixels from thumbnails of 40 x 32. End to end, from
the files (timm) or the shards that `noisy-student prepare` made of them (ours) to a label for each image:

    timm_default       `inference.py` with its defaults (eager float32, batches of 256, two loader processes) on the CPU
    timm_tuned         the same with `--channels-last --amp --amp-dtype bfloat16 --batch-size 16` (256 at 32 pixels)
    float32            `Labeller` with two decoding threads and `fast_predictor`: BatchNorm folded, channels last
    bfloat16           the same in bfloat16
    compiled           the same by torch.compile; compiling is done before and told in seconds

The start of processes and the making of networks count on no side; the first batch's images do. Ours waits passively at
OpenMP's barriers, as every worker does; timm's script has torch's default. Then the networks alone, on pictures in
memory, without decoding: `network_*`, against timm's eager network without gradients.

Agreement is the share of images with the same most probable class. Of the network: the same pixels through the plain
network and the fast ones, over all images and over those labelled with a confidence of 0.3 or more, the recipe's
threshold. End to end: timm's file of labels beside ours, whose preprocessing differs (PIL's bicubic, cv2's
INTER_AREA). That teacher is untrained; `random_teacher` says how its labels come to mean something. Whether trained
ones keep their labels, `benchmarks.infer_agreement` tells.

The last line of standard output is one JSON object.
"""

import hashlib
import json
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ["OMP_WAIT_POLICY"] = "passive"  # before torch is loaded, as `launch.local` does for a worker

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks import timm_inference
from benchmarks.measure import Rates, Variant, environment, medians, ratio, rounds
from benchmarks.photographs import write_photographs
from benchmarks.prepared import files_of, prepare
from benchmarks.random_teacher import random_teacher
from benchmarks.timm_train import digest, script
from ns_core.data.image_source import ImageSource, eval_batches
from ns_core.data.index import DatasetIndex
from ns_core.data.pseudo_labels import softmax
from ns_core.data.reading import ShardReader
from ns_core.data.rows import rows_of
from ns_core.inference.labelling import Labeller, Pace
from ns_core.models.checkpoint import WEIGHTS, ModelCard, save_checkpoint
from ns_core.models.fast import fast_predictor
from ns_core.models.predict import Predictor, at_once, choose_device, set_threads

MODEL, WORKERS, CONFIDENT = "efficientnet_b0", 2, 0.3
CLASSES, TAUGHT = {224: 2, 32: 10}, {224: 160, 32: 640}
"""Two photographs, or ten places in them, and how many labelled pictures the teacher is made with."""
IMAGES = {224: 512, 32: 8192}
CROP_PCT = {224: 0.875, 32: 1.0}
ROUNDS, NETWORK_ROUNDS = 3, 5
OURS = {"float32": ("float32", False), "bfloat16": ("bfloat16", False), "compiled": ("bfloat16", True)}
FLOORS = {"bfloat16_over_timm_default": 2.0, "compiled_over_timm_default": 3.0}
AGREEMENT_FLOORS = {"float32": 1.0, "bfloat16_confident": 0.999}


class Setting:
    """One size: files, dataset, teacher and its predictors."""

    def __init__(self, folder: Path, size: int) -> None:
        self.size, self.batch = size, at_once(256, size)
        view = (size, CROP_PCT[size])
        write = write_photographs if size > 40 else _write_thumbnails
        write(folder / "labeled", TAUGHT[size], CLASSES[size], seed=1)
        self.files = write(folder / "unlabeled", IMAGES[size], 1, seed=2)
        plain = ["data.near_duplicates=false", "data.test_fraction=0.1", "data.holdout_fraction=0.1"]
        dataset = files_of(prepare(folder, folder / "home", *plain))
        index = DatasetIndex.load(dataset)
        pool, labelled = index.split("pool"), index.split("labeled")
        self.rows = rows_of(pool, np.zeros((len(pool), 0), np.float32))
        self.hashes = pool.sha256.tolist()
        self.source = ImageSource(ShardReader(dataset), 0)
        self.pixels = np.concatenate(list(eval_batches(self.source, self.rows, view, self.batch)))
        names = tuple(f"class{number}" for number in range(CLASSES[size]))
        card = ModelCard(model=MODEL, class_names=names, train_size=size, test_size=size, crop_pct=view[1], bn_eps=1e-5)
        taught = eval_batches(
            self.source, rows_of(labelled, np.zeros((len(labelled), 0), np.float32)), view, self.batch
        )
        network = random_teacher(card, np.concatenate(list(taught)), labelled.labels)
        self.checkpoint = folder / "teacher"
        self.checkpoint.mkdir()
        save_checkpoint(self.checkpoint, network, card)
        device = choose_device("cpu")
        self.plain = Predictor(network, card, device)
        self.labellers, self.compile_seconds = dict[str, Labeller](), 0.0
        for name, (precision, compiled) in OURS.items():
            predictor = fast_predictor(network, card, device, precision, compiled)
            began = time.perf_counter()
            self.labellers[name] = Labeller(self.source, predictor, view, self.batch, WORKERS)
            if compiled:
                self.compile_seconds = round(time.perf_counter() - began, 1)
        self.labels: dict[str, dict[str, int]] = {}
        """Variant -> sha256 of a file -> class."""
        self.paces: dict[str, Pace] = {}

    def end_to_end(self) -> dict[str, Variant]:
        batch = ("--batch-size", str(16 if self.size > 128 else 256))
        tuned = ("--channels-last", "--amp", "--amp-dtype", "bfloat16", *batch)
        timms: dict[str, Variant] = {
            "timm_default": lambda: self._timm("timm_default"),
            "timm_tuned": lambda: self._timm("timm_tuned", *tuned),
        }
        return {**timms, **{name: self._ours(name) for name in self.labellers}}

    def networks(self) -> dict[str, Variant]:
        """Of pictures in memory: enough for a second or so."""
        pixels = self.pixels[: 2 * self.batch if self.size > 128 else 8 * self.batch]
        eager = timm.create_model(
            MODEL, num_classes=CLASSES[self.size], checkpoint_path=self.checkpoint / WEIGHTS
        ).eval()
        images = self.plain.normalize(torch.from_numpy(pixels)).contiguous()

        def network_timm() -> tuple[int, float]:
            began = time.perf_counter()
            with torch.inference_mode():
                for first in range(0, len(images), self.batch):
                    eager(images[first : first + self.batch])
            return len(images), time.perf_counter() - began

        ours = {
            f"network_{name}": _predicting(one.predictor, pixels, self.batch) for name, one in self.labellers.items()
        }
        return {"network_timm": network_timm, **ours}

    def agreement(self) -> dict[str, float]:
        """Shares, 0..1."""
        parts = [self.pixels[first : first + self.batch] for first in range(0, len(self.pixels), self.batch)]
        wanted = np.concatenate([self.plain.logits(part) for part in parts])
        confident = softmax(wanted).max(axis=1) >= CONFIDENT
        found = {"confident_images": float(confident.mean()), "classes_seen": float(len(set(wanted.argmax(axis=1))))}
        for name, labeller in self.labellers.items():
            logits = np.concatenate([labeller.predictor.logits(part) for part in parts])
            same = logits.argmax(axis=1) == wanted.argmax(axis=1)
            found |= {name: float(same.mean()), f"{name}_confident": float(same[confident].mean())}
            found[f"{name}_largest_difference"] = float(np.abs(logits - wanted).max() / np.abs(wanted).max())
            theirs, ours = self.labels["timm_default"], self.labels[name]
            found[f"{name}_end_to_end"] = float(np.mean([theirs[sha] == label for sha, label in ours.items()]))
        return {name: round(value, 5) for name, value in found.items()}

    def _timm(self, name: str, *flags: str) -> tuple[int, float]:
        side = ("--img-size", str(self.size), "--crop-pct", str(CROP_PCT[self.size]))
        checkpoint = ("--checkpoint", str(self.checkpoint / WEIGHTS), "--num-classes", str(CLASSES[self.size]))
        run = timm_inference.run([str(self.files), "--model", MODEL, "--fullname", *side, *checkpoint, *flags])
        assert len(run.labels) == IMAGES[self.size], len(run.labels)
        self.labels[name] = {
            hashlib.sha256((self.files / file).read_bytes()).hexdigest(): label for file, label in run.labels.items()
        }
        return len(run.labels), run.seconds

    def _ours(self, name: str) -> Variant:
        def variant() -> tuple[int, float]:
            labeller = self.labellers[name]
            before = labeller.pace
            labelled = labeller.label(self.rows)
            assert not labelled.unreadable, labelled.unreadable
            self.labels[name] = dict(zip(self.hashes, labelled.logits.argmax(axis=1).tolist(), strict=True))
            self.paces[name] = labeller.pace.since(before)
            return self.paces[name].images, self.paces[name].seconds

        return variant


def main() -> None:
    """Makes images, datasets and teachers, measures both sizes, prints."""
    warnings.filterwarnings("ignore")
    peer = script("inference")
    set_threads(0)
    ratios, figures = dict[str, object](), dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="infer-") as name:
        for size in IMAGES:
            setting = Setting(Path(name) / str(size), size)
            rates = {**rounds(setting.end_to_end(), ROUNDS), **rounds(setting.networks(), NETWORK_ROUNDS)}
            ratios |= {f"{name}_at_{size}": value for name, value in _ratios(rates).items()}
            figures[f"at_{size}"] = {
                "images_per_second": medians(rates),
                "agreement": setting.agreement(),
                "compile_seconds": setting.compile_seconds,
                "data_wait": {name: round(pace.data_wait, 3) for name, pace in setting.paces.items()},
                "decoding_is_the_bound": {name: pace.decode_bound for name, pace in setting.paces.items()},
            }
    figures |= {"floors_at_both_sizes": FLOORS, "agreement_floors": AGREEMENT_FLOORS}
    figures["timm_script_sha256"] = digest(peer)
    packages = ("timm", "torch", "torchvision", "pillow", "opencv-python-headless", "simplejpeg")
    answer = {"benchmark": "infer", "ratios": ratios, "figures": figures, "environment": environment(*packages)}
    print(json.dumps(answer))


def _predicting(predictor: Predictor, pixels: NDArray[np.uint8], batch: int) -> Variant:
    def variant() -> tuple[int, float]:
        began = time.perf_counter()
        for first in range(0, len(pixels), batch):
            predictor.logits(pixels[first : first + batch])
        return len(pixels), time.perf_counter() - began

    return variant


def _ratios(rates: Rates) -> dict[str, object]:
    peers = ("timm_default", "timm_tuned")
    whole = {f"{name}_over_{peer}": ratio(rates[name], rates[peer]) for peer in peers for name in OURS}
    alone = {f"network_{name}_over_timm": ratio(rates[f"network_{name}"], rates["network_timm"]) for name in OURS}
    return {**whole, **alone}


def _write_thumbnails(root: Path, count: int, classes: int, seed: int = 0) -> Path:
    """Ten places of 160 x 128 pixels cut out of photographs, each moved by up to 6, at 40 x 32; about 1.3 kB each."""
    rng, places = np.random.default_rng(seed), np.random.default_rng(0).integers(6, (274, 234), (10, 2))
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for number in range(count):
        left, top = (int(edge) for edge in places[number % 10] + rng.integers(-6, 7, 2))
        cut = photographs[number % 10 % 2].crop((left, top, left + 160, top + 128))
        path = root / f"class{number % classes:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cut.resize((40, 32)).save(path, quality=90)
    return root


if __name__ == "__main__":
    main()
