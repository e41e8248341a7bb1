"""What `noisy-student plan` says of memory against what training takes: EfficientNet-L2 at 475 pixels, and smaller.

    python -m benchmarks.l2_step               about 6 minutes on 2 cores, with 16 GB of free memory
    python -m benchmarks.l2_step b0 resnet50   only the cases whose names begin so

Each case is a process of its own that makes two updates as the trainer makes them (RMSProp, moving average, noise)
on random pixels: the second finds the optimiser's state, as all later ones do. Measured is the peak of its resident
memory. A case for which there is not enough memory is left out, and named. The last line of standard output is one
JSON object; a ratio is the estimate over the measured peak, and 1 is best.
"""

import json
import resource
import subprocess
import sys
import time
from typing import Any

import psutil

from benchmarks.measure import environment

CLASSES = 1000
UPDATES = 2
CASES: dict[str, dict[str, Any]] = {
    "l2_475_recomputed": {"model": "tf_efficientnet_l2", "image_size": 475, "batch_size": 1, "recompute_groups": 5},
    "b0_224": {"model": "efficientnet_b0", "image_size": 224, "batch_size": 16},
    "b0_224_accumulated": {"model": "efficientnet_b0", "image_size": 224, "batch_size": 32, "accumulation": 2},
    "b0_224_recomputed": {"model": "efficientnet_b0", "image_size": 224, "batch_size": 16, "recompute_groups": 3},
    "b4_380": {"model": "efficientnet_b4", "image_size": 380, "batch_size": 4},
    "b4_380_recomputed": {"model": "efficientnet_b4", "image_size": 380, "batch_size": 4, "recompute_groups": 3},
    "resnet50_224": {"model": "resnet50", "image_size": 224, "batch_size": 16},
    "resnet50_224_recomputed": {"model": "resnet50", "image_size": 224, "batch_size": 16, "recompute_groups": 3},
}
"""Fields of `TeacherConfig`."""
WITHIN = (0.8, 1.2)
"""What each ratio has to be."""


def child(case: str) -> None:
    """Trains and prints its peak, in bytes, and the seconds of the last update."""
    import torch

    from ns_core.config import TeacherConfig
    from ns_core.models.malloc import settle
    from ns_core.training.distributed import Ranks
    from ns_core.training.memory import job_without_data
    from ns_core.training.step import TrainStep

    config = TeacherConfig(**CASES[case])
    torch.manual_seed(0)
    settle(recomputes=config.recompute_groups > 0)
    train = TrainStep(job_without_data(config, config.model, CLASSES), Ranks(0, 1, 0, torch.device("cpu")))
    train.train_mode()
    images = torch.randint(256, (config.batch_size, config.image_size, config.image_size, 3), dtype=torch.uint8)
    targets = torch.full((config.batch_size, CLASSES), 1 / CLASSES)
    for step in range(UPDATES):
        started = time.monotonic()
        loss = train.update(step, images, targets, config.batch_size).item()
        assert abs(loss) < float("inf"), f"loss is {loss}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"bytes": peak, "seconds": round(time.monotonic() - started, 1), "loss": loss}))


def estimated(case: str) -> dict[str, int]:
    """What `plan` would say."""
    from flows.plan import ask

    fields = CASES[case]
    stage = {"stage": "train-teacher", "config": fields, "model": fields["model"], "classes": CLASSES}
    (verdict,) = ask({"stages": [stage], "processes": 1, "device": "cpu", "memory": sys.maxsize})["stages"]
    found: dict[str, int] = verdict["estimate"]
    return found


def measured(case: str) -> dict[str, Any]:
    """The peak of a process that does it."""
    command = [sys.executable, "-m", "benchmarks.l2_step", "--child", case]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    result: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return result


def main(wanted: list[str]) -> None:
    """All cases, or those whose names begin as one of `wanted`."""
    ratios, figures, left_out = {}, {}, []
    for case in CASES:
        if wanted and not case.startswith(tuple(wanted)):
            continue
        started = time.monotonic()
        estimate = estimated(case)
        seconds = round(time.monotonic() - started, 1)
        if estimate["update"] * WITHIN[1] > psutil.virtual_memory().available:
            left_out.append(case)
            continue
        real = measured(case)
        ratio = round(estimate["update"] / real["bytes"], 3)
        ratios[case] = {"median": ratio, "min": ratio, "max": ratio, "runs": 1}
        figures[case] = {**CASES[case], "estimate": estimate, "estimate_seconds": seconds, "measured": real}
        print(
            f"{case}: estimate {estimate['update'] / 1e9:.2f} GB, measured {real['bytes'] / 1e9:.2f}, {ratio}",
            file=sys.stderr,
        )
    result = {
        "benchmark": "l2_step",
        "ratios": ratios,
        "figures": {"cases": figures, "left_out": left_out, "within": WITHIN},
        "environment": environment("torch", "timm"),
    }
    print(json.dumps(result))
    assert all(WITHIN[0] <= each["median"] <= WITHIN[1] for each in ratios.values()), "an estimate is off"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2])
    else:
        main(sys.argv[1:])
