"""Where images come from, and which split each belongs to.

In: a `DataConfig`. Out: a `Source`, whose parts stream images that are read when asked for; and the identity of
the images. Every person's mistake about places and lists is found before an image is read.

    digits.py        scikit-learn's handwritten digits
    folder.py        folders by class
    imagenet.py      ImageNet as it is handed out
    manifest.py      CSV and Parquet lists of paths and labels
    webdataset.py    tar shards, local or in S3, indexed where they lie
    torchvision.py   CIFAR, SVHN and STL-10, in their own files

    kind.py          what each of them offers
    splits.py        which image goes to which split
    parts.py         parts of images that are files
    archives.py      the files of CIFAR, SVHN and STL-10
    lists.py         the lists of `manifest`
    digests.py       digests of files, remembered between runs

Loads neither torch nor scikit-learn: an orchestrator asks for `check` and `content_digest`.
"""

from ns_core.config import DataConfig
from ns_core.data.source import Source
from ns_core.data.sources.digits import DIGITS
from ns_core.data.sources.folder import FOLDER
from ns_core.data.sources.imagenet import IMAGENET
from ns_core.data.sources.kind import Kind
from ns_core.data.sources.manifest import MANIFEST
from ns_core.data.sources.torchvision import TORCHVISION
from ns_core.data.sources.webdataset import WEBDATASET, roots

__all__ = ["check", "content_digest", "open_source", "shard_roots"]


_KINDS: dict[str, Kind] = {
    "digits": DIGITS,
    "folder": FOLDER,
    "imagenet": IMAGENET,
    "manifest": MANIFEST,
    "webdataset": WEBDATASET,
    "torchvision": TORCHVISION,
}


def open_source(config: DataConfig) -> Source:
    """The source that the configuration names. Raises `UserError` for a mistake in places, lists or numbers."""
    return _KINDS[config.source].open(config)


def content_digest(config: DataConfig) -> str:
    """The identity of the images that the configuration points at, wherever they lie: it covers each byte that is
    read, and what decides about labels and splits. Raises `UserError` as `open_source` does."""
    return _KINDS[config.source].digest(config)


def check(config: DataConfig) -> None:
    """Raises `UserError` for what a person can have got wrong and can be seen without reading images."""
    _KINDS[config.source].check(config)


def shard_roots(config: DataConfig) -> dict[str, str]:
    """Field -> folder or `s3://` URI below which the shards of `RawSample.shard` lie, for sources whose shards are
    left in place; else nothing."""
    return roots(config) if config.source == "webdataset" else {}
