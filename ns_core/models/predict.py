"""The one path by which a network labels or is evaluated: noise-free, same pictures, same numbers.

Teacher inference, holdout accuracy during training and the robustness report all go through `Predictor`,
so that a checkpoint's recorded accuracy is what the pool is labelled with.
"""

import os
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ns_core.errors import UserError
from ns_core.models.checkpoint import ModelCard, Normalize


class Outputs(NamedTuple):
    """Of a batch."""

    logits: NDArray[np.float32]
    """float32[B,C]"""
    features: NDArray[np.float32] | None = None
    """float32[B,D], what the classifier saw; from a predictor that was asked for it."""


class Predictor(nn.Module):
    """A network with its normalisation, in eval mode, on a device.

    In: uint8[B,H,W,3], or float32[B,3,H,W] in [0,1] (attacks). Out: float32[B,C] logits.
    """

    def __init__(self, network: nn.Module, card: ModelCard, device: torch.device) -> None:
        super().__init__()
        self.normalize = Normalize(card)
        self.network = network
        self.device = device
        self.to(device).eval()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalize(images.to(self.device)))
        return logits.float()

    @torch.inference_mode()
    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8[B,H,W,3] -> float32[B,C]. Asserts that the noise is off."""
        assert_noise_free(self)
        result: NDArray[np.float32] = self(torch.from_numpy(images)).cpu().numpy()
        return result

    def outputs(self, images: NDArray[np.uint8]) -> Outputs:
        """uint8[B,H,W,3] -> logits, and features where this predictor gives them."""
        return Outputs(self.logits(images))

    def expect(self, batch: int) -> None:
        """No batch will have more images. What has to be prepared for a size is prepared now."""

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Softmax at temperature 1. uint8[B,H,W,3] -> float32[B,C]."""
        return torch.from_numpy(self.logits(images)).softmax(dim=1).numpy()


def at_once(wanted: int, size: int) -> int:
    """Images of `size` pixels a side in a batch without gradients: `wanted` up to 128 pixels, above it as many pixels,
    one image at least. 256 images of EfficientNet-L2 at 800 would take 214 GB."""
    return max(1, min(wanted, wanted * 128**2 // size**2))


def choose_device(wanted: str) -> torch.device:
    """`auto` takes a GPU where there is one; of several processes on a machine each has its own.

    Raises `UserError` when there are more processes than GPUs.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu" or "LOCAL_RANK" not in os.environ:
        return torch.device(wanted)
    number = int(os.environ["LOCAL_RANK"])
    if number >= (gpus := torch.cuda.device_count()):
        raise UserError(
            f"process {number + 1} of this machine finds {gpus} GPUs: set compute.processes to {gpus} at most, "
            "or compute.device to cpu"
        )
    return torch.device(wanted, number)


def set_threads(threads: int) -> None:
    """Compute threads of this process; 0: one for each core it may use, shared with the other processes of its run
    on this machine. OpenCV keeps to the caller's thread."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // processes))
    cv2.setNumThreads(1)


def assert_noise_free(network: nn.Module) -> None:
    """Every module is in eval mode: no dropout, no stochastic depth, BatchNorm with its kept statistics."""
    noisy = [name or type(network).__name__ for name, module in network.named_modules() if module.training]
    assert not noisy, f"modules in training mode while labelling or evaluating: {', '.join(noisy[:5])}"
