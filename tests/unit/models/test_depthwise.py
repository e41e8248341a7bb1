"""A cropped depthwise convolution is the convolution: same outputs, same gradients, wherever it runs."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from ns_core.models.depthwise import Crop, CroppedDepthwise, crop, crop_depthwise
from ns_core.models.factory import create_network

SIZES = range(1, 10)


def _pair(channels: int = 2, **options: Any) -> tuple[nn.Conv2d, nn.Conv2d]:
    """torch's convolution and the same one cropped, in float64."""
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, groups=channels, dtype=torch.float64, **options)
    holder = nn.Sequential(copy.deepcopy(plain))
    crop_depthwise(holder)
    cropped = holder[0]
    assert type(cropped) is CroppedDepthwise
    return plain, cropped


def _assert_alike(plain: nn.Conv2d, cropped: nn.Conv2d, height: int, width: int) -> None:
    """Outputs and the gradients of input, weight and bias: the sums are the same but for their order."""
    images = [torch.linspace(-1, 2, 4 * height * width, dtype=torch.float64).view(2, 2, height, width) for _ in "ab"]
    results = []
    for conv, image in zip((plain, cropped), images, strict=True):
        conv.zero_grad()
        out = conv(image.requires_grad_())
        (out * torch.linspace(1, 3, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        results.append([out, image.grad, conv.weight.grad, conv.bias.grad if conv.bias is not None else out])
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [3, 5, 7])
def test_on_every_small_map_outputs_and_gradients_are_those_of_torch(taps: int, stride: int) -> None:
    plain, cropped = _pair(out_channels=2, kernel_size=taps, stride=stride, padding=taps // 2)
    for height in SIZES:
        for width in SIZES:
            _assert_alike(plain, cropped, height, width)


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.sampled_from(SIZES), st.sampled_from(SIZES)),
    taps=st.tuples(st.integers(1, 7), st.integers(2, 7)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    multiplier=st.integers(1, 2),
    bias=st.booleans(),
)
def test_every_other_convolution_that_torch_takes_is_alike_too(
    size: tuple[int, int],
    taps: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    multiplier: int,
    bias: bool,
) -> None:
    reach = [1 + gap * (count - 1) for gap, count in zip(dilation, taps, strict=True)]
    assume(all(map(lambda n, p, r: n + 2 * p >= r, size, padding, reach)))
    options = {"kernel_size": taps, "stride": stride, "padding": padding, "dilation": dilation, "bias": bias}
    _assert_alike(*_pair(out_channels=2 * multiplier, **options), *size)


@pytest.mark.parametrize(
    ("axis", "kept"),
    [
        ((1, 3, 1, 1, 1), Crop(1, 2, 0)),
        ((1, 5, 1, 2, 1), Crop(2, 3, 0)),
        ((2, 5, 1, 2, 1), Crop(1, 4, 1)),
        ((3, 5, 1, 2, 1), Crop(0, 5, 2)),
        ((3, 7, 1, 3, 1), Crop(1, 6, 2)),
        ((2, 3, 2, 1, 1), Crop(1, 3, 0)),
        ((2, 5, 2, 2, 1), Crop(2, 4, 0)),
        ((4, 5, 2, 2, 1), Crop(0, 5, 2)),
    ],
)
def test_the_kernel_is_cut_to_the_taps_that_meet_the_map(axis: tuple[int, int, int, int, int], kept: Crop) -> None:
    assert crop(*axis) == kept


class _Kernels(TorchDispatchMode):
    """Records the kernel sizes that torch is asked to convolve with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.seen.append(tuple(args[1].shape[2:]))
        return func(*args, **(kwargs or {}))


def test_torch_is_given_the_small_kernel_on_a_small_map_and_the_whole_one_on_a_large_map() -> None:
    _, cropped = _pair(out_channels=2, kernel_size=5, padding=2)
    with _Kernels() as kernels:
        for height, width in ((2, 2), (1, 2), (9, 1), (9, 9)):
            cropped(torch.zeros(1, 2, height, width, dtype=torch.float64))
    assert kernels.seen == [(3, 3), (1, 3), (5, 1), (5, 5)]


def test_taps_that_were_cut_have_gradients_of_exactly_zero() -> None:
    _, cropped = _pair(out_channels=2, kernel_size=5, padding=2)
    cropped(torch.ones(1, 2, 2, 2, dtype=torch.float64)).sum().backward()
    assert cropped.weight.grad is not None
    outside = torch.ones(5, 5, dtype=torch.bool)
    outside[1:4, 1:4] = False
    assert cropped.weight.grad.shape == (2, 1, 5, 5)
    assert (cropped.weight.grad[:, :, outside] == 0).all()
    assert (cropped.weight.grad[:, :, ~outside] != 0).any()


def test_only_plain_depthwise_convolutions_with_zeros_around_them_change_class() -> None:
    others = [
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 1, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(1, 4, 3, padding=1),
    ]
    network = nn.Sequential(*others, nn.Conv2d(4, 8, 3, padding=1, groups=4))
    before = network.state_dict()
    crop_depthwise(network)
    assert [type(conv) for conv in network] == [*[nn.Conv2d] * len(others), CroppedDepthwise]
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(after[name].data_ptr() == tensor.data_ptr() for name, tensor in before.items())
    assert type(copy.deepcopy(network)[-1]) is CroppedDepthwise


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_network_at_32_pixels_gives_the_logits_of_timms_own(dtype: torch.dtype) -> None:
    """In eval mode; under autocast too, where both round alike to a few units of the last place."""
    torch.manual_seed(0)
    network = create_network("efficientnet_b0", 10).eval()
    plain = copy.deepcopy(network)
    for module in plain.modules():
        if isinstance(module, CroppedDepthwise):
            module.__class__ = nn.Conv2d
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32), _Kernels() as kernels:
        wanted, found = plain(images), network(images)
    assert len(kernels.seen) % 2 == 0
    assert kernels.seen[: len(kernels.seen) // 2] != kernels.seen[len(kernels.seen) // 2 :]
    tolerance = 1e-4 if dtype == torch.float32 else 0.03
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_it_runs_on_fake_tensors_compiles_to_one_graph_and_exports() -> None:
    plain, cropped = _pair(out_channels=2, kernel_size=5, stride=2, padding=2)
    image = torch.randn(3, 2, 2, 2, dtype=torch.float64)
    wanted = plain(image)
    compiled = torch.compile(cropped, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), wanted)
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(cropped, (image,), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(exported(image), wanted)
    torch.testing.assert_close(exported(image[:2]), wanted[:2])
    with FakeTensorMode():
        fake = nn.Sequential(nn.Conv2d(2, 2, 5, stride=2, padding=2, groups=2))
        crop_depthwise(fake)
        assert fake(torch.empty(image.shape)).shape == wanted.shape


@pytest.fixture
def one_process() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_its_gradients_pass_through_distributed_training(one_process: None) -> None:
    plain, cropped = _pair(out_channels=2, kernel_size=5, padding=2)
    image = torch.randn(2, 2, 2, 2, dtype=torch.float64)
    plain(image).square().sum().backward()
    DistributedDataParallel(cropped)(image).square().sum().backward()
    gradients: list[Tensor | None] = [cropped.weight.grad, cropped.bias.grad if cropped.bias is not None else None]
    wanted = [plain.weight.grad, plain.bias.grad if plain.bias is not None else None]
    torch.testing.assert_close(gradients, wanted)
