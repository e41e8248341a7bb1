"""Networks by name: timm's and ours, with their noise set and their head started small."""

from typing import Any

import timm
import torch
from timm.layers.drop import DropPath
from torch import nn

from ns_core.errors import UserError, nearest
from ns_core.models.depthwise import crop_depthwise
from ns_core.models.small import PREFIX, WIDTHS, create_small, small_names


def create_network(
    name: str,
    num_classes: int,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    bn_momentum: float = 0.1,
    bn_eps: float = 1e-3,
) -> nn.Module:
    """A network with fresh weights: float32[B,3,H,W] normalised images -> float32[B,num_classes] logits.

    `stochastic_depth` is the drop rate of the last block (rate_i = rate * i / blocks, as the official
    code). `bn_eps` defaults to the official code's; timm's own is 1e-5 but for its `tf_` models. A linear
    head is started with torch's own scheme: timm's for EfficientNets has a standard deviation of 0.18 at
    10 classes and 0.4 at 2, which makes a fresh network sure of itself. Depthwise convolutions are cropped
    on small maps, which changes no result (`models.depthwise`).
    Raises `UserError` for an unknown name or one that takes no drop rates.
    """
    noise: dict[str, Any] = {"drop_rate": dropout, "drop_path_rate": stochastic_depth}
    if name in WIDTHS or name.startswith(PREFIX):
        network: nn.Module = create_small(name, num_classes, **noise)
    elif timm.is_model(name):
        network = _from_timm(name, num_classes, noise)
    else:
        known = [*small_names(), *timm.list_models()]
        raise UserError(f"model '{name}' is not known to timm{nearest(name, known)}; timm.list_models() lists all")
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum, module.eps = bn_momentum, bn_eps
    head = _head(network)
    if head is not None:
        head.reset_parameters()
    crop_depthwise(network)
    _lay_channels_last(network)
    return network


def block_groups(network: nn.Module) -> list[nn.Module]:
    """The stem, then the groups of blocks, shallow to deep: finetuning freezes them and `recompute` saves their
    memory, both from the front.

    Raises `UserError` for an architecture that has no `blocks`, `stages` or `layers`.
    """
    children = dict(network.named_children())
    for name in ("blocks", "stages"):
        if name in children:
            names = list(children)
            stem = nn.ModuleList([children[part] for part in names[: names.index(name)]])
            return [stem, *children[name].children()]
    layers = [child for name, child in children.items() if name.startswith("layer") and name[5:].isdigit()]
    if layers:
        names = list(children)
        stem = nn.ModuleList([children[part] for part in names[: names.index("layer1")]])
        return [stem, *layers]
    raise UserError(
        f"{type(network).__name__} has no groups of blocks (neither blocks nor stages): choose an EfficientNet, "
        "ConvNeXt, ResNet or ViT"
    )


def drop_paths(network: nn.Module) -> list[DropPath]:
    """The layers that drop residual branches, those with a rate above 0.

    timm gives an EfficientNet block without a skip its layer too, but never calls it.
    """
    blocks = [block for block in network.modules() if getattr(block, "has_skip", True)]
    layers = [layer for block in blocks for layer in block.children() if isinstance(layer, DropPath)]
    return [layer for layer in layers if layer.drop_prob > 0]


def require_branches(network: nn.Module, model: str, stochastic_depth: float) -> None:
    """A person who asks for stochastic depth gets it, or is told why not."""
    if stochastic_depth > 0 and not drop_paths(network):
        raise UserError(
            f"model '{model}' has no residual branch to drop: set stochastic_depth=0 or choose another model"
        )


def _lay_channels_last(network: nn.Module) -> None:
    """As `network.to(memory_format=torch.channels_last)`, which fails on fake tensors.

    By `to`, not by `contiguous`, which takes a depthwise kernel [C,1,k,k] for channels last as it lies. The
    convolution does not: without the crop, B0 then makes 276 training images a second at 32 pixels instead of
    502 (batch 128, one thread).
    """
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)


def _from_timm(name: str, num_classes: int, noise: dict[str, Any]) -> nn.Module:
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, **noise)
        return network
    except TypeError as error:
        refused = next((option for option in noise if f"'{option}'" in str(error)), None)
        if refused is None:
            raise
        if noise[refused] > 0:
            setting = {"drop_rate": "dropout", "drop_path_rate": "stochastic_depth"}[refused]
            raise UserError(f"model '{name}' takes no {setting}: set {setting}=0 or choose another model") from None
        return _from_timm(name, num_classes, {option: rate for option, rate in noise.items() if option != refused})


def _head(network: nn.Module) -> nn.Linear | None:
    get = getattr(network, "get_classifier", None)
    head = get() if get is not None else None
    return head if isinstance(head, nn.Linear) else None
