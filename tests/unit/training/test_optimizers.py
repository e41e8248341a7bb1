"""Optimisers: which parameters decay, timm's numbers, and a state that goes by names."""

import copy
from typing import Any

import pytest
import torch
from timm.optim._optim_factory import create_optimizer_v2
from torch import Tensor, nn

from ns_core.config import TrainConfig
from ns_core.models.factory import create_network
from ns_core.training.optimizers import create_optimizer, optimizer_tensors, restore_optimizer
from ns_core.training.rmsprop import RMSpropTF

KINDS = ["sgd", "adamw", "rmsproptf"]


def _config(**settings: Any) -> TrainConfig:
    return TrainConfig(**{"lr": 0.01, "weight_decay": 0.05, **settings})


def _network(model: str = "ns_efficientnet_xs") -> nn.Module:
    torch.manual_seed(0)
    return create_network(model, 10)


def _follow(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Updates whose gradients and learning rates are functions of step and name."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in network.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.grad = torch.empty_like(parameter).copy_(noise)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * 0.9**step
        optimizer.step()


def _decaying(network: nn.Module, **settings: Any) -> set[str]:
    """Names of the parameters in groups that decay; every trained parameter is in one group."""
    optimizer = create_optimizer(network, _config(**settings))
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert sorted(names) == sorted(name for name, p in network.named_parameters() if p.requires_grad)
    assert {group["weight_decay"] for group in optimizer.param_groups} <= {0.0, 0.05}
    return {name for group in optimizer.param_groups if group["weight_decay"] for name in group["param_names"]}


def _as_loaded(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state as a checkpoint gives it back: copied, contiguous."""
    tensors = optimizer_tensors(optimizer)
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def _equal(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_in_efficientnet_b0_biases_decay_like_weights_and_batchnorm_does_not() -> None:
    network = _network("efficientnet_b0")
    spared = {name for name, _ in network.named_parameters()} - _decaying(network)
    assert spared == {name for name, _ in network.named_parameters() if "bn" in name.split(".")[-2]}
    assert len(spared) == 2 * 49
    assert {"classifier.bias", "blocks.1.0.se.conv_reduce.bias", "conv_stem.weight"} <= _decaying(network)


def test_without_decay_biases_only_weights_of_two_dimensions_and_more_decay() -> None:
    network = _network("efficientnet_b0")
    decaying = _decaying(network, decay_biases=False)
    assert decaying == {name for name, p in network.named_parameters() if p.ndim > 1}
    assert "classifier.bias" not in decaying


def test_in_convnext_layer_scale_and_biases_decay_and_layernorm_does_not() -> None:
    network = create_network("convnext_atto", 10)
    decaying = _decaying(network)
    assert {"stages.0.blocks.0.gamma", "stages.0.blocks.0.conv_dw.bias", "head.fc.weight"} <= decaying
    for norm in ("stages.0.blocks.0.norm", "stages.1.downsample.0", "stem.1", "head.norm"):
        assert not {f"{norm}.weight", f"{norm}.bias"} & decaying
    assert "stages.0.blocks.0.gamma" not in _decaying(network, decay_biases=False)


@pytest.mark.parametrize("decay_biases", [True, False])
def test_in_a_vit_what_the_architecture_exempts_never_decays(decay_biases: bool) -> None:
    network = create_network("test_vit", 10)
    decaying = _decaying(network, decay_biases=decay_biases)
    assert not {"pos_embed", "cls_token", "blocks.0.norm1.weight", "norm.bias"} & decaying
    assert {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "head.weight"} <= decaying
    assert ("blocks.0.attn.qkv.bias" in decaying) is decay_biases
    assert ("head.bias" in decaying) is decay_biases


def test_frozen_parameters_are_left_out_and_no_decay_makes_no_group_that_decays() -> None:
    network = _network()
    network.conv_stem.requires_grad_(False)
    assert "conv_stem.weight" not in _decaying(network)
    assert _decaying(network, weight_decay=0.0) == set()


@pytest.mark.parametrize("model", ["ns_efficientnet_xs", "test_convnext", "test_vit"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_decay_biases_the_numbers_are_those_of_timms_factory(kind: str, model: str) -> None:
    network = _network(model)
    other = copy.deepcopy(network)
    config = _config(optimizer=kind, decay_biases=False)
    options: dict[str, Any] = {} if kind == "sgd" else {"eps": config.opt_eps}
    timms = create_optimizer_v2(other, opt=kind, lr=0.01, weight_decay=0.05, momentum=0.9, **options)
    _follow(network, create_optimizer(network, config), range(10))
    _follow(other, timms, range(10))
    if kind == "rmsproptf":
        pairs = zip(network.parameters(), other.parameters(), strict=True)
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs)
    else:
        assert _equal(network, other)


@pytest.mark.parametrize("kind", ["sgd", "rmsproptf"])
def test_decay_is_l2_in_the_gradient_as_if_the_loss_had_it(kind: str) -> None:
    """One update from gradient g with decay w is one without decay from g + w * v, biases included."""
    network = nn.Linear(4, 3)
    other = copy.deepcopy(network)
    for decayed, plain in zip(network.parameters(), other.parameters(), strict=True):
        decayed.grad = torch.ones_like(decayed)
        plain.grad = torch.ones_like(plain) + 0.05 * plain.detach()
    create_optimizer(network, _config(optimizer=kind)).step()
    create_optimizer(other, _config(optimizer=kind, weight_decay=0.0)).step()
    for decayed, plain in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.allclose(decayed, plain, atol=1e-7)


def test_sgd_without_momentum_is_plain() -> None:
    network = nn.Linear(2, 2)
    start = network.weight.detach().clone()
    network.weight.grad = torch.ones(2, 2)
    create_optimizer(network, _config(optimizer="sgd", momentum=0.0, weight_decay=0.0)).step()
    assert torch.allclose(network.weight, start - 0.01)


@pytest.mark.parametrize(("kind", "momentum"), [*((kind, 0.9) for kind in KINDS), ("sgd", 0.0)])
def test_a_restored_optimiser_goes_on_in_the_same_bits(kind: str, momentum: float) -> None:
    config = _config(optimizer=kind, momentum=momentum)
    network = _network()
    optimizer = create_optimizer(network, config)
    _follow(network, optimizer, range(5))
    saved = _as_loaded(optimizer)
    resumed = copy.deepcopy(network)
    _follow(network, optimizer, range(5, 10))
    fresh = create_optimizer(resumed, config)
    restore_optimizer(fresh, saved)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in optimizer_tensors(fresh).items())
    _follow(resumed, fresh, range(5, 10))
    assert _equal(network, resumed)
    assert bool(saved) is (momentum > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_restoring_replaces_all_state_and_copies_what_it_is_given(kind: str) -> None:
    network = _network()
    optimizer = create_optimizer(network, _config(optimizer=kind))
    _follow(network, optimizer, range(2))
    saved = _as_loaded(optimizer)
    kept = {name: tensor.clone() for name, tensor in saved.items()}
    _follow(network, optimizer, range(2, 4))
    rates = [group["lr"] for group in optimizer.param_groups]
    restore_optimizer(optimizer, saved)
    assert [group["lr"] for group in optimizer.param_groups] == rates
    _follow(network, optimizer, range(4, 6))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in saved.items())
    restore_optimizer(optimizer, {})
    assert optimizer_tensors(optimizer) == {}


def test_the_state_goes_to_the_parameter_of_its_name_though_groups_and_order_differ() -> None:
    network = _network()
    optimizer = create_optimizer(network, _config(decay_biases=True))
    _follow(network, optimizer, range(3))
    other = create_optimizer(network, _config(decay_biases=False))
    restore_optimizer(other, optimizer_tensors(optimizer))
    for parameter in network.parameters():
        for piece in ("square_avg", "momentum_buffer"):
            assert torch.equal(optimizer.state[parameter][piece], other.state[parameter][piece])


def test_state_of_an_unknown_parameter_is_refused() -> None:
    optimizer = create_optimizer(nn.Linear(2, 2), _config())
    with pytest.raises(AssertionError, match="does not have: gone"):
        restore_optimizer(optimizer, {"gone/momentum_buffer": torch.zeros(2)})


def test_restored_state_has_the_memory_format_of_its_parameter() -> None:
    network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    network.weight.grad = torch.ones_like(network.weight)
    optimizer = RMSpropTF(network.named_parameters(), lr=0.1, eps=1e-3, momentum=0.9)
    optimizer.step()
    saved = _as_loaded(optimizer)
    restore_optimizer(optimizer, saved)
    restored = optimizer.state[network.weight]["momentum_buffer"]
    assert restored.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(restored, saved["weight/momentum_buffer"])


def test_numbers_of_python_and_scalars_of_torch_come_back_as_what_they_were() -> None:
    network = nn.Linear(2, 2)
    state: dict[str, Any] = {
        "step": torch.tensor(3.0),
        "count": 2**53 + 1,
        "rate": 0.1,
        "on": True,
        "none": None,
    }
    first, second = (torch.optim.SGD(network.named_parameters(), lr=0.1) for _ in range(2))
    first.state[network.weight] = state
    restore_optimizer(second, optimizer_tensors(first))
    restored = second.state[network.weight]
    assert torch.equal(restored.pop("step"), torch.tensor(3.0))
    assert restored == {"count": 2**53 + 1, "rate": 0.1, "on": True}
    assert [type(value) for value in restored.values()] == [int, float, bool]
