"""EfficientNets for 32-pixel images, under names of their own beside timm's.

Stock EfficientNets shrink a 32-pixel image to one pixel before the head. These stop at stride 8.

`ns_efficientnet_*`: all blocks are fused bottlenecks (EfficientNetV2's): on a CPU they train about 2.5 times as
fast as depthwise ones of the same size. Each group repeats its block, so that there are skips for stochastic
depth to drop.

`small_efficientnet_b0` and the like: timm's network of that name whose second and third group of blocks have
stride 1, as in the official SVHN variant of Noisy Student. Parameters have timm's names and shapes.
"""

from typing import Any

import timm
from timm.layers.conv2d_same import Conv2dSame
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import nn

from ns_core.errors import UserError, nearest

WIDTHS = {
    "ns_efficientnet_xs": (16, 32),
    "ns_efficientnet_s": (24, 48),
    "ns_efficientnet_m": (32, 64),
    "ns_efficientnet_l": (48, 96),
}
"""Name -> channels of the two groups of blocks. 42,000, 86,000, 147,000 and 322,000 parameters at 10 classes."""

PREFIX = "small_"
UNSTRIDED = (1, 2)
"""Groups of blocks whose stride of 2 becomes 1 (official code: `small_image_model` in `efficientnet_builder.py`)."""


def small_names() -> list[str]:
    """All names that `create_small` knows."""
    stock = timm.list_models([f"{family}efficientnet_{size}" for family in ("", "tf_") for size in ("b[0-8]*", "l2")])
    return [*WIDTHS, *(PREFIX + name for name in stock)]


def create_small(name: str, num_classes: int, **kwargs: Any) -> EfficientNet:
    """float32[B,3,32,32] -> float32[B,num_classes] logits. `kwargs` as timm's EfficientNet takes them (drop rates).

    Raises `UserError` for an unknown name.
    """
    if name in WIDTHS:
        return _fused(name, num_classes, **kwargs)
    if name not in small_names():
        raise UserError(f"model '{name}' is not known{nearest(name, small_names())}: timm's EfficientNets come small")
    network = timm.create_model(name.removeprefix(PREFIX), num_classes=num_classes, **kwargs)
    assert isinstance(network, EfficientNet)
    for group in UNSTRIDED:
        _unstride(network.get_submodule(f"blocks.{group}.0.conv_dw"))
    return network


def _fused(name: str, num_classes: int, **kwargs: Any) -> EfficientNet:
    first, second = WIDTHS[name]
    blocks = [[f"er_r2_k3_s2_e2_c{first}"], [f"er_r2_k3_s2_e2_c{second}_se0.25"]]
    return EfficientNet(
        block_args=decode_arch_def(blocks),  # type: ignore[no-untyped-call]
        num_classes=num_classes,
        num_features=2 * second,
        stem_size=16,
        norm_layer=nn.BatchNorm2d,
        act_layer=nn.SiLU,
        **kwargs,
    )


def _unstride(conv: nn.Module) -> None:
    """Stride 1. TensorFlow's `same` padding then is the same on both sides, so that a plain convolution does it."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.stride == (2, 2)
    conv.stride = (1, 1)
    if isinstance(conv, Conv2dSame):
        conv.padding = tuple(taps // 2 for taps in conv.kernel_size)
        conv.__class__ = nn.Conv2d  # type: ignore[assignment]  # a Conv2dSame is a Conv2d with another forward
