"""Recomputed activations: the same bits in gradients, buffers and random draws, from less memory."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from timm.layers.norm_act import SyncBatchNormAct, convert_sync_batchnorm
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn.parallel import DistributedDataParallel

from ns_core.errors import UserError
from ns_core.models.factory import create_network
from ns_core.models.recompute import recompute
from ns_core.training.ema import ExponentialAverage

NETWORKS = {"ns_efficientnet_s": 2, "small_efficientnet_b0": 4, "resnet18": 2, "convnext_atto": 2, "test_vit": 1}
"""Name -> groups. BatchNorm2d, BatchNormAct2d, an in-place ReLU and pooling in the stem, LayerNorm, tokens."""
MB = 2**20


class RebindingNorm(nn.Module):
    """A BatchNorm of another maker: no class of torch's, and new statistics take the place of the old ones."""

    running_mean: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.momentum = 0.5
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("batches", torch.tensor(0))

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(0, 2, 3))
        if self.training:
            self.running_mean = torch.lerp(self.running_mean, mean.detach(), self.momentum)
            self.batches += 1
        return images - (mean if self.training else self.running_mean).view(1, -1, 1, 1)


class Plain(nn.Module):
    """A stem and two groups, normalised by `norm`."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), norm(8), nn.SiLU(inplace=True))
        block = [nn.Conv2d(8, 8, 3, padding=1), norm(8), nn.SiLU(inplace=True), nn.Dropout(0.3)]
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Sequential(*copy.deepcopy(block))) for _ in range(2)))
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(images)).mean(dim=(2, 3)))
        return logits


def _network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create_network(name, 10, dropout=0.3, stochastic_depth=0.3).train()


def _twin(network: nn.Module, groups: int) -> nn.Module:
    twin = copy.deepcopy(network)
    recompute(twin, groups)
    return twin


def _steps(network: nn.Module, updates: int = 2) -> list[Tensor]:
    """Loss and gradients of each update, then the state of the random generator, then every buffer and weight."""
    torch.manual_seed(1)
    seen = []
    for _ in range(updates):
        network.zero_grad()
        loss = network(torch.randn(4, 3, 32, 32)).square().mean()
        loss.backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        seen += [loss.detach(), *(gradient.clone() for gradient in gradients)]
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
    return [*seen, torch.get_rng_state(), *network.state_dict().values()]


def _assert_same_bits(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    for mine, other in zip(found, wanted, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", NETWORKS)
def test_losses_gradients_buffers_and_draws_are_those_without_recomputation_bit_for_bit(name: str) -> None:
    network = _network(name)
    twin = _twin(network, NETWORKS[name])
    _assert_same_bits(_steps(twin), _steps(network))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, RebindingNorm])
def test_any_module_that_keeps_statistics_moves_them_once(norm: type[nn.Module]) -> None:
    network = Plain(norm)
    twin = _twin(network, 2)
    _assert_same_bits(_steps(twin), _steps(network))


def test_statistics_move_once_where_torchs_own_checkpointing_moves_them_twice() -> None:
    stock, ours = _network("small_efficientnet_b0"), _network("small_efficientnet_b0")
    stock.set_grad_checkpointing(True)  # type: ignore[operator]
    recompute(ours, 7)
    counts = []
    for network in (stock, ours):
        network(torch.randn(4, 3, 32, 32)).sum().backward()
        counts.append({v.item() for n, v in network.named_buffers() if "blocks" in n and "num_batches" in n})
    assert counts == [{2}, {1}]


def test_statistics_that_average_over_all_batches_count_each_batch_once() -> None:
    """momentum=None weighs a batch by the number of batches seen, so a second count would change the mean."""
    network = _network("ns_efficientnet_s")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    twin = _twin(network, 2)
    _assert_same_bits(_steps(twin), _steps(network))


@pytest.mark.parametrize("frozen", ["stem and first group", "BatchNorm of the stem", "all BatchNorm"])
def test_frozen_parts_stay_as_they_are(frozen: str) -> None:
    networks = [_network("small_efficientnet_b0")]
    networks.append(_twin(networks[0], 3))
    for network in networks:
        named = dict(network.named_modules())
        parts = {
            "stem and first group": [named["conv_stem"], named["bn1"], named["blocks.0"]],
            "BatchNorm of the stem": [named["bn1"]],
            "all BatchNorm": [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)],
        }[frozen]
        for part in parts:
            part.eval().requires_grad_(False)
    before = {name: value.clone() for name, value in networks[0].named_buffers() if name.startswith("bn1.")}
    _assert_same_bits(_steps(networks[1]), _steps(networks[0]))
    assert all(torch.equal(networks[1].get_buffer(name), value) for name, value in before.items())


def _kept(network: nn.Module, images: Tensor) -> int:
    """Bytes that the backward pass needs, weights apart."""
    own = {t.untyped_storage()._cdata for t in (*network.parameters(), *network.buffers())}
    seen: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            seen[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = network(images)
    del result
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def _peak(network: nn.Module, images: Tensor) -> float:
    """MiB at the peak of a step: weights, gradients, and what the backward pass holds."""
    tracker = MemTracker()
    tracker.track_external(network, images)
    with tracker:
        network(images).sum().backward()
    (device,) = tracker.get_tracker_snapshot("peak").values()
    return device["Total"] / MB


def test_a_step_of_b0_at_224_pixels_takes_half_the_memory() -> None:
    """On one image: 105 MiB, and 54 with three groups, of which 31 are weights and gradients."""
    images = torch.randn(1, 3, 224, 224)
    networks = [_network("efficientnet_b0")]
    networks.append(_twin(networks[0], 3))
    kept = [_kept(network, images) for network in networks]
    assert kept[1] < 0.4 * kept[0]
    plain, ours = (_peak(network, images) for network in networks)
    assert ours < 0.55 * plain


def test_fake_tensors_tell_the_memory_of_large_batches() -> None:
    peaks = []
    for groups in (0, 2):
        with FakeTensorMode():
            network = create_network("ns_efficientnet_s", 10, 0.2, 0.2).train()
            recompute(network, groups)
            peaks.append(_peak(network, torch.empty(4096, 3, 32, 32)))
    assert peaks[0] > 800
    assert peaks[1] < 0.45 * peaks[0]


def test_a_stem_of_two_modules_keeps_only_the_picture() -> None:
    network = _network("efficientnet_b0")
    twin = _twin(network, 1)
    images = torch.randn(2, 3, 64, 64)
    plain, ours = (
        _kept(nn.Sequential(net.get_submodule("conv_stem"), net.get_submodule("bn1")), images)
        for net in (network, twin)
    )
    assert ours == images.untyped_storage().nbytes()
    assert plain > 6 * ours


def test_evaluation_and_passes_without_gradients_are_untouched() -> None:
    network = _network("small_efficientnet_b0")
    twin = _twin(network, 4)
    images = torch.randn(2, 3, 32, 32)
    torch.manual_seed(2)
    with torch.no_grad():
        wanted = network(images)
        torch.manual_seed(2)
        assert torch.equal(twin(images), wanted)
    assert torch.equal(twin.eval()(images), network.eval()(images))
    assert _kept(twin, images) == _kept(network, images)


def test_names_and_averaged_copies_are_those_of_the_network() -> None:
    network = _network("small_efficientnet_b0")
    twin = _twin(network, 4)
    assert list(twin.state_dict()) == list(network.state_dict())
    assert [name for name, _ in twin.named_modules()] == [name for name, _ in network.named_modules()]
    averages = [ExponentialAverage(source, 0.9) for source in (network, twin)]
    for source, average in zip((network, twin), averages, strict=True):
        _steps(source)
        average.update(0)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(averages[1].network(images), averages[0].network(images))


def test_a_copy_recomputes_by_its_own_weights() -> None:
    twin = _twin(_network("ns_efficientnet_s"), 2)
    other = copy.deepcopy(twin)
    with torch.no_grad():
        other.get_parameter("conv_stem.weight").mul_(-1)
    found = _steps(other)
    assert all(parameter.grad is None for parameter in twin.parameters())
    assert not torch.equal(found[0], _steps(twin)[0])


def test_autocast_is_the_same_in_the_second_pass() -> None:
    network = _network("ns_efficientnet_s")
    twin = _twin(network, 2)
    with torch.autocast("cpu", torch.bfloat16):
        _assert_same_bits(_steps(twin, 1), _steps(network, 1))


@pytest.fixture
def one_process() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_distributed_training_gives_the_same_bits(one_process: None) -> None:
    network = _network("ns_efficientnet_s")
    twin = _twin(network, 2)
    _assert_same_bits(_steps(DistributedDataParallel(twin)), _steps(DistributedDataParallel(network)))


def test_layers_converted_to_synchronised_batchnorm_can_be_recomputed() -> None:
    network = convert_sync_batchnorm(_network("small_efficientnet_b0"))  # type: ignore[no-untyped-call]
    recompute(network, 2)
    assert isinstance(network.bn1, SyncBatchNormAct)
    network.eval()(torch.zeros(1, 3, 32, 32))


def test_a_compiled_network_is_one_graph_and_gives_the_same_numbers() -> None:
    network = _network("ns_efficientnet_s")
    compiled: Any = torch.compile(_twin(network, 2), backend="aot_eager", fullgraph=True)
    for found, wanted in zip(_steps(compiled, 1), _steps(network, 1), strict=True):
        torch.testing.assert_close(found, wanted)


def test_more_groups_than_there_are_is_a_mistake_that_names_the_setting() -> None:
    network = _network("ns_efficientnet_s")
    with pytest.raises(UserError, match=r"recompute_groups=3: EfficientNet has 2 groups .*recompute_groups=2 or less"):
        recompute(network, 3)
    assert not any("Recomputed" in type(module).__name__ for module in network.modules())


def test_a_network_without_groups_is_a_mistake_unless_nothing_is_asked_for() -> None:
    network = create_network("densenet121", 10)
    recompute(network, 0)
    with pytest.raises(UserError, match="DenseNet has no groups of blocks"):
        recompute(network, 1)
