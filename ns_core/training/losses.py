"""The loss of a joint batch, in the three forms that the paper and its code use, and one without labels.

With B labelled images (mean cross-entropy L) and r*B pseudo-labelled ones (mean U):

    concat      (L + r*U) / (1 + r)   the mean over the concatenated batch (paper, section 2: text)
    official    L + r*U               google-research/noisystudent, main.py: (1+r) times `concat`
    algorithm1  L + U                 paper, algorithm 1
    pseudo      U                     pre-training; labelled images still count in BatchNorm's statistics
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

LossForm = Literal["concat", "official", "algorithm1", "pseudo"]


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-sum q log p for each image. logits, targets: float32[B,C] -> float32[B]."""
    return -(targets * functional.log_softmax(logits.float(), dim=1)).sum(dim=1)


def joint_loss(logits: Tensor, targets: Tensor, labelled: int, form: LossForm) -> Tensor:
    """The scalar loss of a batch whose first `labelled` rows are labelled ones; the rest may be empty."""
    each = soft_cross_entropy(logits, targets)
    if labelled == len(each):
        return each.mean()
    supervised, pseudo = each[:labelled].mean(), each[labelled:].mean()
    if form == "pseudo":
        return pseudo
    if form == "algorithm1":
        return supervised + pseudo
    ratio = (len(each) - labelled) / labelled
    official = supervised + ratio * pseudo
    return official if form == "official" else official / (1 + ratio)


def pseudo_targets(probabilities: Tensor, kind: Literal["soft", "hard"], temperature: float) -> Tensor:
    """What the student is trained towards: p^(1/T) normalised, or the one-hot of the largest.

    float32[N,C] -> float32[N,C]. Rows are normalised again, since they were stored as fp16. By way of the
    logarithm: at T = 0.01 every p^(1/T) of a row below 0.35 is 0 in float32, and their sum divides by it.
    """
    if kind == "hard":
        return functional.one_hot(probabilities.argmax(dim=1), probabilities.shape[1]).float()
    return torch.softmax(probabilities.log() / temperature, dim=1)
