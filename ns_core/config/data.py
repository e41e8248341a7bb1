"""Settings of prepare-dataset: the images, what is kept of them, and how they are split."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from ns_core.settings import StageConfig, resource, science


class DataConfig(StageConfig):
    """prepare-dataset: the images, and how they are split."""

    STAGE: ClassVar[str] = "prepare-dataset"
    VERSION: ClassVar[int] = 2

    source: Literal["digits", "folder", "imagenet", "manifest", "webdataset", "torchvision"] = science("digits")
    """`digits`: scikit-learn's 1,797 handwritten digits. `folder`: a folder with one folder a class. `imagenet`:
    ImageNet's own layout. `manifest`: CSV or Parquet lists of paths and labels. `webdataset`: tar shards, indexed
    where they lie. `torchvision`: CIFAR, SVHN, STL-10."""
    labeled: str = resource("", title="Labelled images")
    """A folder with one folder a class (`folder`), ImageNet's root (`imagenet`), a list (`manifest`), or shards: a
    folder, a glob or s3://bucket/prefix (`webdataset`). Its place is not identity; its bytes are."""
    unlabeled: str = resource("", title="Unlabelled images")
    """A folder, at any depth, or a list or shards as for `labeled`."""
    holdout: str = resource("")
    """Images for every choice, as `labeled`; empty: split off the labelled part."""
    test: str = resource("")
    """Images for the report, as `labeled`; empty: split off the labelled part."""
    dataset: Literal["cifar10", "cifar100", "svhn", "stl10"] = science("cifar10", title="Dataset of torchvision")
    """Which one (source `torchvision`)."""
    root: str = resource("", title="Folder of torchvision")
    """Where torchvision's files lie (source `torchvision`)."""
    download: bool = resource(False, title="Download by torchvision")
    """Let torchvision download its files into `root` when they are not there (source `torchvision`)."""
    labels_per_class: int = science(5, ge=0)
    """Labelled images a class; the others join the pool (sources `digits`, `torchvision`). 0: all."""
    holdout_images: int = science(300, ge=10)
    """Images of the holdout (sources `digits`, `torchvision`)."""
    test_images: int = science(400, ge=10)
    """Images of the test split (source `digits`)."""
    holdout_fraction: float = science(0.15, gt=0, lt=1)
    """Share of each class split off for every choice, when `holdout` is empty."""
    test_fraction: float = science(0.15, gt=0, lt=1)
    """Share of each class split off for the report, when `test` is empty."""
    near_duplicates: bool = science(True)
    """The leak guard drops near-duplicates of holdout and test images too, not only equal bytes."""
    resize: int = science(0, ge=0)
    """Larger images are shrunk to this short side, in pixels, and kept as JPEG; 0: all keep their own bytes."""
    jpeg_quality: int = science(90, ge=1, le=100, title="JPEG quality")
    """Of images that were resized."""
    max_corrupt_fraction: float = science(0.01, ge=0, le=1)
    """The stage fails when more than this share of the images cannot be decoded."""
    shard_images: int = science(10_000, ge=1)
    """Images in one shard at most."""
    shard_megabytes: int = science(1024, ge=1)
    """A shard is closed once it holds this much, in 2^20 bytes."""
    seed: int = science(0, ge=0, lt=2**32)
    """Added to the recipe's seed, as in every stage."""

    @model_validator(mode="after")
    def _fractions(self) -> Self:
        if self.holdout_fraction + self.test_fraction >= 1:
            raise ValueError("holdout_fraction + test_fraction leave nothing to train on: lower one")
        if self.resize and self.source == "webdataset":
            raise ValueError("resize: shards are indexed where they lie, their images are not rewritten; set it to 0")
        return self
