"""The report of an evaluation as data: what `report.json` holds. Loads neither torch nor pandas.

Shares are 0 to 1; flip probabilities too. CE, mCE, FR and mFR are ratios times 100, as published. What was not measured
is None. Every figure was computed from the Parquet files beside it (`evaluation.tables`).
"""

from typing import Literal

from pydantic import JsonValue

from ns_core.artifacts import Frozen

LEVEL = 0.95
"""Of every interval."""
FIGURES = (
    "holdout_top1",
    "test_top1",
    "ece",
    "mean_corruption_error",
    "mean_flip_probability",
    "fgsm_strongest_top1",
    "pgd_strongest_top1",
)
"""Of the record's figures those that tables, charts and exports carry."""


class Estimate(Frozen):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float
    images: int
    """It rests on so many source images."""


class Paired(Frozen):
    """This checkpoint against the baseline on the same images. Differences are this one's minus the baseline's."""

    difference: Estimate
    """Of top-1 accuracy, or of the mean error or flip probability; the interval is a paired bootstrap over source
    images."""
    p_value: float | None
    """Exact McNemar test, two-sided; None for means over several variants of an image."""
    negative_flips: float | None = None
    """Share of images that the baseline gets right and this one wrong."""
    positive_flips: float | None = None


class Accuracy(Frozen):
    """Predictions on single images."""

    top1: Estimate
    top5: float | None
    """None with fewer than 6 classes."""
    ece: float
    """Expected calibration error, 15 equal bins (Guo et al. 2017)."""
    rms_calibration_error: float | None
    """Adaptive bins of 100 images (Hendrycks et al. 2021), the last bin included; None with fewer than 200 images."""
    nll: float
    brier: float
    aurc: float
    """Area under the risk-coverage curve."""
    aurra: float
    """Area under the response-rate accuracy curve (natural-adv-examples)."""
    risk_coverage: list[tuple[float, float]]
    """(coverage, error) at 20 steps or fewer."""
    reliability: list[tuple[float, float, int]]
    """(mean confidence, accuracy, images) of each bin of `ece` that has images."""
    per_class: list[float | None]
    """Accuracy by class of the checkpoint; None for a class without images."""
    balanced: float
    """Mean of `per_class`."""
    confused: list[tuple[int, int, int]]
    """(true, predicted, images) of the most frequent mistakes, at most 50."""
    against_baseline: Paired | None = None


class Subset(Frozen):
    """ImageNet-A, -R, -V2, -Sketch: natural images, and clean images of the same classes."""

    accuracy: Accuracy
    classes: int
    """The network chose among so many, however many of them have images."""
    clean: Accuracy | None
    """On `OfficialSets.images`, same classes, same mask; None without them."""
    gap: float | None
    """Clean top-1 minus the set's."""
    comparable: bool = False
    """Whether `accuracy` is the published figure: all images of the official set, nothing missing,
    and the network chose among the set's own classes."""


class OutOfDistribution(Frozen):
    """ImageNet-O: unknown classes are to be told by low confidence (score: minus the largest probability; unknown is
    the positive class)."""

    unknown: int
    known: int
    aupr: Estimate
    auroc: Estimate
    comparable: bool = False
    """Whether these are the published figures: all 2,000 unknown images, 50 known ones of each of the 200 classes, and
    nothing missing."""
    fpr95: float
    """Share of known images above the threshold that finds 95 % of the unknown ones."""


class Corruptions(Frozen):
    """Errors under corruptions, of official files or of images corrupted on the fly."""

    errors: dict[str, dict[str, float]]
    """Corruption -> severity "1".."5" -> top-1 error; what is missing is not there."""
    means: dict[str, float]
    """Corruption -> mean over its severities."""
    mean_error: Estimate | None
    """Mean over the test corruptions that are there, the four extra ones left out; bootstrap over source images."""
    mean_top1: float | None
    """1 - `mean_error`, as the paper's tables give it beside mCE."""
    extra: list[str]
    """Of `errors`, those that are in no mean: speckle_noise, gaussian_blur, spatter, saturate."""
    normaliser: Literal["AlexNet", "baseline"] | None
    """Whose errors CE is relative to: AlexNet's for ImageNet-C of 224 pixels and a checkpoint of ImageNet's 1,000
    classes, else the baseline's."""
    ce: dict[str, float]
    """Corruption -> CE, in percent; empty without a normaliser."""
    mce: Estimate | None
    """Mean CE: with AlexNet only of the official files, all 15 at all 5 severities; with the baseline only where it
    errs on every corruption."""
    relative_mce: float | None
    """The same of what corruption adds to the clean error. By AlexNet, None unless every image is there clean and
    nothing is missing; by the baseline, of the clean images that both have, None when these are too few. None where
    corruption costs the normaliser nothing."""
    comparable: bool
    """Whether this is the published figure (`mce` of ImageNet-C by AlexNet, `mean_error` of CIFAR-10-C): official
    files, nothing missing, all 50,000 or 10,000 images."""
    missing: list[str]
    """`fog` or `fog 3`: asked for or official, and not there."""
    images: int
    """That all counted variants have; the figures are of these."""
    against_baseline: Paired | None = None


