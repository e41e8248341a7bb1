"""EfficientNets for 32-pixel images, under names of their own beside timm's.

Stock EfficientNets shrink a 32-pixel image to one pixel before the head. These stop at stride 8, as the
official SVHN variant does. All blocks are fused bottlenecks (EfficientNetV2's): on a CPU they train about
2.5 times as fast as depthwise ones of the same size. Each group repeats its block, so that there are skips
for stochastic depth to drop.
"""

from typing import Any

from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import nn

WIDTHS = {
    "ns_efficientnet_xs": (16, 32),
    "ns_efficientnet_s": (24, 48),
    "ns_efficientnet_m": (32, 64),
    "ns_efficientnet_l": (48, 96),
}
"""Name -> channels of the two groups of blocks. 42,000, 86,000, 147,000 and 322,000 parameters at 10 classes."""


def create_small(name: str, num_classes: int, **kwargs: Any) -> EfficientNet:
    """The network `name` of `WIDTHS`; `kwargs` as timm's EfficientNet takes them (drop rates)."""
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
