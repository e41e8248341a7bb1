"""Attacks within an L-infinity ball, untargeted, against the true labels: FGSM and PGD here, AutoAttack by its library.

In: a model that takes float32 images [N, C, H, W] in [0, 1] and normalises them itself, such images, their
labels int64 [N], and eps in units of the [0, 1] scale (eps255 / 255). Out: adversarial images of the same
shape, in [0, 1] and within eps of the originals.

Sources: FGSM, Goodfellow et al., ICLR 2015; PGD, Madry et al., ICLR 2018. Figure 3 of the Noisy Student
paper is FGSM at eps 0, 2, 4, 8 and 16 of 255.

How to count: attack the pixels that the model sees (after resizing and cropping), report the accuracy, and
count an image as right only if the model is right on the clean image and on the adversarial one. An attack
can undo a mistake by chance, and that is no robustness. `attack_settings` says all that for a report.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ns_core.evaluation.attacks import autoattack

Kind = Literal["fgsm", "pgd", "autoattack"]

STEP_RATIO = 2.5
"""PGD's step is this times eps over the number of steps: with 10, eps / 4. It reaches the ball's border and has as many
steps left to move along it (Madry et al., ICLR 2018, section 5.1). The Noisy Student paper prints no step size."""

_ROUNDING = 1e-6
"""Slack on |adversarial - image| <= eps: float32 steps in [0, 1] are at most 6e-8."""


def adversarial(kind: Kind, predictor: nn.Module, images: Tensor, labels: Tensor, eps255: float, steps: int) -> Tensor:
    """The attack of this name at eps in 0..255 units, float32 [N, 3, H, W] as `images`.

    `steps` are PGD's. FGSM and PGD draw nothing, and treat an image alone as in its batch; AutoAttack is seeded,
    and draws for a batch as a whole. Other arguments and rules as for `pgd_linf`.
    Raises `UserError` for AutoAttack without its library.
    """
    eps = eps255 / 255
    if kind == "fgsm":
        return fgsm(predictor, images, labels, eps)
    if kind == "pgd":
        return pgd_linf(predictor, images, labels, eps, [STEP_RATIO * eps / steps] * steps)
    clean = _checked(predictor, images, eps)
    if eps == 0:
        return clean
    with _constant_parameters(predictor), torch.autocast(images.device.type, enabled=False):
        return _within(autoattack.standard(predictor, clean, labels, eps), clean, eps)


def attack_settings(kind: Kind, steps: int, size: int) -> dict[str, JsonValue]:
    """What a report says about an attack, so that somebody else can run it again.

    `steps`: PGD's. `size`: side of the attacked pictures in pixels.
    """
    by_kind: dict[Kind, dict[str, JsonValue]] = {
        "fgsm": {"steps": 1, "step_size": "eps", "random_start": False, "loss": "cross-entropy, summed"},
        "pgd": {
            "steps": steps,
            "step_size": f"{STEP_RATIO} * eps / {steps}",
            "random_start": False,
            "loss": "cross-entropy, summed",
        },
        "autoattack": autoattack.settings(),
    }
    return {
        "norm": "Linf",
        "eps_unit": "1/255 of the range of the network's input pixels",
        **by_kind[kind],
        "labels": "true, untargeted",
        "counting": "right only if right on the clean and on the attacked image: clean mistakes count as errors",
        "size": size,
        "normalisation": "inside the attacked model, after the perturbation",
        "precision": "float32",
    }


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
        step_sizes: size of each step.
        generator: draws a random start within the ball, on the images' device; None starts at the image.
    """
    clean = _checked(model, images, eps)
    if eps == 0:
        return clean
    attacked = clean
    if generator is not None:
        noise = torch.empty_like(clean).uniform_(-eps, eps, generator=generator)
        attacked = (clean + noise).clamp(0, 1)
    with _constant_parameters(model), torch.autocast(images.device.type, enabled=False):
        for step_size in step_sizes:
            moved = attacked + step_size * _input_gradient(model, attacked, labels).sign()
            # As foolbox does it: clamped to [clean - eps, clean + eps], at eps 16 of 255 a last bit differed in 27 of
            # 38,208 pixels.
            attacked = (clean + (moved - clean).clamp(-eps, eps)).clamp(0, 1)
    return _within(attacked, clean, eps)


def _checked(model: nn.Module, images: Tensor, eps: float) -> Tensor:
    """A copy of the images, once all is as an attack needs it."""
    assert not torch.is_inference_mode_enabled(), "an attack needs gradients: use no_grad, not inference_mode"
    assert not any(module.training for module in model.modules()), "attack a model in eval mode"
    assert images.dtype == torch.float32, f"images are {images.dtype}, not float32"
    assert bool(((images >= 0) & (images <= 1)).all()), "images leave [0, 1]: normalise inside the model"
    assert 0 <= eps <= 1, f"eps {eps} is not on the [0, 1] scale: divide by 255"
    return images.detach().clone()


def _within(attacked: Tensor, clean: Tensor, eps: float) -> Tensor:
    """`attacked`, which has to lie in the ball and in the range of pixels."""
    farthest = float((attacked - clean).abs().max()) if len(clean) else 0.0
    assert farthest <= eps + _ROUNDING, f"the attack moved a pixel by {farthest}, beyond eps {eps}"
    assert bool(((attacked >= 0) & (attacked <= 1)).all()), "the attack left the range of pixels"
    return attacked.detach()


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
