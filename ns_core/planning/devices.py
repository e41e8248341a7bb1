"""Types of devices a cluster may have, and how fast an EfficientNet is on each.

Peak, memory and bandwidth are from the makers' data sheets (dense bfloat16; float16 where there is no bfloat16). What
an EfficientNet gets of the peak is assumed: its depthwise convolutions are bound by memory bandwidth. `ANCHORS` are
estimates for one H100, scaled by bandwidth from timm's published tables of an RTX 3090 (training, mixed precision) and
an RTX 5090 (inference); between their rows the share of the peak is interpolated over the logarithm of a prediction's
operations, and another type has the same share for each byte of bandwidth that comes with an operation.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ns_core.errors import UserError, nearest

Kind = Literal["training", "prediction"]

ANCHORS = (
    (0.8e9, 7_000, 33_000),
    (8.8e9, 1_000, 3_800),
    (75.6e9, 147, 650),
    (342e9, 60, 280),
    (952e9, 22, 100),
)
"""B0 at 224 pixels, B4 at 380, B7 at 600, L2 at 475, L2 at 800 on an H100: operations of a prediction, images a second
in training, images a second labelled."""
TRAINING_OPERATIONS = 3
"""Of an image, in predictions."""
MOST = 0.5
"""Of the peak: no network gets more, whatever the bandwidth."""
SCALING = 0.9
"""What each of several devices that train together keeps of its speed; assumed. Labelling shares nothing."""
UPDATE_SECONDS = 0.02
"""Of an update at least: a thousand small kernels have to be started, and then a gradient exchanged; assumed."""
CPU_TRAINING, CPU_PREDICTION = 28e9, 50e9
"""Operations a second of one core with EfficientNet-B0 at 224 pixels in float32: measured on an AMD EPYC of 2024, 12
images a second in training, 65 labelled (`docs/results/infer.json`)."""
SOURCE = "data sheet, and share of the peak by estimates for EfficientNets (ns_core.planning.devices)"


@dataclass(frozen=True)
class Device:
    """One type."""

    name: str
    peak: float
    """Operations a second."""
    memory: int
    """Bytes."""
    bandwidth: float
    """Bytes a second."""
    words: str

    def share(self, forward: float, kind: Kind) -> float:
        """What a network with so many operations in a prediction gets of the peak."""
        h100 = DEVICES["h100"]
        balance = (self.bandwidth / self.peak) / (h100.bandwidth / h100.peak)
        return min(MOST, _on_h100(forward, kind) / h100.peak * balance)

    def operations(self, forward: float, kind: Kind) -> float:
        """A second."""
        if self.name == "cpu":
            return CPU_TRAINING if kind == "training" else CPU_PREDICTION
        return self.peak * self.share(forward, kind)


_TYPES = (
    Device("t4", 65e12, 16 * 10**9, 0.32e12, "NVIDIA T4 (float16)"),
    Device("v100", 125e12, 32 * 10**9, 0.9e12, "NVIDIA V100 32 GB (float16)"),
    Device("l4", 121e12, 24 * 10**9, 0.3e12, "NVIDIA L4"),
    Device("l40s", 362e12, 48 * 10**9, 0.864e12, "NVIDIA L40S"),
    Device("a100", 312e12, 80 * 10**9, 2.04e12, "NVIDIA A100 80 GB SXM"),
    Device("h100", 989e12, 80 * 10**9, 3.35e12, "NVIDIA H100 SXM"),
    Device("h200", 989e12, 141 * 10**9, 4.8e12, "NVIDIA H200 SXM"),
    Device("mi300x", 1307e12, 192 * 10**9, 5.3e12, "AMD MI300X"),
    Device("tpu-v3", 123e12, 32 * 10**9, 0.9e12, "TPU v3, a chip of two cores"),
    Device("tpu-v4", 275e12, 32 * 10**9, 1.2e12, "TPU v4, a chip"),
    Device("tpu-v5e", 197e12, 16 * 10**9, 0.82e12, "TPU v5e, a chip"),
    Device("cpu", 100e9, 4 * 10**9, 20e9, "one core of a CPU, float32"),
)
DEVICES = {device.name: device for device in _TYPES}


def device_of(name: str) -> Device:
    """Raises `UserError` for a type that is not known."""
    if name.lower() not in DEVICES:
        raise UserError(f"--device-type {name}: not known{nearest(name, DEVICES)}; there are {', '.join(DEVICES)}")
    return DEVICES[name.lower()]


def _on_h100(forward: float, kind: Kind) -> float:
    """Operations a second; of networks beyond the anchors those of the nearest one."""
    column, each = (1, TRAINING_OPERATIONS) if kind == "training" else (2, 1)
    points = [(math.log(anchor[0]), anchor[0] * each * anchor[column]) for anchor in ANCHORS]
    at = math.log(max(forward, 1.0))
    if at <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in pairwise(points):
        if at <= right:
            return low + (high - low) * (at - left) / (right - left)
    return points[-1][1]
