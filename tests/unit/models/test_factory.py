"""Networks by name: the noise that was asked for, a small head, BatchNorm, and the groups that finetuning freezes."""

import math

import pytest
import timm
import torch
from timm.models.efficientnet import EfficientNet
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ns_core.config import TrainConfig
from ns_core.errors import UserError
from ns_core.models.depthwise import CroppedDepthwise
from ns_core.models.factory import block_groups, create_network, drop_paths
from ns_core.models.small import WIDTHS, create_small

NAMES = ["ns_efficientnet_xs", "efficientnet_b0", "test_efficientnet"]


def _head(network: nn.Module) -> nn.Linear:
    head = network.get_classifier()  # type: ignore[operator]
    assert isinstance(head, nn.Linear)
    return head


def _fresh(name: str, classes: int) -> nn.Module:
    """As timm starts it."""
    network: nn.Module = create_small(name, classes) if name in WIDTHS else timm.create_model(name, num_classes=classes)
    return network


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("efficientnetb0", "efficientnet_b0"),
        ("ns_efficientnet_xx", "_xs"),
        ("smal_efficientnet_b3", "small_efficientnet_b3"),
        ("small_efficientnet_b9", "small_efficientnet_b"),
        ("small_resnet18", "small_efficientnet_"),
    ],
)
def test_an_unknown_name_is_a_mistake_that_names_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"model '{name}' .*did you mean '.*{meant}.*'") as caught:
        create_network(name, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("name", NAMES)
def test_the_head_starts_small_where_timm_starts_it_large(name: str, classes: int) -> None:
    """timm's is uniform in +-1/sqrt(classes): 0.41 at 2 classes, 0.18 at 10; torch's in +-1/sqrt(features)."""
    torch.manual_seed(0)
    head = _head(create_network(name, classes))
    bound = 1 / math.sqrt(head.in_features)
    assert head.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)
    assert head.weight.std().item() < 0.08
    assert head.bias.abs().max().item() <= bound
    assert _head(_fresh(name, classes)).weight.std().item() == pytest.approx(1 / math.sqrt(3 * classes), rel=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_network_is_not_sure_of_itself(name: str) -> None:
    """The pool must not pass the confidence threshold at step 1; with timm's head many images would."""
    torch.manual_seed(0)
    network = create_network(name, 2).train()
    with torch.no_grad():
        confidence = network(torch.randn(64, 3, 32, 32)).softmax(dim=1).amax(dim=1)
    assert confidence.max().item() < 0.95


@pytest.mark.parametrize("name", [*NAMES, "resnet18", "convnext_atto"])
def test_every_network_gives_float_logits_of_the_wanted_classes(name: str) -> None:
    network = create_network(name, 7).eval()
    with torch.no_grad():
        logits = network(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    assert logits.dtype == torch.float32


def test_dropout_is_on_the_classifiers_input_at_the_asked_rate() -> None:
    """Of pooled features that are all 1 and a head of ones, kept ones count 1 / (1 - rate)."""
    torch.manual_seed(0)
    network = create_network("ns_efficientnet_l", 1, dropout=0.25).train()
    assert isinstance(network, EfficientNet)
    nn.init.ones_(_head(network).weight)
    nn.init.zeros_(_head(network).bias)
    width = _head(network).in_features
    seen = network.forward_head(torch.ones(64, width, 4, 4)).detach() * 0.75 / width
    assert seen.mean().item() == pytest.approx(0.75, abs=0.01)
    assert seen.std().item() == pytest.approx(math.sqrt(0.25 * 0.75 / width), rel=0.3)
    plain = create_network("ns_efficientnet_l", 1).train().forward_head(torch.ones(2, width, 4, 4))  # type: ignore[operator]
    assert torch.allclose(plain[0], plain[1])  # but for the rounding of a place in the batch


def test_stochastic_depth_grows_linearly_with_the_block_and_drops_only_where_a_skip_is() -> None:
    """rate_i = rate * i / blocks (official code); efficientnet_b0 has skips in 9 of its 16 blocks."""
    network = create_network("efficientnet_b0", 10, stochastic_depth=0.2)
    blocks = [block for group in network.blocks for block in group]  # type: ignore[union-attr]
    expected = [0.2 * place / 16 for place, block in enumerate(blocks) if block.has_skip]
    assert [layer.drop_prob for layer in drop_paths(network)] == pytest.approx(expected)
    assert len(expected) == 9
    small = create_network("ns_efficientnet_s", 10, stochastic_depth=0.2)
    assert [layer.drop_prob for layer in drop_paths(small)] == pytest.approx([0.05, 0.15])
    assert drop_paths(create_network("ns_efficientnet_s", 10)) == []


def test_a_network_without_a_skip_has_no_branch_to_drop() -> None:
    """timm puts DropPath layers into it all the same; with each of them at work the output would vary."""
    network = create_network("test_efficientnet", 10, stochastic_depth=0.9)
    assert drop_paths(network) == []
    for module in network.modules():
        module.training = not isinstance(module, nn.modules.batchnorm._BatchNorm)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "test_vit"])
