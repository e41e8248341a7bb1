"""Training from JPEGs: our trainer beside timm's `train.py`, same images, model, batch and precision, on 2 cores.

    python -m benchmarks.train_throughput      about 8 minutes on 2 idle cores

End to end, EfficientNet-B0 at 64 pixels, batches of 128 (timm's default), float32, from JPEGs of 500 x 400 pixels to
updated weights:

    timm_default       `train.py` with its defaults (random resized crop, flip, color jitter) and `--device cpu`
    timm_best          the same with the flags for the CPU that did best of `FLAGS`, each tried once before
    ours               `Trainer` on a dataset that `noisy-student prepare` made of the same files; random resized crop,
                       flip, RandAugment (two operations at magnitude 9), and the average of the weights, which is
                       always kept; timm's average is off by default
    in_memory          our step on batches that were made before

Against timm's defaults ours does more to an image than timm (RandAugment, not color jitter), not less. SGD with
Nesterov momentum, label smoothing 0.1, no dropout on both sides. Start-up and the first updates count on no side
(`timm_train` and `our_train` say how); each side has both cores and sets its own threads and processes. Ours waits
passively at OpenMP's barriers, as every worker does; timm's script has torch's default.

Then the bare step (`bare_step`) of EfficientNet-B0 at 32 pixels, batch 128, ours beside eager PyTorch's, after an
assertion that both compute the same. Not among `FLAGS`: `--amp` is another precision; `--torchcompile` compiles
this network for minutes on two cores and then gains 2 % at most.

The last line of standard output is one JSON object.
"""

import json
import os
import tempfile
import warnings
from pathlib import Path
from statistics import median

os.environ["OMP_WAIT_POLICY"] = "passive"  # before torch is loaded, as `launch.local` does for a worker

from benchmarks import bare_step, timm_train
from benchmarks.measure import Rates, Variant, environment, medians, ratio, rounds
from benchmarks.our_train import OurTraining, teacher
from benchmarks.photographs import write_photographs
from benchmarks.prepared import files_of, prepare
from benchmarks.timm_train import Pace, Window
from ns_core.models.predict import set_threads

MODEL, SIZE, BATCH, CLASSES = "efficientnet_b0", 64, 128, 8
IMAGES, POOL = 5120, 64
ROUNDS, STEP_ROUNDS, STEP_UPDATES = 3, 5, 4
WINDOW, TRIAL = Window(4, 20), Window(3, 9)
LOADER_WORKERS = 2
FLAGS = (
    "--channels-last",
    "--channels-last --workers 2",
    "--channels-last --workers 1",
    "--channels-last --workers 2 --no-prefetcher",
    "--channels-last --workers 2 --torchscript",
)
"""Tried once each. Memory is pinned only when asked for; the other flags are for GPUs or change the result."""
FLOORS = {
    "ours_over_timm_default": 2.0,
    "ours_over_timm_best": 1.3,
    "ours_over_in_memory": 0.9,
    "bare_step_over_eager": 2.4,
}
DATA_WAIT_CEILING = 0.05


class EndToEnd:
    """The runs that train from the JPEGs, and what they waited for data."""

    def __init__(self, images: Path, ours: OurTraining) -> None:
        self.ours = ours
        self.waits: dict[str, list[float]] = {}
        self._common = [str(images), "--val-split", "", "--device", "cpu", "--model", MODEL]
        self._common += ["--num-classes", str(CLASSES), "--img-size", str(SIZE), "--batch-size", str(BATCH)]

    def best_flags(self) -> tuple[str, dict[str, float]]:
        """Of `FLAGS`, and the images a second of all."""
        rates = {}
        for flags in FLAGS:
            pace = timm_train.run([*self._common, *flags.split()], TRIAL)
            rates[flags] = round(_images(TRIAL) / pace.seconds, 1)
        return max(rates, key=rates.__getitem__), rates

    def variants(self, best: str) -> dict[str, Variant]:
        flags = best.split()
        return {
            "timm_default": self._timm("timm_default"),
            "timm_best": self._timm("timm_best", *flags),
            "ours": lambda: self._noted("ours", self.ours.end_to_end(WINDOW)),
            "in_memory": lambda: self._noted("in_memory", self.ours.in_memory(WINDOW)),
        }

    def _timm(self, name: str, *flags: str) -> Variant:
        return lambda: self._noted(name, timm_train.run([*self._common, *flags], WINDOW))

    def _noted(self, name: str, pace: Pace) -> tuple[int, float]:
        self.waits.setdefault(name, []).append(pace.waited)
        return _images(WINDOW), pace.seconds


def main() -> None:
    """Makes the images and the dataset, tries timm's flags, measures, prints."""
    warnings.filterwarnings("ignore")
    script = timm_train.script()
    with tempfile.TemporaryDirectory(prefix="train-throughput-") as name:
        folder = Path(name)
        write_photographs(folder / "images" / "labeled", IMAGES, CLASSES, seed=1)
        write_photographs(folder / "images" / "unlabeled", POOL, CLASSES, seed=2)
        plain = ["data.near_duplicates=false", "data.test_fraction=0.02", "data.holdout_fraction=0.02"]
        dataset = files_of(prepare(folder / "images", folder / "home", *plain))
        ours = OurTraining(dataset, folder / "runs", teacher(MODEL, SIZE, BATCH), LOADER_WORKERS)
        trained = EndToEnd(folder / "images" / "labeled", ours)
        flags, tried = trained.best_flags()
        rates = rounds(trained.variants(flags), ROUNDS)
    same, steps = _bare_steps()
    waits = {name: round(median(values), 4) for name, values in trained.waits.items() if name != "in_memory"}
    figures = {
        "images_per_second": {**medians(rates), **medians(steps)},
        "data_wait": waits,
        "data_wait_ceiling": DATA_WAIT_CEILING,
        "timm_best_flags": flags,
        "timm_flags_tried_images_per_second": tried,
        "timm_script_sha256": timm_train.digest(script),
        "bare_step_differences": same,
        "floors": FLOORS,
    }
    packages = ("timm", "torch", "torchvision", "pillow", "opencv-python-headless", "simplejpeg")
    answer = {"benchmark": "train_throughput", "ratios": _ratios(rates, steps), "figures": figures}
    print(json.dumps({**answer, "environment": environment(*packages)}))


def _bare_steps() -> tuple[dict[str, float], Rates]:
    set_threads(0)
    same = bare_step.assert_same()
    ours, eager = bare_step.sides()
    works: dict[str, Variant] = {
        "bare_step": lambda: ours.timed(STEP_UPDATES),
        "bare_step_eager": lambda: eager.timed(STEP_UPDATES),
    }
    return same, rounds(works, STEP_ROUNDS)


def _ratios(rates: Rates, steps: Rates) -> dict[str, object]:
    peers = [name for name in rates if name.startswith("timm")]
    return {
        **{f"ours_over_{peer}": ratio(rates["ours"], rates[peer]) for peer in peers},
        "ours_over_in_memory": ratio(rates["ours"], rates["in_memory"]),
        "bare_step_over_eager": ratio(steps["bare_step"], steps["bare_step_eager"]),
    }


def _images(window: Window) -> int:
    return BATCH * (window.stop - window.first)


if __name__ == "__main__":
    main()
