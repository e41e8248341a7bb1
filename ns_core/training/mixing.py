"""Mixup and CutMix of a batch on its device: options beside the paper's recipe, which has neither.

In: images float32[B,3,H,W] and targets float32[B,C], the labelled stream's rows first. Out: the same shapes,
each image mixed with another of its own stream, each target with that image's by the same share.

    mixup    Zhang et al. 2018 (arXiv 1710.09412): x = lambda * x_i + (1 - lambda) * x_j
    CutMix   Yun et al. 2019 (arXiv 1905.04899), algorithm 1: a rectangle of x_j pasted into x_i

lambda is drawn from Beta(alpha, alpha) once a batch, and j is the mirror image of i in its stream: rows come
shuffled, so that this is as good as a permutation (as in timm). A pseudo-labelled image never carries
labelled pixels, nor the other way round, so that the mean losses of the streams stay what their names say.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ns_core.config import TrainConfig


def mix(
    images: Tensor, targets: Tensor, labelled: int, config: TrainConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Images and targets mixed as `config.mixup` and `config.cutmix` say; with both, a fair coin chooses.

    The first `labelled` rows are one stream, the rest, which may be empty, the other. Rows of targets keep
    their sum. The inputs are not written to and come back as they are when both settings are 0; otherwise
    one more batch is allocated and nothing else, in the memory format of the first. All chance is from `rng`.
    """
    if config.mixup == config.cutmix == 0:
        return images, targets
    cut = config.mixup == 0 or (config.cutmix > 0 and rng.random() < 0.5)
    alpha = config.cutmix if cut else config.mixup
    share = float(rng.beta(alpha, alpha))
    own: float | Tensor = share
    if cut:
        height, width = images.shape[2:]
        top, bottom = _span(height, share, rng)
        left, right = _span(width, share, rng)
        own = torch.ones((height, width), device=images.device)
        own[top:bottom, left:right] = 0
        share = 1 - (bottom - top) * (right - left) / (height * width)
    order = _partners(len(images), labelled, images.device)
    mixed = torch.index_select(images, 0, order, out=torch.empty_like(images)).lerp_(images, own)
    return mixed, targets[order].lerp_(targets, share)


def _partners(rows: int, labelled: int, device: torch.device) -> Tensor:
    """int64[rows]: each stream's rows in reverse."""
    ends = (labelled - 1, -1), (rows - 1, labelled - 1)
    return torch.cat([torch.arange(first, end, -1, device=device) for first, end in ends])


def _span(side: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    """First row (or column) of the rectangle, and the first after it: 1 - `share` of the area when it lies inside.

    Its centre is any pixel, and what reaches over the edge is lost (official CutMix code, `rand_bbox`), hence
    the share that is counted afterwards.
    """
    half, centre = int(side * math.sqrt(1 - share)) // 2, int(rng.integers(side))
    return max(0, centre - half), min(side, centre + half)
