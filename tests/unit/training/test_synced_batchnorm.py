"""Two processes with halves of a batch normalise, learn and remember as one process with all of it.

Compared with torch's own BatchNorm on the whole batch. Tolerances: 1e-5 of the largest value of a tensor, about
what F.batch_norm itself differs by between memory formats; 1e-2 at a mean of 10,000, where the steps of float32 are
1e-3; 2e-2 in bfloat16, whose steps are 8e-3.
"""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ns_core.models.factory import create_network
from ns_core.training.distributed import Ranks, join
from ns_core.training.ema import ExponentialAverage
from ns_core.training.synced_batchnorm import SyncedBatchNorm, sync_batchnorm
from tests.groups import in_group

BATCH, CHANNELS, SIDE = 12, 5, 6
CPU = torch.device("cpu")
ZERO = 1e-7
"""What is 0 but for rounding: the mean behind BatchNorm and a convolution that take it away."""
Seen = dict[str, NDArray[Any]]

LAYERS = {
    "2d": lambda: nn.BatchNorm2d(CHANNELS, eps=1e-3, momentum=0.01),
    "timm": lambda: BatchNormAct2d(CHANNELS, act_layer=nn.SiLU, drop_layer=lambda: nn.Threshold(-0.5, 0.25)),
    "plain": lambda: nn.BatchNorm2d(CHANNELS, affine=False, momentum=None),
    "forgetful": lambda: nn.BatchNorm2d(CHANNELS, track_running_stats=False),
}
CASES = {
    **{name: (name, (6, 12), torch.float32, 3.0) for name in LAYERS},
    "unequal": ("2d", (5, 12), torch.float32, 3.0),
    "far from zero": ("2d", (6, 12), torch.float32, 10_000.0),
    "bfloat16": ("timm", (6, 12), torch.bfloat16, 3.0),
}
"""Name -> layer, where the ranks' shares end, dtype of the images, their mean."""


def images(dtype: torch.dtype, mean: float) -> tuple[Tensor, Tensor]:
    """Unlike each other in the two halves, and weights of a loss over them."""
    draw = torch.Generator().manual_seed(5)
    batch = torch.randn(BATCH, CHANNELS, SIDE, SIDE, generator=draw) + mean
    batch[: BATCH // 2] *= 2
    weights = torch.randn(batch.shape, generator=draw)
    return tuple(x.to(dtype).to(memory_format=torch.channels_last) for x in (batch, weights))  # type: ignore[return-value]


def learned(layer: nn.Module, batch: Tensor, weights: Tensor) -> Seen:
    """Two steps in training mode, then one look in eval mode."""
    batch = batch.detach().requires_grad_()
    for _ in range(2):
        output = layer(batch)
        (output * weights).sum().backward()
    seen = {name: tensor.float().numpy().copy() for name, tensor in layer.state_dict().items()}
    seen |= {f"gradient/{name}": p.grad.numpy() for name, p in layer.named_parameters() if p.grad is not None}
    assert batch.grad is not None
    seen |= {"output": output.detach().float().numpy(), "gradient": batch.grad.float().numpy()}
    if layer.running_mean is None:  # evaluates with the statistics of the batch at hand, as it always has
        return seen
    return seen | {"eval": layer.eval()(batch).detach().float().numpy()}


def layer_of(name: str) -> nn.Module:
    layer = LAYERS[name]()
    for number, parameter in enumerate(layer.parameters()):
        nn.init.uniform_(parameter, 0.5, 1.5, generator=torch.Generator().manual_seed(number))
    return layer


def network_learned(ranks: Ranks) -> Seen:
    """A timm network under DistributedDataParallel: gradients and statistics after a step on this rank's half."""
    torch.manual_seed(3)
    network = create_network("test_efficientnet", 10, bn_momentum=0.1)
    if ranks.world > 1:
        network = sync_batchnorm(network, CPU)
    average = ExponentialAverage(network, 0.5)
    wrapped = ranks.wrap(network).train()
    share = ranks.slice_of(8)
    batch = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(7))[share]
    nn.functional.cross_entropy(wrapped(batch), torch.arange(8)[share]).backward()
    average.update(0)
    seen = {name: tensor.numpy() for name, tensor in average.network.state_dict().items()}
    return seen | {f"gradient/{name}": p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}


