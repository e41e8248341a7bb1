"""AutoAttack's standard set (Croce & Hein, ICML 2020), by the library pyautoattack, which is an optional extra.

In: what `evaluation.attacks` attacks. Out: adversarial images of the same shape. Four attacks in turn, each on the
images that are still right: APGD on cross-entropy, targeted APGD, targeted FAB, Square.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from ns_core.evaluation.attacks.autoattack_package import PACKAGE, require

__all__ = ["SEED", "STANDARD", "TARGETS", "require", "settings", "standard"]

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
SEED = 0
TARGETS = 9
"""Classes that each targeted attack aims at, those with the highest scores; fewer where there are fewer."""


def settings() -> dict[str, JsonValue]:
    """What a report says about it, beside what all attacks have in common."""
    return {
        "library": f"{PACKAGE} {require()}",
        "version": "standard",
        "attacks": list(STANDARD),
        "targets": f"{TARGETS}, or all other classes where there are fewer; with 2 or 3 classes apgd-t is left out",
        "random_start": True,
        "seed": SEED,
        "loss": "cross-entropy, targeted difference of logits ratio, margin",
    }


def standard(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """float32 [N, C, H, W] in [0, 1] within `eps` of `images`: what made the model err, else the image itself.

    The same batch gives the same images: the library's draws are seeded, and the caller's generators are left as
    they were. An image in another batch meets other draws.

    Args:
        model: in eval mode, its parameters without gradients; [0, 1] images in, logits [N, classes] out.
        images: float32 [N, C, H, W] in [0, 1], on the model's device.
        labels: int64 [N], the true labels.
        eps: radius, above 0 and up to 1.

    Raises `UserError` when the library is not installed.
    """
    require()
    from pyautoattack import AutoAttack

    if len(images) == 0:
        return images
    images = images.contiguous()  # the library takes views that channels last does not have
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    cuda = [images.device] if images.is_cuda else []
    with _quiet(), torch.random.fork_rng(devices=cuda):
        attack = AutoAttack(model, norm="Linf", eps=eps, seed=SEED, version="standard", device=images.device)
        # The targeted loss is a ratio of the four highest logits' differences.
        attack.attacks_to_run = [name for name in STANDARD if name != "apgd-t" or classes >= 4]
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(TARGETS, classes - 1)
        found: Tensor = attack.run_standard_evaluation(images, labels, batch_size=len(images))[0]
    # FAB steps over the ball's border by rounding.
    return (images + (found - images).clamp(-eps, eps)).clamp(0, 1)


@contextmanager
def _quiet() -> Iterator[None]:
    """The library's account of each batch goes nowhere; what it warns of stays in the log."""
    logger = logging.getLogger("auto-attack")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
