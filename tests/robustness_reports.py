"""Reports of evaluations as data, as a student of the digits recipe and its teacher could leave them."""

from typing import Any, get_args

from ns_core.config.evaluation import CORRUPTIONS, PERTURBATIONS
from ns_core.evaluation.results import (
    Accuracy,
    Attack,
    Corruptions,
    Estimate,
    Gap,
    OutOfDistribution,
    Paired,
    Perturbations,
    RobustnessReport,
    Subset,
)

CLASSES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"]


def estimate(value: float, half: float = 0.02, images: int = 400) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, images=images)


def paired(difference: float, half: float = 0.02, p_value: float | None = 0.004) -> Paired:
    return Paired(
        difference=estimate(difference, half),
        p_value=p_value,
        negative_flips=0.0125,
        positive_flips=0.0125 + difference,
    )


def accuracy(top1: float, against: Paired | None = None, **other: Any) -> Accuracy:
    figures: dict[str, Any] = {
        "top1": estimate(top1),
        "top5": min(1.0, top1 + 0.08),
        "ece": 0.041,
        "rms_calibration_error": 0.062,
        "nll": 0.31,
        "brier": 0.14,
        "aurc": 0.021,
        "aurra": 0.979,
        "risk_coverage": [(step / 20, (1 - top1) * (step / 20) ** 2) for step in range(1, 21)],
        "reliability": [((step + 0.5) / 15, min(1.0, (step + 1.5) / 15), 4 + 3 * step) for step in range(4, 15)],
        "per_class": [round(top1 - 0.03 * (number % 4) + 0.04, 4) for number in range(len(CLASSES))],
        "balanced": top1,
        "confused": [(2, 3, 9), (4, 5, 4)],
        "against_baseline": against,
    }
    return Accuracy(**(figures | other))


def corruptions(scale: float, against: Paired | None = None, **other: Any) -> Corruptions:
    """`scale`: of the errors."""
    names = get_args(CORRUPTIONS)[:15]
    errors = {
        name: {str(level): min(1.0, scale * (0.02 + 0.012 * place) * level) for level in range(1, 6)}
        for place, name in enumerate(names)
    }
    means = {name: sum(levels.values()) / len(levels) for name, levels in errors.items()}
    mean = sum(means.values()) / len(means)
    figures: dict[str, Any] = {
        "errors": errors,
        "means": means,
        "mean_error": estimate(mean, 0.015),
        "mean_top1": 1 - mean,
        "extra": [],
        "normaliser": None,
        "ce": {},
        "mce": None,
        "relative_mce": None,
        "comparable": False,
        "missing": [],
        "images": 400,
        "against_baseline": against,
    }
    return Corruptions(**(figures | other))


def perturbations(scale: float, against: Paired | None = None, **other: Any) -> Perturbations:
    """`scale`: of the flip probabilities."""
    names = get_args(PERTURBATIONS)[:10]
    flips = {name: scale * (0.02 + 0.01 * place) for place, name in enumerate(names)}
    mean = sum(flips.values()) / len(flips)
    figures: dict[str, Any] = {
        "flip_probability": flips,
        "top1": dict.fromkeys(names, 0.8),
        "t5d": {name: 20 * flip for name, flip in flips.items()},
        "mean_flip_probability": estimate(mean, 0.01, 200),
        "mean_t5d": 20 * mean,
        "extra": [],
        "normaliser": None,
        "fr": {},
        "mfr": None,
        "comparable": False,
        "missing": [],
        "sequences": 200,
        "against_baseline": against,
    }
    return Perturbations(**(figures | other))


def attack(top1: dict[str, float], against: dict[str, Paired] | None = None, **settings: Any) -> Attack:
    return Attack(
        top1={eps: estimate(share, 0.03) for eps, share in top1.items()},
        settings={"norm": "Linf", "resolution": 32, "loss": "cross-entropy", **settings},
        images=400,
        against_baseline=against or {},
    )


def teacher_report() -> RobustnessReport:
    """Without a baseline."""
    return RobustnessReport(
        model="ns_efficientnet_xs",
        size=32,
        class_names=CLASSES,
        holdout=accuracy(0.85),
        test=accuracy(0.8575),
        corruptions=corruptions(1.3),
        perturbations=perturbations(1.4),
        attacks={
            "fgsm": attack({"0": 0.8575, "2": 0.6, "4": 0.42, "8": 0.21, "16": 0.11}, steps=1),
            "pgd": attack({"0": 0.8575, "2": 0.56, "4": 0.31, "8": 0.08, "16": 0.0}, steps=10),
        },
    )


def student_report(**other: Any) -> RobustnessReport:
    """Better than `teacher_report` on clean, corrupted and perturbed images, worse under FGSM, undecided under PGD."""
    fgsm = {"0": paired(0.05), "4": paired(-0.01, 0.03), "16": paired(-0.06, p_value=0.001)}
    figures: dict[str, Any] = {
        "model": "ns_efficientnet_s",
        "size": 32,
        "class_names": CLASSES,
        "holdout": accuracy(0.9033, paired(0.0533)),
        "test": accuracy(0.91, paired(0.0525)),
        "corruptions": corruptions(1.0, paired(-0.07, p_value=None), normaliser="baseline", mce=estimate(76.9, 3.0)),
        "perturbations": perturbations(1.0, paired(-0.026, p_value=None)),
        "attacks": {
            "fgsm": attack({"0": 0.91, "2": 0.64, "4": 0.41, "8": 0.17, "16": 0.05}, fgsm, steps=1),
            "pgd": attack({"0": 0.91, "2": 0.61, "4": 0.33, "8": 0.08, "16": 0.01}, {"16": paired(0.01)}, steps=10),
        },
        "baseline": "b" * 64,
    }
    return RobustnessReport(**(figures | other))


def official_report(**other: Any) -> RobustnessReport:
    """Of a network that was given ImageNet's official files, whole."""
    ce = dict.fromkeys(get_args(CORRUPTIONS)[:15], 45.7)
    whole = {
        "normaliser": "AlexNet",
        "ce": ce,
        "mce": estimate(45.7, 0.3, 50_000),
        "comparable": True,
        "images": 50_000,
    }
    flips = {"normaliser": "AlexNet", "mfr": estimate(27.8, 0.3, 50_000), "comparable": True, "sequences": 50_000}
    figures: dict[str, Any] = {
        "images": accuracy(0.85),
        "imagenet_c": corruptions(1.0, None, **whole, relative_mce=60.1),
        "imagenet_p": perturbations(1.0, None, **flips),
        "subsets": {
            "imagenet_a": Subset(accuracy=accuracy(0.6), classes=200, clean=accuracy(0.92), gap=0.32, comparable=True)
        },
        "imagenet_o": OutOfDistribution(
            unknown=2000, known=10_000, aupr=estimate(0.3), auroc=estimate(0.7), fpr95=0.81, comparable=True
        ),
        "corruptions": None,
        "perturbations": None,
        "attacks": {},
        "test": None,
        "holdout": None,
        "baseline": "",
    }
    return student_report(**(figures | other))


GAPS = [
    Gap(suite="imagenet_c", what="fog 3", reason="the folder fog/3 is not there"),
    Gap(suite="imagenet_p", what="tilt", reason="3 clips end early", images=3),
]
