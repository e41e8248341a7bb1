"""Depthwise convolutions that skip the kernel taps which cannot meet a small map.

On an HxW map a kxk kernel with zero padding has taps that only ever see padding: a 5x5 kernel on a 2x2 map uses
3x3 of its 25, on a 1x1 map one. Cropping weight and padding leaves the same sums without their zero terms. It
matters because CPUs take a slow path there: EfficientNet-B0 at 32 pixels, whose last maps are 2x2 and 1x1, makes
1.15 times as many training steps a second (576 against 502 images/s; channels last, batch 128, one thread).

In and out: what `nn.Conv2d` takes and gives, float[B,C,H,W]. The gradient of a tap left out is the zero it was.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Crop(NamedTuple):
    """Along one axis: the taps [start, stop) of the kernel, and the padding that goes with them."""

    start: int
    stop: int
    padding: int


class CroppedDepthwise(nn.Conv2d):
    """A depthwise convolution over small maps. Same parameters, same names, same results as `nn.Conv2d`."""

    def forward(self, input: Tensor) -> Tensor:
        reach = [gap * (taps - 1) + 1 for gap, taps in zip(self.dilation, self.kernel_size, strict=True)]
        if input.shape[-2] >= reach[0] and input.shape[-1] >= reach[1]:
            return super().forward(input)
        assert not isinstance(self.padding, str)
        axes = zip(input.shape[-2:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        rows, columns = (crop(*axis) for axis in axes)
        weight = self.weight[:, :, rows.start : rows.stop, columns.start : columns.stop]
        padding = (rows.padding, columns.padding)
        return F.conv2d(input, weight, self.bias, self.stride, padding, self.dilation, self.groups)


def crop_depthwise(network: nn.Module) -> None:
    """Every plain depthwise `nn.Conv2d` of `network` becomes a `CroppedDepthwise`, in place.

    Only the class changes: parameters, state dict and copies stay as they are. Convolutions of other classes
    (timm's `Conv2dSame`), of other padding than zeros and those of one tap are left alone.
    """
    for module in network.modules():
        if type(module) is not nn.Conv2d or not 1 < module.groups == module.in_channels:
            continue
        if module.padding_mode == "zeros" and not isinstance(module.padding, str) and max(module.kernel_size) > 1:
            module.__class__ = CroppedDepthwise


def crop(size: int, taps: int, stride: int, padding: int, dilation: int) -> Crop:
    """The shortest run of taps that gives the same outputs on an axis of `size` pixels.

    The padding stays the same on both sides, as convolutions want it; so on some maps a tap that sees only
    padding is kept. The whole kernel where no tap or no output meets the map.
    """
    whole = Crop(0, taps, padding)
    span = size + 2 * padding - dilation * (taps - 1) - 1
    outputs = range(span // stride + 1)
    meeting = [
        tap for tap in range(taps) if any(0 <= out * stride + tap * dilation - padding < size for out in outputs)
    ]
    if not meeting:
        return whole
    fitting = [
        Crop(start, stop, padding - start * dilation)
        for start in range(meeting[0] + 1)
        for stop in range(meeting[-1] + 1, taps + 1)
        if start * dilation <= padding and (span - (start - (taps - stop)) * dilation) // stride == span // stride
    ]
    return min(fitting, key=lambda kept: kept.stop - kept.start)
