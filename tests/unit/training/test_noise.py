"""Noise that went off is noticed, wherever an architecture keeps it."""

import pytest
from torch import nn

from ns_core.config import TrainConfig
from ns_core.models.factory import block_groups, create_network, drop_paths
from ns_core.training.noise import assert_noise_on

NOISY = TrainConfig(dropout=0.2, stochastic_depth=0.1)
ARCHITECTURES = ["ns_efficientnet_xs", "resnet18", "convnext_atto", "test_vit"]


def _network(name: str, config: TrainConfig = NOISY) -> nn.Module:
    return create_network(name, 10, config.dropout, config.stochastic_depth).train()


def _no_dropout(network: nn.Module) -> None:
    if hasattr(network, "drop_rate"):
        network.drop_rate = 0.0  # type: ignore[assignment]
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_made_for_the_recipe_and_in_training_mode_passes(name: str) -> None:
    for config in (NOISY, TrainConfig(dropout=0.0, stochastic_depth=0.0), TrainConfig(dropout=0.5, stochastic_depth=0)):
        assert_noise_on(_network(name, config), config)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_eval_mode_is_noticed(name: str) -> None:
    with pytest.raises(AssertionError, match="the network is in eval mode"):
        assert_noise_on(_network(name).eval(), NOISY)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_dropout_that_was_zeroed_is_noticed(name: str) -> None:
    network = _network(name)
    _no_dropout(network)
    with pytest.raises(AssertionError, match=r"dropout is 0.0, the recipe says 0.2"):
        assert_noise_on(network, NOISY)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_stochastic_depth_that_was_zeroed_is_noticed(name: str) -> None:
    network = _network(name)
    for layer in drop_paths(network):
        layer.drop_prob = 0.0
    with pytest.raises(AssertionError, match="no block drops its branch"):
        assert_noise_on(network, NOISY)


def test_a_network_made_without_noise_is_noticed_under_a_recipe_with_it() -> None:
    with pytest.raises(AssertionError, match="dropout is"):
        assert_noise_on(create_network("ns_efficientnet_xs", 10).train(), NOISY)


def test_blocks_in_eval_mode_below_a_network_in_training_mode_are_noticed() -> None:
    network = _network("ns_efficientnet_xs")
    for group in block_groups(network)[1:]:
        group.eval()
    with pytest.raises(AssertionError, match="no block drops its branch"):
        assert_noise_on(network, NOISY)


def test_frozen_shallow_parts_may_be_in_eval_mode() -> None:
    network = _network("ns_efficientnet_xs")
    for part in block_groups(network)[:2]:
        part.eval()
    assert_noise_on(network, NOISY)