def test_stochastic_depth_reaches_other_architectures(name: str) -> None:
    assert drop_paths(create_network(name, 10, stochastic_depth=0.2))


def test_a_network_that_takes_no_stochastic_depth_is_made_without_and_refused_with() -> None:
    assert isinstance(create_network("densenet121", 10, dropout=0.1), nn.Module)
    with pytest.raises(UserError, match="'densenet121' takes no stochastic_depth: set stochastic_depth=0 or choose"):
        create_network("densenet121", 10, stochastic_depth=0.1)


@pytest.mark.parametrize("name", [*NAMES, "resnet18", "tf_efficientnet_b0", "small_efficientnet_b0"])
def test_batchnorm_has_the_asked_momentum_and_eps_in_every_layer(name: str) -> None:
    network = create_network(name, 10, bn_momentum=0.03, bn_eps=0.02)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.03, 0.02)}


def test_batchnorm_has_the_official_eps_where_none_is_asked_for_and_other_norms_keep_theirs() -> None:
    norms = [m for m in create_network("efficientnet_b0", 10).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {TrainConfig().bn_eps}
    others = [m for m in create_network("convnext_atto", 10, bn_eps=0.02).modules() if isinstance(m, nn.LayerNorm)]
    assert {norm.eps for norm in others} == {1e-6}


@pytest.mark.parametrize("name", ["efficientnet_b0", "small_tf_efficientnet_b0"])
def test_depthwise_convolutions_are_those_that_crop_themselves_on_small_maps(name: str) -> None:
    blocks = create_network(name, 10).get_submodule("blocks")
    depthwise = [m for m in blocks.modules() if isinstance(m, nn.Conv2d) and m.groups > 1 and m.stride == (1, 1)]
    assert {type(conv) for conv in depthwise} == {CroppedDepthwise}


def test_a_network_is_made_of_fake_tensors_where_only_its_memory_is_asked_for() -> None:
    with FakeTensorMode():
        network = create_network("efficientnet_b0", 10)
        assert network(torch.empty(2, 3, 64, 64)).shape == (2, 10)
    assert all(isinstance(parameter, FakeTensor) for parameter in network.parameters())


@pytest.mark.parametrize("name", ["ns_efficientnet_s", "efficientnet_b0"])
def test_convolutions_lie_channels_last(name: str) -> None:
    """Depthwise kernels too, whose strides torch's own question does not tell apart: [C,1,k,k] passes either way."""
    weights = [m.weight for m in create_network(name, 10).modules() if isinstance(m, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert {weight.stride(1) for weight in weights} == {1}


@pytest.mark.parametrize(
    ("name", "stem", "groups"),
    [
        ("ns_efficientnet_s", ["conv_stem", "bn1"], ["blocks.0", "blocks.1"]),
        ("efficientnet_b0", ["conv_stem", "bn1"], [f"blocks.{group}" for group in range(7)]),
        ("resnet18", ["conv1", "bn1", "act1", "maxpool"], ["layer1", "layer2", "layer3", "layer4"]),
        ("convnext_atto", ["stem"], [f"stages.{group}" for group in range(4)]),
    ],
)
def test_groups_go_from_the_stem_to_the_deepest_blocks(name: str, stem: list[str], groups: list[str]) -> None:
    network = create_network(name, 10)
    first, *others = block_groups(network)
    assert [id(part) for part in first.children()] == [id(network.get_submodule(part)) for part in stem]
    assert [id(group) for group in others] == [id(network.get_submodule(group)) for group in groups]
    depths = [max(place for place, m in enumerate(network.modules()) if m is group) for group in others]
    assert depths == sorted(depths)


def test_a_network_without_blocks_cannot_be_frozen_and_says_what_can() -> None:
    with pytest.raises(UserError, match=r"DenseNet has no groups of blocks .*: choose an EfficientNet"):
        block_groups(create_network("densenet121", 10))


def test_the_same_seed_gives_the_same_weights() -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(create_network("ns_efficientnet_xs", 10).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["classifier.weight"], states[2]["classifier.weight"])
