"""Gradient attacks within an L-infinity ball: FGSM and PGD, untargeted, against the true labels.

In: a model that takes float32 images [N, C, H, W] in [0, 1] and normalises them itself, such images, their
labels int64 [N], and eps in units of the [0, 1] scale (eps255 / 255). Out: adversarial images of the same
shape, in [0, 1] and within eps of the originals.

Sources: FGSM, Goodfellow et al., ICLR 2015; PGD, Madry et al., ICLR 2018. Figure 3 of the Noisy Student
paper is FGSM at eps 0, 2, 4, 8 and 16 of 255.

How to count: attack the pixels that the model sees (after resizing and cropping), report the accuracy, and
count an image as right only if the model is right on the clean image and on the adversarial one. An attack
can undo a mistake by chance, and that is no robustness.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

_ROUNDING = 1e-6
"""Slack on |adversarial - image| <= eps: float32 steps in [0, 1] are at most 6e-8."""


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """The fast gradient sign method: one step of size eps along the sign of the loss gradient.

    Arguments and rules as for `pgd_linf`.
    """
    return pgd_linf(model, images, labels, eps, step_sizes=(eps,))


def pgd_linf(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    step_sizes: Sequence[float],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent on the cross-entropy of the true labels, within eps of `images`.

    The model is left as it was: parameters, their `requires_grad`, gradients and mode. It runs in float32,
    also under the caller's autocast, and works under the caller's `no_grad`, but not under `inference_mode`.

    Args:
        model: in eval mode; [0, 1] images in, logits [N, classes] out.
        images: float32 [N, C, H, W] in [0, 1].
        labels: int64 [N], the true labels.
        eps: radius, 0 to 1; 0 returns a copy of `images`.
        step_sizes: size of each step. The Noisy Student paper runs 10 and does not print their size;
            `[eps / 4] * 10` is the usual 2.5 * eps / steps.
        generator: draws a random start within the ball, on the images' device; None starts at the image.
    """
    assert not torch.is_inference_mode_enabled(), "an attack needs gradients: use no_grad, not inference_mode"
    assert not any(module.training for module in model.modules()), "attack a model in eval mode"
    assert images.dtype == torch.float32, f"images are {images.dtype}, not float32"
    assert bool(((images >= 0) & (images <= 1)).all()), "images leave [0, 1]: normalise inside the model"
    assert 0 <= eps <= 1, f"eps {eps} is not on the [0, 1] scale: divide by 255"
    clean = images.detach().clone()
    if eps == 0:
        return clean
    lowest, highest = (clean - eps).clamp(min=0), (clean + eps).clamp(max=1)
    adversarial = clean
    if generator is not None:
        noise = torch.empty_like(clean).uniform_(-eps, eps, generator=generator)
        adversarial = (clean + noise).clamp(lowest, highest)
    with _constant_parameters(model), torch.autocast(images.device.type, enabled=False):
        for step_size in step_sizes:
            ascent = step_size * _input_gradient(model, adversarial, labels).sign()
            adversarial = (adversarial + ascent).clamp(lowest, highest)
    farthest = float((adversarial - clean).abs().max())
    assert farthest <= eps + _ROUNDING, f"the attack moved a pixel by {farthest}, beyond eps {eps}"
    return adversarial


def _input_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the loss by the images, float32 [N, C, H, W].

    The loss is summed over the batch: with the mean, the tiny gradients of a confident model underflow,
    sign(0) = 0 and the image stays as it is. So an image's attack does not depend on its batch, either.
    """
    with torch.enable_grad():
        leaf = images.detach().requires_grad_(True)
        loss = cross_entropy(model(leaf).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


@contextmanager
def _constant_parameters(model: nn.Module) -> Iterator[None]:
    """Spares the gradients of the parameters; their `requires_grad` is put back whatever happens."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
