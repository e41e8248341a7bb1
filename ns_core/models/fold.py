"""BatchNorm folded into the convolution before it: what a network that only labels need not compute.

With its kept statistics a BatchNorm is y = (x - mean) * w / sqrt(var + eps) + b for each channel, a scale and a shift.
Both go into the weight and the bias of the layer that made x; an activation that belongs to the norm stays.
EfficientNet-B0 then labels 1.15 times as many images a second (float32, channels last, 32 and 224 pixels, one thread).

Which layer that is, no name tells for all of timm's networks, so a forward pass is watched: a norm is folded when its
input is the output of one convolution or linear layer that ran once, and when nothing else used that output.

In: a network in eval mode and a batch. Out: a copy of it with fewer layers, the same outputs to a rounding.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from ns_core.models.depthwise import CroppedDepthwise
from ns_core.stage import log

LAYERS = (nn.Conv2d, Conv2dSame, CroppedDepthwise, nn.Linear)
"""Whose outputs are linear in weight and bias as they lie there. Exactly these classes: others that descend from them
(weight standardisation, for one) change the weight on its way."""
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, BatchNormAct2d)
TOLERANCE = 1e-6
"""Largest difference of an output in float64, as a share of the largest one: 1e-14 in 28 families of timm's networks.

In float32 it is 1e-6 or so, and without bound for a network that amplifies roundings, which the gate of the labelling
stage would notice: float32 cannot tell such a one from a wrong fold."""


def folded(network: nn.Module, images: Tensor) -> nn.Module:
    """A copy of `network` without the BatchNorms that can be folded; `network` itself stays as it is.

    `images`: float32[B,3,H,W], what the network is to be given; it may return tensors in any nesting. Should the
    outputs of both, computed in float64, differ on them by more than `TOLERANCE`, the copy is a plain one, and the log
    says so. Asserts that no module is in training mode.
    """
    assert not any(module.training for module in network.modules()), "folding takes the statistics of eval mode"
    with torch.no_grad():
        exact, images64 = copy.deepcopy(network).double(), images.double()
        wanted = exact(images64)
        if not _fold_all(exact, images64):
            return copy.deepcopy(network)
        difference = _difference(wanted, exact(images64))
        if not difference <= TOLERANCE:
            log.warning(
                "BatchNorm is not folded: outputs would differ by %.1e of the largest; labels are right, but slower",
                difference,
            )
            return copy.deepcopy(network)
        del exact
        copied = copy.deepcopy(network)
        _fold_all(copied, images)
    return copied


def _fold_all(network: nn.Module, images: Tensor) -> bool:
    """Folds in place what can be folded; whether anything was."""
    pairs = _pairs(network, images)
    for norm, layer in pairs.items():
        _fold(layer, norm)
        _replace(network, norm, norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity())
    return bool(pairs)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation of a forward pass: which outputs of layers it reads, and in which norm."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[nn.Module] = Counter()
        self.makers = WeakTensorKeyDictionary()
        """Output -> its layer. Weak: all outputs of EfficientNet-L2 at 800 pixels are 22 GB an image."""
        self.norm: nn.Module | None = None
        """The one that runs."""
        self.readers: dict[nn.Module, set[nn.Module | None]] = {}
        """Layer -> the norms that read its output; None for everything else."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            self.read(leaf)
        return func(*args, **(kwargs or {}))

    def read(self, value: object) -> None:
        """`value` is used by what runs now."""
        if isinstance(value, Tensor) and value in self.makers:
            self.readers[self.makers[value]].add(self.norm)

    def after_layer(self, layer: nn.Conv2d | nn.Linear, _: Any, output: Tensor) -> None:
        self.calls[layer] += 1
        if output.dim() == layer.weight.dim():  # channels are the norm's axis 1
            self.makers[output] = layer
            self.readers.setdefault(layer, set())

    def before_norm(self, norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.calls[norm] += 1
        self.norm = norm if inputs[0] in self.makers else None

    def after_norm(self, *_: Any) -> None:
        self.norm = None


def _pairs(network: nn.Module, images: Tensor) -> dict[nn.Module, nn.Module]:
    """Norm -> the layer that it is folded into."""
    watch = _Watch()
    with _hooked(network, watch):
        for leaf in tree_leaves(network(images)):
            watch.read(leaf)
    found = {}
    for layer, readers in watch.readers.items():
        norm = next(iter(readers)) if len(readers) == 1 else None
        if norm is not None and watch.calls[layer] == watch.calls[norm] == 1:
            found[norm] = layer
    return found


@contextmanager
def _hooked(network: nn.Module, watch: _Watch) -> Iterator[None]:
    with ExitStack() as stack:
        for module in network.modules():
            if type(module) in LAYERS:
                stack.callback(module.register_forward_hook(watch.after_layer).remove)
            elif type(module) in NORMS and module.running_mean is not None:
                stack.callback(module.register_forward_pre_hook(watch.before_norm).remove)
                stack.callback(module.register_forward_hook(watch.after_norm).remove)
        stack.enter_context(watch)
        yield


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    """Scale and shift of `norm` into new parameters of `layer`; computed in float64."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if layer.bias is not None:
        shift = shift + layer.bias.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    weight, columns = layer.weight, (-1, *[1] * (layer.weight.dim() - 1))
    layer.weight = nn.Parameter((weight.double() * scale.view(columns)).to(weight.dtype), requires_grad=False)
    layer.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Under every name that it has."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)


def _difference(wanted: Any, found: Any) -> float:
    """Largest, as a share of the largest value of the same output."""
    pairs = zip(tree_leaves(wanted), tree_leaves(found), strict=True)
    return max(float((one - other).abs().max() / one.abs().max().clamp_min(1e-30)) for one, other in pairs)
