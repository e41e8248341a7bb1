"""RMSprop in TensorFlow's flavour: against timm's, and against the formula in float64."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from timm.optim.rmsprop_tf import RMSpropTF as TimmRMSpropTF
from torch import Tensor, nn

from ns_core.training import rmsprop
from ns_core.training.rmsprop import RMSpropTF

OFFICIAL: dict[str, Any] = {"lr": 0.016, "eps": 1e-3, "momentum": 0.9, "weight_decay": 1e-5}


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 40, 3), nn.Linear(10, 7))


def _gradients(network: nn.Module, step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    scale = 10.0 ** (step % 5 - 3)
    return [torch.randn(p.shape, generator=generator) * scale for p in network.parameters()]


def _follow(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Updates whose gradients and learning rates are functions of the step."""
    for step in range(steps):
        for parameter, gradient in zip(network.parameters(), _gradients(network, step), strict=True):
            parameter.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = 0.016 * 0.97 ** (step // 10)
        optimizer.step()


@pytest.mark.parametrize("options", [OFFICIAL, {**OFFICIAL, "weight_decay": 0.01, "eps": 1e-8, "momentum": 0.5}])
def test_200_updates_end_where_timms_do(options: dict[str, Any]) -> None:
    network = _network()
    other = copy.deepcopy(network)
    _follow(network, RMSpropTF(network.parameters(), **options), 200)
    _follow(other, TimmRMSpropTF(other.parameters(), **options), 200)
    for (name, mine), timms, start in zip(
        network.named_parameters(), other.parameters(), _network().parameters(), strict=True
    ):
        assert torch.allclose(mine, timms, rtol=1e-5, atol=1e-5), name
        assert not torch.allclose(mine, start, atol=0.1), name


def test_50_updates_follow_the_formula_of_tensorflow_in_float64() -> None:
    network = _network()
    values = [p.detach().double().numpy() for p in network.parameters()]
    squares, momenta = [np.ones_like(v) for v in values], [np.zeros_like(v) for v in values]
    for step in range(50):
        lr = 0.016 * 0.97 ** (step // 10)
        for i, gradient in enumerate(_gradients(network, step)):
            g = gradient.double().numpy() + 0.01 * values[i]
            squares[i] = squares[i] + (g * g - squares[i]) * (1 - 0.9)
            momenta[i] = 0.9 * momenta[i] + lr * g / np.sqrt(squares[i] + 1e-3)
            values[i] = values[i] - momenta[i]
    _follow(network, RMSpropTF(network.parameters(), **{**OFFICIAL, "weight_decay": 0.01}), 50)
    for parameter, value in zip(network.parameters(), values, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=1e-4, atol=1e-5)


def test_the_first_update_divides_by_the_root_of_a_square_that_started_at_1() -> None:
    parameter = nn.Parameter(torch.tensor([5.0]))
    parameter.grad = torch.tensor([0.1])
    RMSpropTF([parameter], lr=1.0, eps=1e-3, momentum=0.9).step()
    assert parameter.item() == pytest.approx(5 - 0.1 / (0.9 + 0.1 * 0.01 + 1e-3) ** 0.5)


def test_a_lower_learning_rate_does_not_slow_what_is_already_moving() -> None:
    parameter = nn.Parameter(torch.tensor([0.0]))
    optimizer = RMSpropTF([parameter], lr=1.0, eps=1e-3, momentum=0.9)
    parameter.grad = torch.tensor([1.0])
    optimizer.step()
    first = parameter.item()
    optimizer.param_groups[0]["lr"] = 0.0
    parameter.grad = torch.tensor([1.0])
    optimizer.step()
    assert parameter.item() == pytest.approx(1.9 * first)


@pytest.mark.parametrize("size", [1, 50, 1000])
def test_the_size_of_the_chunks_does_not_change_a_bit(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, chunked = _network(), _network()
    _follow(whole, RMSpropTF(whole.parameters(), **OFFICIAL), 5)
    monkeypatch.setattr(rmsprop, "_CHUNK", size)
    optimizer = RMSpropTF(chunked.parameters(), **OFFICIAL)
    _follow(chunked, optimizer, 5)
    assert len(optimizer.state) == len(list(chunked.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), chunked.parameters(), strict=True))


def test_a_parameter_without_a_gradient_stays_and_gets_no_state() -> None:
    moved, still = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    moved.grad = torch.ones(3)
    optimizer = RMSpropTF([moved, still], **OFFICIAL)
    optimizer.step()
    assert torch.equal(still, torch.ones(3))
    assert not torch.equal(moved, torch.ones(3))
    assert set(optimizer.state) == {moved}


def test_each_group_has_its_own_rate_and_decay() -> None:
    """Gradients of 0: only what decays moves, and it moves by its own rate."""
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    groups: list[dict[str, Any]] = [
        {"params": parameters[:1]},
        {"params": parameters[1:2], "weight_decay": 1.0},
        {"params": parameters[2:], "weight_decay": 1.0, "lr": 0.2},
    ]
    optimizer = RMSpropTF(groups, lr=0.1, eps=1e-3, momentum=0.9)
    for parameter in parameters:
        parameter.grad = torch.zeros(1)
    optimizer.step()
    shrunk = [1 - p.item() for p in parameters]
    assert shrunk[0] == 0
    assert shrunk[1] == pytest.approx(0.1 / (1 + 1e-3) ** 0.5, rel=1e-5)
    assert shrunk[2] == pytest.approx(2 * shrunk[1], rel=1e-5)


def test_a_closure_gives_loss_and_gradients() -> None:
    parameter = nn.Parameter(torch.tensor([2.0]))
    optimizer = RMSpropTF([parameter], **OFFICIAL)

    def closure() -> float:
        loss = (parameter**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert parameter.item() < 2.0
