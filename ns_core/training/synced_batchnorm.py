"""BatchNorm over the whole batch of a group of processes, on CPUs too.

In: a network with BatchNorm layers. Out: the same network, same parameters and names, whose layers take mean
and variance over the images of all ranks while they train. On GPUs timm's converter puts torch's SyncBatchNorm
in place; that one refuses CPU tensors, so for gloo there is a layer here that is made of the same kernels as
F.batch_norm: its outputs, gradients and running statistics are those of one process with the whole batch.
"""

from typing import Any

import torch
import torch.distributed as dist
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm


def sync_batchnorm(network: nn.Module, device: torch.device) -> nn.Module:
    """`network` with synchronised BatchNorm for `device`; the network itself unless its root is a BatchNorm.

    Layers are replaced, parameters and buffers stay the same tensors. Activation and drop layer of timm's
    BatchNormAct2d are kept. Works before or after the process group is there; without one, or with a
    group of one process, the layers do what they did before.
    """
    if device.type == "cuda":
        converted: nn.Module = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    if isinstance(network, _BatchNorm):
        return SyncedBatchNorm(network)
    for name, child in network.named_children():
        setattr(network, name, sync_batchnorm(child, device))
    return network


class SyncedBatchNorm(_BatchNorm):
    """Takes over `layer`: [B,C,...] -> [B,C,...], over the ranks of the default process group when training.

    Ranks may have different numbers of images, but each at least one. The loss that is differentiated is the
    sum of all ranks' losses; DistributedDataParallel divides by their number.
    """

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum, affine=False, track_running_stats=False)
        self.affine, self.track_running_stats = layer.affine, layer.track_running_stats
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        if isinstance(layer, BatchNormAct2d):
            self.drop, self.act = layer.drop, layer.act
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        together = self.training and dist.is_initialized() and dist.get_world_size() > 1
        result = self._forward_together(input) if together else super().forward(input)
        return self.act(self.drop(result)) if "act" in self._modules else result

    def _check_input_dim(self, input: Tensor) -> None:
        """The layer that was taken over has refused other shapes; what is needed here is channels."""
        assert input.dim() >= 2, input.shape

    def _forward_together(self, images: Tensor) -> Tensor:
        self._check_input_dim(images)
        mean, variance, count = _whole_batch(images.detach())
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean), share)
            self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var), share)
        result: Tensor = _Normalize.apply(
            images, self.weight, self.bias, (mean.float(), variance.float(), count), self.eps
        )
        return result


@torch.no_grad()
def _whole_batch(images: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance, float64[C], and elements a channel over all ranks; the same bits on each.

    Each rank's own come from the kernel of F.batch_norm, which takes the mean off before it squares; they are
    merged by Chan, Golub and LeVeque's formula (1983) in float64, so nothing cancels.
    """
    assert images.shape[0] > 0, "a rank without images"
    channels, count = images.shape[1], images.numel() // images.shape[1]
    unused = torch.zeros(channels)  # the kernel gives float32 for bfloat16 images when its running mean is
    mean, variance = torch.batch_norm_update_stats(images, unused, unused.clone(), 0.0)
    mine = torch.cat([mean.double(), variance.double(), torch.tensor([count], dtype=torch.float64)])
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    means, variances, counts = torch.split(torch.stack(parts), [channels, channels, 1], dim=1)
    shares = counts / counts.sum()
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0), int(counts.sum())


class _Normalize(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, with mean and variance functions of every rank's x."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        batch: tuple[Tensor, Tensor, int],
        eps: float,
    ) -> Tensor:
        mean, variance, ctx.count = batch
        ctx.eps = eps
        ctx.save_for_backward(images, weight, mean, variance)
        return batch_norm(images, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """With dy = the gradient, x' = the normalised x, N = elements a channel over all ranks:

        dx = weight / sqrt(variance + eps) * (dy - sum(dy) / N - x' * sum(dy x') / N), sums over all ranks;
        the gradients of weight and bias are this rank's sums, since DistributedDataParallel adds the others'.
        """
        images, weight, mean, variance = ctx.saved_tensors
        kernel = torch.ops.aten.native_batch_norm_backward
        fixed = (images, weight, mean, variance, None, None, False, ctx.eps, [True, True, True])
        at_fixed_statistics, product, total = kernel(gradient, *fixed)
        sums = torch.cat([product, total]).double()
        dist.all_reduce(sums)
        scale = (variance.double() + ctx.eps).rsqrt() / ctx.count
        if weight is not None:
            scale = scale * weight
        products, totals = (sums.view(2, -1) * scale).float()
        through_statistics = batch_norm(images, mean, variance, products, totals, False, 0.0, ctx.eps)
        affine = (None, None) if weight is None else (product, total)
        return at_fixed_statistics - through_statistics, *affine, None, None
