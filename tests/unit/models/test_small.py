"""The networks for 32-pixel images: their sizes, their final maps, and timm's weights in timm's places."""

import re

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from ns_core.errors import UserError
from ns_core.models.factory import create_network
from ns_core.models.small import PREFIX, WIDTHS, create_small, small_names


def _final_map(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        features: Tensor = network.eval().forward_features(images)  # type: ignore[operator]
    return features


def test_the_documented_sizes_of_our_networks_are_right() -> None:
    counts = [sum(p.numel() for p in create_network(name, 10).parameters()) for name in WIDTHS]
    assert [round(count, -3) for count in counts] == [42_000, 86_000, 147_000, 322_000]


@pytest.mark.parametrize("name", ["small_efficientnet_b0", "small_tf_efficientnet_b0"])
def test_small_b0_is_the_official_svhn_variant(name: str) -> None:
    """4.02 M parameters at 10 classes and a 4x4 final map at 32 pixels, where stock B0 is left with one pixel."""
    network = create_network(name, 10)
    images = torch.zeros(1, 3, 32, 32)
    assert sum(p.numel() for p in network.parameters()) == 4_020_358
    assert _final_map(network, images).shape == (1, 1280, 4, 4)
    assert _final_map(create_network(name.removeprefix(PREFIX), 10), images).shape == (1, 1280, 1, 1)


@pytest.mark.parametrize(
    "name",
    ["ns_efficientnet_xs", "small_efficientnet_b1_pruned", "small_efficientnet_b0_gn", "small_tf_efficientnet_b3"],
)
def test_small_networks_end_at_stride_8(name: str) -> None:
    with torch.device("meta"):
        network = create_small(name, 10)
        assert _final_map(network, torch.empty(1, 3, 64, 64)).shape[2:] == (8, 8)


@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_efficientnet_b0"])
def test_a_small_network_is_timms_with_two_strides_changed_and_nothing_else(name: str) -> None:
    torch.manual_seed(0)
    stock = timm.create_model(name, num_classes=10)
    torch.manual_seed(0)
    small = create_small(PREFIX + name, 10)
    before, after = stock.state_dict(), small.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    strides = [
        {path: conv.stride for path, conv in network.named_modules() if isinstance(conv, nn.Conv2d)}
        for network in (stock, small)
    ]
    changed = {path for path in strides[0] if strides[0][path] != strides[1][path]}
    assert changed == {"blocks.1.0.conv_dw", "blocks.2.0.conv_dw"}


@pytest.mark.parametrize("side", [15, 16])
def test_same_padding_at_stride_1_is_that_of_tensorflow(side: int) -> None:
    conv = create_small("small_tf_efficientnet_b0", 10).get_submodule("blocks.2.0.conv_dw")
    assert isinstance(conv, nn.Conv2d)
    assert not isinstance(conv, Conv2dSame)
    same = Conv2dSame(144, 144, 5, groups=144, bias=False)
    same.load_state_dict(conv.state_dict())
    image = torch.randn(1, 144, side, side)
    torch.testing.assert_close(conv(image), same(image))


def test_drop_rates_reach_a_small_network() -> None:
    network = create_small("small_efficientnet_b1", 10, drop_rate=0.3, drop_path_rate=0.2)
    assert network.drop_rate == 0.3
    assert network.get_submodule("blocks.6.1.drop_path").drop_prob == pytest.approx(0.2 * 22 / 23)


def test_names_go_from_b0_to_l2_in_both_flavours() -> None:
    sizes = [*(f"b{size}" for size in range(9)), "l2"]
    assert {f"small_{flavour}efficientnet_{size}" for flavour in ("", "tf_") for size in sizes} < set(small_names())
    assert not [name for name in small_names() if re.search("v2|lite|blur", name)]


def test_another_architecture_has_no_small_form() -> None:
    with pytest.raises(UserError, match=r"'small_resnet18' is not known.*: timm's EfficientNets come small"):
        create_small("small_resnet18", 10)
