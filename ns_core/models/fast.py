"""The predict path of the pool: what `Predictor` computes, in a fraction of its time.

BatchNorm folded into the convolutions (`models.fold`), depthwise kernels cropped on small maps (`models.depthwise`),
channels last, and where asked bfloat16 and torch.compile. Normalisation, features and the classifier are float32
whatever the precision.

In: uint8[B,H,W,3]. Out: float32[B,C] logits, and where asked the float32[B,D] features that the classifier sees.
`benchmarks/infer.py` measures it and says how often the labels are those of the plain network.
"""

import copy
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ns_core.errors import UserError
from ns_core.models.checkpoint import ModelCard, Normalize
from ns_core.models.depthwise import crop_depthwise
from ns_core.models.fold import folded
from ns_core.models.malloc import settle
from ns_core.models.predict import Outputs, Predictor, assert_noise_free
from ns_core.stage import log

_CPU_PIXELS = 2**20
"""Of the images that a CPU computes at once: 20 at 224 pixels a side, 1,024 at 32. With 83 at 224 the blocks are too
large to be kept (`models.malloc`): 56 images a CPU second of EfficientNet-B0 in bfloat16, against 116 (2026-11-23)."""
_SAME = 1e-4
"""Largest difference of a logit, as a share of the largest one, between a network in two parts and the whole."""
_CHECKED = 2
"""Images, of noise, on which a network that was changed is compared with the one it was made of."""


def fast_predictor(
    network: nn.Module,
    card: ModelCard,
    device: torch.device,
    precision: str = "float32",
    compile: bool = False,
    features: bool = False,
) -> Predictor:
    """A predictor of its own copy of `network`, for labelling many images.

    `precision`: float32, or bfloat16 for all but the classifier. `compile`: torch.compile with the weights as
    constants, at the first batch or at `Predictor.expect`; one graph for one batch size, to which smaller batches are
    padded. `features`: `Predictor.outputs` gives the classifier's input, too; `UserError` where the network has no
    classifier with one input. On a CPU this process keeps the memory that it frees, from here on (`models.malloc`).
    """
    if device.type == "cpu":
        settle(recomputes=False)
    network = copy.deepcopy(network).to(device).eval()
    crop_depthwise(network)
    network.to(memory_format=torch.channels_last)
    normalize = Normalize(card).to(device)
    noise = np.random.default_rng(0).integers(0, 256, (_CHECKED, card.test_size, card.test_size, 3), dtype=np.uint8)
    with torch.no_grad():
        images = normalize(torch.from_numpy(noise).to(device))
        body = _body(network, images)
        if features and not isinstance(body, _Split):
            raise UserError(
                f"model '{card.model}' has no classifier with one input, so that there are no embeddings to keep: "
                "set infer.embeddings=false or choose another model"
            )
        whole = _Whole(normalize, folded(body, images), precision)
    return FastPredictor(whole, card, device, compile, features)


class FastPredictor(Predictor):
    """Made by `fast_predictor`."""

    def __init__(
        self, network: nn.Module, card: ModelCard, device: torch.device, compile: bool, features: bool
    ) -> None:
        """`network`: uint8[B,H,W,3] -> float32 logits and features, normalisation included."""
        super().__init__(network, card, device)
        self._size, self._features = card.test_size, features
        self._most = max(1, _CPU_PIXELS // card.test_size**2) if device.type == "cpu" else 2**31
        """Images at once."""
        self._batch = 0
        """Images of every batch once the network is compiled."""
        self._compiles, self._run = compile, network
        if compile:
            self._run = torch.compile(network, dynamic=False, options={"freezing": True})  # type: ignore[assignment]
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits, _ = self._both(images)
        return logits

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.outputs(images).logits

    @torch.inference_mode()
    def outputs(self, images: NDArray[np.uint8]) -> Outputs:
        """uint8[B,H,W,3] -> logits and features. Asserts that the noise is off."""
        assert_noise_free(self)
        self.expect(len(images))
        parts = [self._part(images[first : first + self._most]) for first in range(0, len(images), self._most)]
        logits, features = zip(*parts, strict=True)
        kept = np.concatenate([part for part in features if part is not None]) if self._features else None
        return Outputs(np.concatenate(logits), kept)

    @torch.inference_mode()
    def expect(self, batch: int) -> None:
        """Compiles for batches of this size, if that is asked for and not done; raises `UserError` if it fails."""
        batch = min(batch, self._most)
        if not self._compiles or batch <= self._batch:
            return
        self._batch, started = batch, time.monotonic()
        try:
            self._both(torch.zeros(batch, self._size, self._size, 3, dtype=torch.uint8))
        except Exception as error:  # the plain network ran on a batch when this was made: it is the compiler's
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(
                f"torch.compile cannot compile the network here ({reason}): set compute.compile=false; on a CPU it "
                "needs g++"
            ) from error
        log.info("compiled for batches of %d images in %.0f s", batch, time.monotonic() - started)

    def _part(self, images: NDArray[np.uint8]) -> Outputs:
        """Of images that are computed at once."""
        count = len(images)
        if count < self._batch:
            images = np.concatenate([images, np.zeros((self._batch - count, *images.shape[1:]), np.uint8)])
        logits, features = self._both(torch.from_numpy(images))
        return Outputs(logits[:count].cpu().numpy(), None if features is None else features[:count].cpu().numpy())

    def _both(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        both: tuple[Tensor, Tensor | None] = self._run(images.to(self.device))
        return both


class _Split(nn.Module):
    """A network as the features that its classifier sees, float32[B,D], and the classifier."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        maps = self.network.forward_features(images)  # type: ignore[operator]
        features: Tensor = self.network.forward_head(maps, pre_logits=True)  # type: ignore[operator]
        return features

    def classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.network.get_classifier()(features)  # type: ignore[operator]
        return logits


class _Whole(nn.Module):
    """From bytes to logits and features."""

    def __init__(self, normalize: Normalize, body: nn.Module, precision: str) -> None:
        super().__init__()
        self.normalize, self.body = normalize, body
        self.halved = precision == "bfloat16"

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        # Autocast, not weights in bfloat16, which is as fast on the CPU (EfficientNet-B0: 4.5 times eager float32 at
        # 224 pixels, 6.1 at 32): norms that cannot be folded keep their float32 weights.
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.halved):
            seen: Tensor = self.body(self.normalize(images))
        seen = seen.float()
        return (self.body.classify(seen), seen) if isinstance(self.body, _Split) else (seen, None)


def _body(network: nn.Module, images: Tensor) -> nn.Module:
    """In two parts where the network has them and they make the same logits, else as it is."""
    split = _Split(network).eval()
    classifier = getattr(network, "get_classifier", lambda: None)()
    if not isinstance(classifier, nn.Linear) or not hasattr(network, "forward_head"):
        return network
    features, wanted = split(images), network(images)
    if features.dim() != 2 or features.shape[1] != classifier.in_features:
        return network
    difference = (split.classify(features) - wanted).abs().max() / wanted.abs().max()
    return split if difference <= _SAME else network