class Perturbations(Frozen):
    """How often predictions flip along sequences of frames."""

    flip_probability: dict[str, float]
    """Perturbation -> FP at difficulty 1; `name 2` and `name 3` at the others."""
    top1: dict[str, float]
    """Perturbation -> accuracy over all frames; nothing where labels are not known."""
    t5d: dict[str, float]
    """Perturbation -> unnormalised top-5 distance; nothing with fewer than 5 classes."""
    mean_flip_probability: Estimate | None
    """Over the test perturbations at difficulty 1; bootstrap over source images."""
    mean_t5d: float | None
    extra: list[str]
    """In no mean: speckle_noise, gaussian_blur, spatter, shear (of CIFAR-10-P snow takes spatter's place)."""
    normaliser: Literal["AlexNet", "baseline"] | None
    """As of `Corruptions`, of ImageNet-P."""
    fr: dict[str, float]
    """Perturbation -> flip rate in percent."""
    mfr: Estimate | None
    """Mean FR: with AlexNet only of all 10; with the baseline only where it flips under every perturbation."""
    comparable: bool
    """Whether this is the published figure (`mfr` of ImageNet-P by AlexNet, `mean_flip_probability` of CIFAR-10-P):
    official files, nothing missing, all 50,000 or 10,000 sequences."""
    missing: list[str]
    """Asked for or official at difficulty 1, and not there."""
    sequences: int
    """Source images that all counted perturbations have; the figures are of these."""
    against_baseline: Paired | None = None


class Attack(Frozen):
    """Accuracy under attack. A clean mistake counts as one at every eps."""

    top1: dict[str, Estimate]
    """By eps in 0..255 units of the network's input pixels."""
    settings: dict[str, JsonValue]
    """Steps, step size, loss, norm, resolution, and whatever else one needs to make it again."""
    images: int
    against_baseline: dict[str, Paired] = {}
    """By eps; nothing when the baseline was attacked with other settings."""


class Gap(Frozen):
    """Something that should have been measured and was not; no mean is taken over it silently."""

    suite: str
    """That of the scene; `baseline` where only a comparison is missing."""
    what: str
    """`fog 3`, a folder, a file."""
    reason: str
    images: int = 0
    """That are missing from a scene that was measured; 0: the whole scene is missing."""


class RobustnessReport(Frozen):
    """Everything. A suite that was not asked for is None."""

    model: str
    size: int
    """Test resolution in pixels."""
    class_names: list[str]
    holdout: Accuracy | None = None
    test: Accuracy | None = None
    images: Accuracy | None = None
    """On `OfficialSets.images`."""
    corruptions: Corruptions | None = None
    """On the fly; never comparable with published figures."""
    frost: str = "drawn"
    """`EvaluateConfig.frost` of `corruptions`: with another one its frost, and every mean, is another measure."""
    perturbations: Perturbations | None = None
    attacks: dict[str, Attack] = {}
    """`fgsm`, `pgd`, `autoattack`."""
    subsets: dict[str, Subset] = {}
    """`imagenet_a`, `imagenet_r`, `imagenet_v2`, `imagenet_sketch`."""
    imagenet_o: OutOfDistribution | None = None
    imagenet_c: Corruptions | None = None
    cifar10_c: Corruptions | None = None
    imagenet_p: Perturbations | None = None
    cifar10_p: Perturbations | None = None
    baseline: str = ""
    """Fingerprint of the report that this one is compared with."""
    gaps: list[Gap] = []
    budget: dict[str, int] = {}
    """Suite -> images or sequences it was limited to; nothing: all."""
