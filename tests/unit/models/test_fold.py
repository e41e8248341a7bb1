"""A folded network is the network: same outputs, fewer layers, and nothing folded that something else depends on."""

import copy
import logging

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ns_core.models.depthwise import CroppedDepthwise
from ns_core.models.factory import create_network
from ns_core.models.fold import folded

FLOAT32 = 1e-5
"""What roundings come to, as a share of the largest output; 3e-6 at most was seen."""


def _lived(network: nn.Module) -> nn.Module:
    """With statistics, scales and shifts that training would have left; in eval mode."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.3)
    return network.eval()


def _norms(network: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


def _assert_alike(network: nn.Module, images: Tensor, left: int) -> nn.Module:
    """Folds down to `left` norms."""
    before = copy.deepcopy(network.state_dict())
    copied = folded(network, images)
    with torch.no_grad():
        wanted, found = network(images), copied(images)
    torch.testing.assert_close(found, wanted, rtol=0, atol=FLOAT32 * float(wanted.abs().max()))
    assert _norms(copied) == left
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    return copied


@pytest.mark.parametrize(
    ("model", "size", "left"),
    [
        ("ns_efficientnet_xs", 32, 0),
        ("small_efficientnet_b0", 32, 0),
        ("efficientnet_b0", 32, 0),
        ("tf_efficientnet_b0", 32, 0),
        ("efficientnet_lite0", 64, 0),
        ("resnet18", 32, 0),
        ("regnety_002", 64, 0),
        ("mobilenetv3_small_050", 64, 0),
        ("convnext_atto", 64, 0),
        ("test_vit", 160, 0),
        ("resnetv2_18", 64, 9),
    ],
)
def test_networks_of_many_families_lose_their_norms_and_keep_their_logits(model: str, size: int, left: int) -> None:
    """The pre-activation ResNet keeps those that a sum comes before."""
    network = _lived(create_network(model, 10))
    copied = _assert_alike(network, torch.randn(2, 3, size, size), left)
    crops = [[type(module) for module in net.modules()].count(CroppedDepthwise) for net in (network, copied)]
    assert crops[0] == crops[1]


class _Small(nn.Module):
    """A convolution, a norm and a head; subclasses say what goes where."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.other(self.norm(self.conv(images)))).mean(dim=(2, 3))


class _ConvTwice(_Small):
    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.other(self.other(self.conv(images)))).mean(dim=(2, 3))


class _NormTwice(_Small):
    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.other(self.norm(self.conv(images)))).mean(dim=(2, 3))


class _OutputUsedTwice(_Small):
    def forward(self, images: Tensor) -> Tensor:
        first = self.conv(images)
        return (self.norm(first) + first).mean(dim=(2, 3))


class _TwoNorms(_Small):
    def forward(self, images: Tensor) -> Tensor:
        first = self.conv(images)
        return (self.norm(first) * self.second(first)).mean(dim=(2, 3))


class _Between(_Small):
    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images).relu_()).mean(dim=(2, 3))


class _OutputReturned(_Small):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        first = self.conv(images)
        return self.norm(first), first


class _WeightRead(_Small):
    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)).mean(dim=(2, 3)) + self.conv.weight.sum()


def test_two_pairs_in_a_row_are_both_folded() -> None:
    copied = _assert_alike(_lived(_Small()), torch.randn(2, 3, 8, 8), 0)
    assert isinstance(copied.norm, nn.Identity)


@pytest.mark.parametrize("kind", [_ConvTwice, _NormTwice, _OutputUsedTwice, _TwoNorms, _Between])
def test_a_convolution_is_left_alone_when_it_or_its_output_serves_anything_but_one_norm(kind: type[_Small]) -> None:
    copied = _assert_alike(_lived(kind()), torch.randn(2, 3, 8, 8), 2)
    assert isinstance(copied.norm, nn.BatchNorm2d)


def test_an_output_that_the_network_returns_is_left_as_it_is() -> None:
    network = _lived(_OutputReturned())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(folded(network, images)(images)[1], network(images)[1])


def test_a_network_that_folding_would_change_stays_unfolded_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network, images = _lived(_WeightRead()), torch.randn(2, 3, 8, 8)
    with caplog.at_level(logging.WARNING):
        copied = folded(network, images)
    assert "BatchNorm is not folded: outputs would differ by" in caplog.text
    assert torch.equal(copied(images), network(images))
    assert _norms(copied) == 2


def test_a_norms_own_activation_stays_and_a_linear_layer_takes_its_norm_in() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        BatchNormAct2d(6, act_layer=nn.SiLU),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
        nn.BatchNorm1d(5, affine=False),
    )
    copied = _assert_alike(_lived(network), torch.randn(4, 3, 9, 9), 0)
    assert isinstance(copied.get_submodule("1"), nn.SiLU)


def test_a_convolution_that_makes_its_weight_anew_is_left_alone() -> None:
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4))
    _assert_alike(_lived(network), torch.randn(2, 3, 8, 8), 1)


def test_two_modules_with_one_weight_do_not_change_each_other() -> None:
    network = _Small()
    network.conv = nn.Conv2d(4, 4, 3)
    network.other.weight = network.conv.weight
    copied = _assert_alike(_lived(network), torch.randn(2, 4, 8, 8), 0)
    assert copied.other.weight is not copied.conv.weight


def test_a_network_in_training_mode_is_refused() -> None:
    network = _lived(_Small())
    network.norm.train()
    with pytest.raises(AssertionError, match="eval mode"):
        folded(network, torch.randn(2, 3, 8, 8))