def shares() -> dict[str, Seen]:
    """What one rank of two sees in every case."""
    torch.set_num_threads(1)
    seen = {}
    with join("cpu") as ranks:
        for name, (kind, ends, dtype, mean) in CASES.items():
            start, stop = (0, *ends)[ranks.rank : ranks.rank + 2]
            batch, weights = (tensor[start:stop] for tensor in images(dtype, mean))
            seen[name] = learned(sync_batchnorm(layer_of(kind), CPU), batch, weights)
        seen["network"] = network_learned(ranks)
    return seen


@pytest.fixture(scope="module")
def pair() -> list[dict[str, Seen]]:
    results = in_group(2, shares)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def assert_near(found: NDArray[Any], expected: NDArray[Any], tolerance: float, name: str) -> None:
    assert found.shape == expected.shape, name
    error, largest = np.abs(found - expected).max(), np.abs(expected).max()
    assert error <= tolerance * largest + ZERO, f"{name}: {error} of {largest}"


@pytest.mark.parametrize("case", CASES)
def test_halves_together_are_the_whole(pair: list[dict[str, Seen]], case: str) -> None:
    kind, _, dtype, mean = CASES[case]
    whole = learned(layer_of(kind), *images(dtype, mean))
    first, second = (seen[case] for seen in pair)
    assert first.keys() == whole.keys()
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5 * max(1.0, mean / 10)
    for name, expected in whole.items():
        if name in ("output", "gradient", "eval"):
            found = np.concatenate([first[name], second[name]])
        elif name.startswith("gradient/"):
            found = first[name] + second[name]
        else:
            np.testing.assert_array_equal(first[name], second[name], err_msg=f"{name}: the same bits on every rank")
            found = first[name]
        assert_near(found, expected, tolerance, name)


def test_a_network_learns_from_halves_as_from_the_whole(pair: list[dict[str, Seen]]) -> None:
    whole = network_learned(Ranks(0, 1, 0, CPU))
    first, second = (seen["network"] for seen in pair)
    assert first.keys() == second.keys() == whole.keys()
    for name, expected in whole.items():
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        assert_near(first[name], expected, 1e-4, name)


def test_names_tensors_and_settings_stay() -> None:
    network = create_network("test_efficientnet", 10, bn_momentum=0.02)
    before, momenta = network.state_dict(), [m.momentum for m in network.modules() if isinstance(m, _BatchNorm)]
    layers = sum(isinstance(module, _BatchNorm) for module in network.modules())
    network.eval()
    synced = sync_batchnorm(network, CPU)
    assert synced is network
    after = synced.state_dict()
    assert list(after) == list(before)
    assert all(after[name].data_ptr() == tensor.data_ptr() for name, tensor in before.items())
    found = [module for module in synced.modules() if isinstance(module, SyncedBatchNorm)]
    assert len(found) == layers > 10
    assert [module.momentum for module in found] == momenta
    assert not any(module.training for module in synced.modules())


@pytest.mark.parametrize("kind", LAYERS)
def test_alone_it_is_the_layer_that_it_replaces(kind: str) -> None:
    plain, synced = layer_of(kind), sync_batchnorm(layer_of(kind), CPU)
    batch = images(torch.float32, 3.0)
    expected, found = learned(plain, *batch), learned(synced, *batch)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)


def test_a_copy_shares_nothing_and_computes_the_same() -> None:
    synced = sync_batchnorm(layer_of("timm"), CPU)
    twin = copy.deepcopy(synced)
    batch, _ = images(torch.float32, 3.0)
    torch.testing.assert_close(twin(batch), synced(batch), rtol=0, atol=0)
    assert {t.data_ptr() for t in twin.state_dict().values()}.isdisjoint(
        t.data_ptr() for t in synced.state_dict().values()
    )


def test_for_gpus_the_layers_are_those_of_timms_converter() -> None:
    """Converting needs no GPU; using them does."""
    network = create_network("small_efficientnet_b0", 10)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    converted = sync_batchnorm(network, torch.device("cuda"))
    norms = [module for module in converted.modules() if isinstance(module, _BatchNorm)]
    assert len(norms) == 49
    assert all(isinstance(module, SyncBatchNormAct) for module in norms)
    assert {(module.eps, module.momentum) for module in norms} == {(1e-3, 0.1)}
    after = converted.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
