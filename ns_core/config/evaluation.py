"""Settings of what the teacher labels, what is selected of it, and how a network is judged."""

import re
from typing import ClassVar, Literal, Self, get_args

from pydantic import model_validator

from ns_core.config.training import STILL, Augmentation
from ns_core.settings import Settings, StageConfig, resource, science

CORRUPTIONS = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
    "speckle_noise",
    "gaussian_blur",
    "spatter",
    "saturate",
]
EXTRA_CORRUPTIONS = get_args(CORRUPTIONS)[15:]
"""For choices during development; in no mean, and never in mCE (hendrycks/robustness)."""

PERTURBATIONS = Literal[
    "gaussian_noise",
    "shot_noise",
    "motion_blur",
    "zoom_blur",
    "snow",
    "brightness",
    "translate",
    "rotate",
    "tilt",
    "scale",
    "speckle_noise",
    "gaussian_blur",
    "spatter",
    "shear",
]
EXTRA_PERTURBATIONS = get_args(PERTURBATIONS)[10:]
"""As `EXTRA_CORRUPTIONS`."""

_EPS = {"items": {"type": "number", "minimum": 0, "maximum": 255}}
"""An attack's strengths, in a form."""


class InferConfig(StageConfig):
    """infer-unlabeled: the noise-free teacher labels the pool (algorithm 1, step 2)."""

    STAGE: ClassVar[str] = "infer-unlabeled"
    VERSION: ClassVar[int] = 2

    top_k: int = science(0, ge=0)
    """The soft label keeps so many of the most probable classes, and their joint mass; 0: all, as fp16. At 1,000
    classes all take 2 kB an image, 0.6 TB for 300 million."""
    embeddings: bool = science(False)
    """The features that the classifier sees are stored too, as fp16."""
    precision: Literal["float32", "bfloat16"] = science("float32")
    """Of the forward pass. bfloat16 moves a trained network's logits by up to a percent of the largest."""
    dropout: float = science(0.0, ge=0, lt=1, added=True)
    """Noise on the teacher while it labels, for the ablation that shows why there should be none (paper, section 4.1):
    the share of the classifier's inputs that is dropped, for each image anew. Noise is computed in float32."""
    stochastic_depth: float = science(0.0, ge=0, lt=1, added=True)
    """Likewise: the rate at which the last block is skipped; earlier ones less, linearly."""
    augmentation: Augmentation = science(STILL, added=True)
    """Likewise: of the pictures that the teacher labels."""
    seed: int = science(0, ge=0, lt=2**32, added=True, title="Seed of the noise")
    """Draws that noise, with the image's key; the recipe's seed is added."""
    min_coverage: float = resource(0.1, ge=0, le=1)
    """Of the classes, the share that the first shards must show among their predictions."""
    min_entropy: float = resource(0.1, ge=0, le=1)
    """Of the predictions of the first shards, as a share of that of equally frequent classes."""
    holdout_tolerance: float = resource(0.005, ge=0, le=1)
    """The teacher's holdout top-1 may differ by so much from what its checkpoint's record says, or by two images."""
    max_bad_fraction: float = resource(0.001, ge=0, le=1)
    """The stage fails when more than this share of the pool cannot be read; below, each is recorded with the reason."""
    batch_size: int = resource(256, ge=1)
    """Images at a time up to 128 pixels a side; of larger ones as many pixels."""

    @property
    def noised(self) -> bool:
        """Whether the teacher labels with noise."""
        return self.dropout > 0 or self.stochastic_depth > 0 or self.augmentation != STILL

    @model_validator(mode="after")
    def _plain_with_noise(self) -> Self:
        if self.noised and (self.embeddings or self.precision != "float32"):
            wrong = "embeddings=false" if self.embeddings else "precision=float32"
            raise ValueError(f"noise on the teacher (dropout, stochastic_depth, augmentation) goes with {wrong} alone")
        return self


