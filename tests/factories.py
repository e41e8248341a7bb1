"""What tests of several stages build alike."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ns_core.config import Augmentation, ComputeConfig
from ns_core.stage import ResumeFolder, StageContext
from ns_core.storage import open_storage


def stage_context(
    tmp_path: Path,
    inputs: Mapping[str, Path] | None = None,
    results: Mapping[str, Mapping[str, Any]] | None = None,
) -> StageContext:
    """A context whose output, scratch and store are new folders below `tmp_path`.

    A second call with the same `tmp_path` is the next attempt: an empty output, the same resume folder.
    """
    attempt = sum(1 for _ in tmp_path.glob("output-*"))
    output, scratch = tmp_path / f"output-{attempt}", tmp_path / f"scratch-{attempt}"
    output.mkdir(parents=True)
    scratch.mkdir()
    store = open_storage(str(tmp_path / "store"))
    return StageContext(
        inputs=inputs or {},
        results=results or {},
        output=output,
        resume=ResumeFolder(store, "stage/resume", scratch),
        compute=ComputeConfig(threads=2),
        fingerprint="0" * 64,
    )


TINY: dict[str, Any] = {
    "image_size": 16,
    "crop_pct": 1.0,
    "batch_size": 8,
    "steps": 13,
    "epoch_steps": 5,
    "optimizer": "sgd",
    "schedule": "cosine",
    "lr": 0.05,
    "ema_decay": 0.9,
    "dropout": 0.2,
    "stochastic_depth": 0.2,
    "bn_momentum": 0.1,
    "augmentation": Augmentation(min_area=0.6, hflip=0.0, pad=2),
}
"""Of a training stage: two whole epochs and a short one, about 10 ms an update of `TINY_MODEL`."""
TINY_MODEL = "ns_efficientnet_xs"


def training_context(tmp_path: Path, **inputs: Path) -> StageContext:
    """A `stage_context` that computes with one thread, as small networks do best."""
    context = stage_context(tmp_path, inputs)
    context.compute = ComputeConfig(device="cpu", threads=1, loader_workers=1)
    return context
