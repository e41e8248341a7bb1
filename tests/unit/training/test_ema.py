"""The averaged network against the formula, worked out in float64 beside it."""

import pytest
import torch
from torch import Tensor, nn

from ns_core.training.ema import ExponentialAverage

COUNTER = "1.num_batches_tracked"


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _move(network: nn.Module) -> None:
    """A training step's effect: other weights, other statistics, one more batch counted."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
        network.train()(torch.randn(8, 3, 6, 6) * 3 + 1)


@pytest.mark.parametrize(
    ("step", "decay"), [(0, 0.1), (100, 101 / 110), (1000, 1001 / 1010), (10_000, 10_001 / 10_010), (200_000, 0.9999)]
)
def test_the_decay_warms_up_as_1_plus_n_over_10_plus_n_up_to_its_limit(step: int, decay: float) -> None:
    network = _network()
    average = ExponentialAverage(network, 0.9999)
    before = average.network.state_dict()["0.weight"].double()
    _move(network)
    expected = decay * before + (1 - decay) * network.state_dict()["0.weight"].double()
    average.update(step)
    after = average.network.state_dict()["0.weight"].double()
    assert torch.allclose(after - before, expected - before, rtol=1e-3, atol=2e-7)


def test_weights_and_batchnorm_statistics_are_averaged_over_many_updates_and_counters_copied() -> None:
    network = _network()
    average = ExponentialAverage(network, 0.9)
    expected = {name: tensor.double() for name, tensor in _state(network).items()}
    for step in range(200):
        _move(network)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, tensor in network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    averaged = average.network.state_dict()
    assert averaged[COUNTER].item() == 200
    moved = [name for name in averaged if name != COUNTER]
    assert {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"} == set(moved)
    for name in moved:
        assert torch.allclose(averaged[name].double(), expected[name], rtol=1e-4, atol=1e-5), name
        assert not torch.allclose(averaged[name], network.state_dict()[name], rtol=1e-2), name


def test_a_decay_of_0_follows_and_one_near_1_hardly_moves_once_warm() -> None:
    network = _network()
    follower, sluggish = ExponentialAverage(network, 0.0), ExponentialAverage(network, 0.9999999)
    start = _state(network)
    _move(network)
    follower.update(10**9)
    sluggish.update(10**9)
    for name, tensor in network.state_dict().items():
        assert torch.allclose(follower.network.state_dict()[name], tensor)
    assert torch.allclose(sluggish.network.state_dict()["0.weight"], start["0.weight"], atol=1e-5)


def test_the_average_is_a_network_of_its_own_without_noise_or_gradients() -> None:
    network = _network().train()
    average = ExponentialAverage(network, 0.9)
    start = _state(network)
    _move(network)
    assert all(torch.equal(tensor, start[name]) for name, tensor in average.network.state_dict().items())
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in average.network.modules())
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    moved = _state(network)
    average.update(0)
    assert all(torch.equal(tensor, moved[name]) for name, tensor in network.state_dict().items())


def test_the_average_still_follows_after_both_states_were_loaded_from_a_checkpoint() -> None:
    network = _network()
    average = ExponentialAverage(network, 0.5)
    network.load_state_dict({name: tensor + 2 for name, tensor in _state(network).items()})
    average.network.load_state_dict({name: tensor + 1 for name, tensor in _state(average.network).items()})
    before, source = _state(average.network), _state(network)
    average.update(100)
    for name in ("0.weight", "1.running_var"):
        assert torch.allclose(average.network.state_dict()[name], (before[name] + source[name]) / 2)
