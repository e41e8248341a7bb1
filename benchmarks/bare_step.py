"""One training step without data: forward, backward, SGD; ours beside the same timm network in eager PyTorch.

Both start from the same weights and see the same batch. PyTorch as it comes: NCHW, integer labels,
`cross_entropy`, `torch.optim.SGD`. Ours: `create_network` (channels last, depthwise kernels cropped to what small
maps can meet), soft targets, `joint_loss`, `create_optimizer`. `assert_same` trains both and compares.
"""

import time
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.our_train import teacher
from ns_core.models.factory import create_network
from ns_core.training.losses import joint_loss
from ns_core.training.optimizers import create_optimizer

MODEL, SIZE, BATCH, CLASSES, RATE = "efficientnet_b0", 32, 128, 10, 0.01
LOSS_TOLERANCE, WEIGHTS_TOLERANCE = 1e-3, 1e-3
"""Largest relative differences that pass for float32 sums in another order; measured: losses 3e-6 before and 6e-5
after the first update, weights 3e-5. This network, fresh, at this size, multiplies them by some 30 an update."""


class Side:
    """A network in training on one batch of noise, of which both sides get the same."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
        self.network, self.optimizer, self.images, self.labels = network.train(), optimizer, images, labels

    def loss(self) -> Tensor:
        """PyTorch's own."""
        return functional.cross_entropy(self.network(self.images), self.labels)

    def update(self) -> float:
        """One step; its loss."""
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    def timed(self, updates: int) -> tuple[int, float]:
        """Images and seconds of so many updates, after one that does not count."""
        self.update()
        started = time.perf_counter()
        for _ in range(updates):
            self.update()
        return updates * BATCH, time.perf_counter() - started


class OurSide(Side):
    """With our loss, on channels-last images, as `Normalize` makes them."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
        super().__init__(network, optimizer, images.contiguous(memory_format=torch.channels_last), labels)
        self.targets = functional.one_hot(labels, CLASSES).float()

    def loss(self) -> Tensor:
        return joint_loss(self.network(self.images), self.targets, BATCH, "concat")


def sides(seed: int = 0) -> tuple[OurSide, Side]:
    """Ours and PyTorch's, with the same fresh weights and the same batch."""
    torch.manual_seed(seed)
    batch = (torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(CLASSES, (BATCH,)))
    theirs: nn.Module = timm.create_model(MODEL, num_classes=CLASSES)
    ours = create_network(MODEL, CLASSES, bn_momentum=0.1, bn_eps=1e-5)
    ours.load_state_dict(theirs.state_dict())
    config = teacher(MODEL, SIZE, BATCH).model_copy(update={"lr": RATE, "weight_decay": 0.0})
    sgd: Any = torch.optim.SGD(theirs.parameters(), RATE, momentum=0.9, nesterov=True)
    return OurSide(ours, create_optimizer(ours, config), *batch), Side(theirs, sgd, *batch)


def assert_same() -> dict[str, float]:
    """An update of both: how far apart the losses are, before it and after, and the weights and statistics, as a
    share of the way that they went."""
    ours, theirs = sides()
    start = _vector(theirs.network)
    losses = [(ours.update(), theirs.update())]
    mine, peer = _vector(ours.network), _vector(theirs.network)
    losses.append((ours.loss().item(), theirs.loss().item()))
    loss = max(abs(one - other) / other for one, other in losses)
    weights = float((mine - peer).norm() / (peer - start).norm())
    assert loss < LOSS_TOLERANCE, losses
    assert weights < WEIGHTS_TOLERANCE, weights
    return {"loss": loss, "weights": weights}


def _vector(network: nn.Module) -> Tensor:
    """Weights and BatchNorm statistics in one float64 vector."""
    tensors = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])
