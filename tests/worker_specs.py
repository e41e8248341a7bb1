"""What a worker is told, for tests that start real ones."""

from pathlib import Path
from typing import Any

import numpy as np

from ns_core.config import Augmentation, ComputeConfig, DataConfig, TeacherConfig
from ns_core.data.images import encode_png
from ns_core.fingerprint import stage_fingerprint
from ns_core.launch.spec import InputReference, WorkerSpec
from ns_core.settings import StageConfig

SOURCE = {"source": "digits"}


def spec_of(config: StageConfig, store: str, inputs: dict[str, InputReference], extra: dict[str, str]) -> WorkerSpec:
    """One attempt at a stage, named as a flow names it."""
    fingerprints = {name: reference.fingerprint for name, reference in inputs.items()}
    return WorkerSpec(
        stage=config.STAGE,
        fingerprint=stage_fingerprint(config, {**fingerprints, **extra}),
        config=config.model_dump(mode="json"),
        inputs=inputs,
        extra_inputs=extra,
        store=store,
        compute=ComputeConfig(device="cpu", threads=1, loader_workers=1),
    )


def digits_spec(store: str, **data: Any) -> WorkerSpec:
    """prepare-dataset on scikit-learn's digits, 1,797 images: about 4 s, half of it for loading scikit-learn."""
    return spec_of(DataConfig(**data), store, {}, SOURCE)


def pictures_spec(folder: Path) -> WorkerSpec:
    """prepare-dataset on 4,000 pictures made in `folder`: the first event after 1 s, the end long after.

    To be stopped on the way; the store is `folder/store`.
    """
    png = encode_png(np.zeros((16, 16, 3), np.uint8))
    for number in range(4000):
        file = folder / ("unlabeled" if number > 20 else f"labeled/{number % 2}") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png + number.to_bytes(2, "big"))
    places = {"labeled": str(folder / "labeled"), "unlabeled": str(folder / "unlabeled")}
    return spec_of(DataConfig(source="folder", **places), str(folder / "store"), {}, {"source": "pictures"})


def teacher_spec(dataset: WorkerSpec, **settings: Any) -> WorkerSpec:
    """train-teacher: the smallest network, two updates and a look at the holdout after each, about 5 s."""
    config = TeacherConfig(
        **{
            "model": "ns_efficientnet_xs",
            "image_size": 32,
            "batch_size": 8,
            "steps": 2,
            "epoch_steps": 1,
            "augmentation": Augmentation(randaugment_ops=0),
            **settings,
        }
    )
    return spec_of(config, dataset.store, {"dataset": reference(dataset)}, {})


def reference(spec: WorkerSpec) -> InputReference:
    """The artifact that `spec` makes."""
    return InputReference(stage=spec.stage, fingerprint=spec.fingerprint)