class SelectConfig(StageConfig):
    """filter-and-balance: which pseudo-labelled images the student sees, and how often."""

    STAGE: ClassVar[str] = "filter-and-balance"
    VERSION: ClassVar[int] = 2

    threshold: float = science(0.3, ge=0, le=1)
    """Lowest confidence that is kept (paper: 0.3 for 1,000 classes; few classes want more)."""
    per_class: int = science(130_000, ge=1, title="Images per class")
    """Images kept of each predicted class, the most confident first (paper: 130,000)."""
    max_copies: int = science(10, ge=1)
    """Classes with fewer images than `per_class` repeat theirs, at most this often."""
    confidence: Literal["raw", "calibrated"] = science("raw")
    """What the threshold and the ranking go by: the teacher's largest probability, or the same after temperature
    scaling fitted on the holdout (Guo et al. 2017)."""
    rule: Literal["top", "official"] = science("top")
    """`top`: exactly the most confident `per_class` images of a class. `official`: those above the edge of a bin of
    0.01, each with the expected number of copies, as google-research/noisystudent does; seeded here."""
    duplicates: Literal["keep", "bytes", "near"] = science("bytes")
    """Of images with equal bytes, or that prepare-dataset found to look alike (`near`; by perceptual hash, which takes
    blank pictures for one), only the most confident counts and is kept."""
    max_confidence: float = science(1.0, gt=0, le=1, title="Highest confidence", added=True)
    """Images as sure as this or surer are left out, which with the threshold makes a band (paper, appendix A.2: ten of
    a tenth each); 1: none are."""
    pool_fraction: float = science(1.0, gt=0, le=1, title="Share of the pool", added=True)
    """Chosen from is this share of the pool, by a hash of each image's bytes: a smaller share lies within a larger
    one (paper, appendix A.2: 1/128 to all)."""
    pool_seed: int = science(0, ge=0, lt=2**32, title="Seed of the share", added=True)
    """Decides which images are in a share of the pool, the same in all generations; the recipe's seed is added."""
    target_precision: float = science(0.0, ge=0, lt=1, title="Wanted precision", added=True)
    """Gives each class a lowest confidence of its own: from which on its labels of the holdout are right this often,
    and never below `threshold`; nothing is kept of a class for which none is found. 0: `threshold` alone, for all."""
    target_rule: Literal["estimated", "assured"] = science("estimated", title="How it is shown", added=True)
    """Of the wanted precision. `estimated`: the holdout's share of right labels reaches it, which is often too good to
    be true. `assured`: the chance that it is not reached is 5 % a class; for 0.95 that takes 59 images of a class."""
    materialize: bool = science(False)
    """The selected images are written out as shards of their own, shuffled: training then reads them in sequence."""
    shard_megabytes: int = science(1024, ge=1)
    """Size of these shards, in 2^20 bytes."""
    seed: int = science(0, ge=0, lt=2**32)
    """Decides which images of a short class get the odd copy, and the order of shards that are written out."""

    @model_validator(mode="after")
    def _band(self) -> Self:
        if self.max_confidence <= self.threshold and self.max_confidence < 1:
            raise ValueError(
                f"max_confidence {self.max_confidence:g} leaves nothing above threshold {self.threshold:g}: raise it"
            )
        if self.target_rule == "assured" and not self.target_precision:
            raise ValueError("target_rule=assured says how target_precision is shown: set that too, such as 0.95")
        return self


class OfficialSets(Settings):
    """Folders of the robustness benchmarks' own files, as their authors pack them; empty: not measured. What lies there
    is part of the identity, where it lies is not."""

    images: str = resource("")
    """A folder of class folders, such as ImageNet's validation images: clean accuracy, corruptions, perturbations and
    attacks are measured on it in place of the dataset's test split."""
    imagenet_a: str = resource("", title="ImageNet-A")
    """A folder with `n01498041/*.jpg`."""
    imagenet_r: str = resource("", title="ImageNet-R")
    """A folder with `n01498041/*.jpg`."""
    imagenet_o: str = resource("", title="ImageNet-O")
    """A folder with `n01498041/*.jpg`."""
    imagenet_v2: str = resource("", title="ImageNetV2")
    """A folder with `0/*.jpeg` to `999/*.jpeg`."""
    imagenet_sketch: str = resource("", title="ImageNet-Sketch")
    """A folder with `n01498041/*.jpg`."""
    imagenet_c: str = resource("", title="ImageNet-C")
    """A folder with `fog/3/n01440764/*.JPEG` or `weather/fog/3/n01440764/*.JPEG`."""
    imagenet_p: str = resource("", title="ImageNet-P")
    """A folder with `tilt/n01440764/*.mp4`."""
    cifar10_c: str = resource("", title="CIFAR-10-C")
    """A folder with `fog.npy` and `labels.npy`."""
    cifar10_p: str = resource("", title="CIFAR-10-P")
    """A folder with `tilt.npy`."""

    def given(self) -> dict[str, str]:
        """Name -> folder of those that are set."""
        return {name: folder for name in type(self).model_fields if (folder := getattr(self, name))}


