"""AlexNet's figures on ImageNet-C and ImageNet-P, by which CE and FR are normalised; and which of the benchmarks'
corruptions and perturbations count. Constants, and sums over parts of them.

They belong to the official files, of 224 pixels, and to 1,000-way ImageNet: images that are corrupted on the fly (no
JPEG at quality 85, no h264), other classes and other sizes must not be normalised by them.
"""

from collections.abc import Collection, Mapping
from typing import get_args

from ns_core.config.evaluation import CORRUPTIONS, EXTRA_CORRUPTIONS, EXTRA_PERTURBATIONS, PERTURBATIONS

SEVERITIES = ("1", "2", "3", "4", "5")

ALEXNET_SIZE = (224, 224)
"""Height and width of the official files of ImageNet-C and -P."""

CLEAN_ERROR = 0.43478
"""On ImageNet's validation images: torchvision's AlexNet is right on 56.522 %; the paper rounds to 43.5."""

ALEXNET_ERRORS: Mapping[str, tuple[float, float, float, float, float]] = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.94870, 0.98720, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.58430, 0.70048, 0.82108, 0.89750, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.91870, 0.94952),
    "frost": (0.61390, 0.79734, 0.88790, 0.89942, 0.93430),
    "fog": (0.67474, 0.76050, 0.84378, 0.87260, 0.94500),
    "brightness": (0.45140, 0.48502, 0.54048, 0.62166, 0.72440),
    "contrast": (0.64548, 0.76150, 0.88874, 0.97760, 0.99270),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    "pixelate": (0.52218, 0.54620, 0.73728, 0.87092, 0.91262),
    "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
    "speckle_noise": (0.66192, 0.74440, 0.90246, 0.94548, 0.97268),
    "gaussian_blur": (0.54732, 0.70444, 0.82574, 0.89864, 0.95940),
    "spatter": (0.47196, 0.62194, 0.75052, 0.84132, 0.90182),
    "saturate": (0.59342, 0.65514, 0.51174, 0.70834, 0.82260),
}
"""Corruption -> top-1 error at severities 1 to 5, of torchvision's `alexnet-owt-4df8aa71`: the README of
hendrycks/robustness up to commit 5aa129e. The means over the severities of the first 15 are the constants of
google-research/augmix, alibaba/easyrobust and bethgelab/game-of-noise. The last four are the extra ones."""

ALEXNET_FLIP_PROBABILITIES: Mapping[str, float] = {
    "gaussian_noise": 0.2365,
    "shot_noise": 0.3006,
    "motion_blur": 0.0930,
    "zoom_blur": 0.0594,
    "snow": 0.1193,
    "brightness": 0.0489,
    "translate": 0.1101,
    "rotate": 0.1310,
    "tilt": 0.0705,
    "scale": 0.2353,
}
"""Perturbation -> flip probability at difficulty 1 on ImageNet-P (Hendrycks & Dietterich 2019, table of flip rates).

To be confirmed by a run of AlexNet: no text with the ten numbers was at hand when they were entered. What speaks for
them is that with the stored flip probabilities of ResNeXt-101 32x48d WSL (eminorhan/resnext-wsl) they give the
published mFR, 27.8; an error of half a point in one of them would hide behind that rounding. AlexNet's top-5 distances
are not known: T5D is reported unnormalised."""

OFFICIAL_IMAGES: Mapping[str, int] = {
    "imagenet_a": 7_500,
    "imagenet_r": 30_000,
    "imagenet_v2": 10_000,
    "imagenet_sketch": 50_889,
    "imagenet_o": 2_000,
    "imagenet_c": 50_000,
    "imagenet_p": 50_000,
    "cifar10_c": 10_000,
    "cifar10_p": 10_000,
}
"""Source images of each set; figures of fewer are not the published ones.

Published counts, but of ImageNet-Sketch: its paper has 50,000, 50 a class, and its archive 50,889 files. Those of
ImageNet-V2 are of each of its three variants, those of ImageNet-O its images of unknown classes."""

OFFICIAL_KNOWN = 10_000
"""Known images of ImageNet-O's protocol. Not published as such: 50 validation images of each of 200 classes."""

OFFICIAL_CHOICES: Mapping[str, int] = {
    "imagenet_a": 200,
    "imagenet_r": 200,
    "imagenet_v2": 1_000,
    "imagenet_sketch": 1_000,
    "imagenet_o": 200,
}
"""Classes among which a network has to choose for the published figures."""


def alexnet_means(levels: Mapping[str, Collection[str]]) -> dict[str, float]:
    """Corruption -> AlexNet's mean error over the severities given for it, "1" to "5".

    CE is a ratio of means over severities (augmix, `compute_mce`), never a mean of ratios.
    """
    return {
        name: sum(ALEXNET_ERRORS[name][int(level) - 1] for level in chosen) / len(chosen)
        for name, chosen in levels.items()
        if chosen
    }


def counted_corruptions() -> tuple[str, ...]:
    """The 15 that count in means and in mCE, of every suite alike."""
    return tuple(name for name in get_args(CORRUPTIONS) if name not in EXTRA_CORRUPTIONS)


def counted_perturbations(suite: str) -> tuple[str, ...]:
    """Those that count in the means of a suite. CIFAR-10-P's own script has `spatter` where the others have `snow`
    (hendrycks/robustness, cifar-p-eval.py)."""
    assert suite in ("perturbations", "imagenet_p", "cifar10_p"), f"{suite} has no perturbations"
    counted = [name for name in get_args(PERTURBATIONS) if name not in EXTRA_PERTURBATIONS]
    if suite == "cifar10_p":
        counted[counted.index("snow")] = "spatter"
    return tuple(counted)