class EvaluateConfig(StageConfig):
    """evaluate-robustness: clean, corrupted, perturbed and attacked accuracy, official sets, calibration; the gate."""

    STAGE: ClassVar[str] = "evaluate-robustness"
    VERSION: ClassVar[int] = 2

    corruptions: tuple[CORRUPTIONS, ...] = science(tuple(one for one in get_args(CORRUPTIONS)[:15]))
    """Made on the fly. Speckle noise, Gaussian blur, spatter and saturate count in no mean. Empty: not measured."""
    severities: tuple[int, ...] = science((1, 2, 3, 4, 5), form={"items": {"type": "integer", "enum": [1, 2, 3, 4, 5]}})
    """Of each corruption, from the mildest, 1, to the strongest, 5."""
    frost: Literal["drawn", "photographs"] = science("drawn")
    """Ice of `frost`: drawn by a program, or the official photographs, from the package imagecorruptions-imaug."""
    perturbations: tuple[PERTURBATIONS, ...] = science(tuple(one for one in get_args(PERTURBATIONS)[:10]))
    """Sequences made on the fly, at difficulty 1. Speckle noise, Gaussian blur, spatter and shear count in no mean.
    Empty: not measured."""
    fgsm_eps: tuple[float, ...] = science((0.0, 2.0, 4.0, 8.0, 16.0), form=_EPS, title="FGSM eps")
    """In 0..255 units of the model's input pixels (paper, figure 3). Empty: no such attack."""
    pgd_eps: tuple[float, ...] = science((0.0, 2.0, 4.0, 8.0, 16.0), form=_EPS, title="PGD eps")
    """As of FGSM."""
    pgd_steps: int = science(10, ge=1, le=1000, title="PGD steps")
    """Of eps / 4 or, with other numbers of steps, 2.5 * eps / steps: the paper (appendix) says 10 and not how large."""
    autoattack_eps: tuple[float, ...] = science((), form=_EPS, title="AutoAttack eps")
    """AutoAttack's standard set (Croce & Hein 2020); wants the extra `autoattack`, and minutes a hundred images.
    Empty: no such attack."""
    official: OfficialSets = resource(OfficialSets(), title="Official sets")
    max_images: int = science(2_000, ge=10)
    """Test images used for corruptions; a seeded, stratified draw when there are more."""
    max_sequences: int = science(200, ge=10)
    """Images of which sequences of 16 to 41 frames are made."""
    max_attacked: int = science(500, ge=10)
    """Images that are attacked; PGD's ten steps take as long as thirty predictions."""
    max_official: int = science(0, ge=0)
    """Images or clips of each official set, the same of each corruption; 0: all, and only then are the figures the
    published ones."""
    min_gain: float = science(0.0, ge=-1, le=1)
    """Gate: the student's holdout accuracy minus the teacher's must reach this, as a share."""
    max_worst_class_drop: float = science(0.2, ge=0, le=1)
    """Gate: the accuracy of the worst class may fall by so much, as a share."""
    max_ece_rise: float = science(0.15, ge=0, le=1, title="Max ECE rise")
    """Gate: the expected calibration error may rise by so much, as a share."""
    stop_p_value: float = science(0.01, gt=0, lt=1, title="Stop p-value")
    """Gate: a student that is worse at this level of an exact McNemar test stops the run."""
    seed: int = science(0, ge=0, lt=2**32)
    """Added to the recipe's seed, as in every stage."""
    batch_size: int = resource(256, ge=1)
    """Images at a time up to 128 pixels a side; of larger ones as many pixels."""

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if wrong := [level for level in self.severities if not 1 <= level <= 5]:
            raise ValueError(f"severities: {wrong[0]} is not one of 1 to 5")
        for field in ("fgsm_eps", "pgd_eps", "autoattack_eps"):
            if wrong_eps := [eps for eps in getattr(self, field) if not 0 <= eps <= 255]:
                raise ValueError(f"{field}: {wrong_eps[0]} is not between 0 and 255")
            # A scene is called by its eps, and so are its files.
            if odd := [eps for eps in getattr(self, field) if not re.fullmatch(r"[\d.]+", f"{eps:g}")]:
                raise ValueError(f"{field}: {odd[0]} is neither 0 nor at least 0.0001")
            if long := [eps for eps in getattr(self, field) if float(f"{eps:g}") != eps]:
                raise ValueError(f"{field}: {long[0]} has more than six digits")
        return self


class ImportConfig(StageConfig):
    """import-checkpoint: a network from elsewhere, as a checkpoint of this store."""

    STAGE: ClassVar[str] = "import-checkpoint"
    VERSION: ClassVar[int] = 1

    model: str = science("")
    """A timm name, with its tag (`tf_efficientnet_b0.ns_jft_in1k`) for the right normalisation and crop."""
    weights: str = resource("")
    """A .safetensors, .pth or .bin file; its bytes are part of the identity."""
    pretrained: bool = science(False)
    """Without a file: timm's own weights, which are downloaded from the Hugging Face Hub."""
    folder: str = resource("")
    """In place of all others: a checkpoint of this system's, `model.safetensors` and `model.json`; their bytes are
    part of the identity."""
    class_names: tuple[str, ...] = science(())
    """Empty: the 1,000 WordNet ids of ImageNet, in timm's order."""
    test_size: int = science(0, ge=0)
    """Pixels a side; 0: what timm says the weights are tested at."""

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.folder:
            if self.model or self.weights or self.pretrained or self.class_names or self.test_size:
                raise ValueError("folder: its model.json says all about the network; leave the other fields empty")
        elif not self.model:
            raise ValueError("model: give a timm name, or the folder of a checkpoint")
        elif bool(self.weights) == self.pretrained:
            raise ValueError(f"model '{self.model}': give a file of weights, or ask for the download with pretrained")
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError("class_names: a name is there twice")
        return self
