"""Source `webdataset`: tar shards that exist already, indexed where they lie; no byte is written again.

In: `labeled`, `unlabeled`, perhaps `holdout` and `test`, each as `shardset` reads them, local or in S3. Out: a
`Source` with one part a shard (of a labelled one: one for each split that has images in it).

A sample is all members that are called the same up to the last dot: webdataset ends a key at the first one, and
makes one sample of `img.v1.0001.jpg` and `img.v1.0002.jpg`. Its image is the member with the ending of one, the
first by name where there are several; its label is in the member `.cls`, as text, or else in `.json` under `label`,
`cls` or `class_name`: an integer or a class name. Class names come from `classes.txt` (one a line) or
`classes.json` (a list) in the root of `labeled`, integers being positions there; without such a file they are
the labels, sorted. Members whose names begin with a dot are passed over.

The labelled shards are read twice: when the source is opened, for the labels, and part by part. Shards without
labels are first read as parts; until then the number of their images is an estimate.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ns_core.config import DataConfig
from ns_core.data.folders import printable, suffix
from ns_core.data.images import CorruptImage
from ns_core.data.index import SPLITS, Split
from ns_core.data.ordered import in_order
from ns_core.data.source import Part, RawSample, Source
from ns_core.data.sources.digests import tree_digest
from ns_core.data.sources.kind import Kind
from ns_core.data.sources.samples import NOWHERE, Found, Vocabulary, class_file, found_in, label_of
from ns_core.data.sources.shardset import ShardSet, find_shards, split_place
from ns_core.data.sources.splits import check_room, cut, fractions, rank
from ns_core.errors import UserError

_FIELDS: dict[str, Split] = {"labeled": "labeled", "holdout": "holdout", "test": "test", "unlabeled": "pool"}
_CUT: tuple[Split, ...] = ("labeled", "holdout", "test")
_NONE, _MOST = -1, 10**6
"""No class; and the most shards, and samples of one, that keys have digits for."""
_SCANNERS = 4
"""Threads that scan labelled shards; as many are on disk at a time when they come from S3."""


@dataclass
class _Labelled:
    """What a field with labels holds, shard by shard."""

    codes: list[NDArray[np.int32]]
    """Number of the label of each sample; `_NONE` of one with neither image nor label."""
    ranks: list[NDArray[np.uint64]]
    """By which the samples of a class are ordered before it is cut."""
    bytes: int
    """Of all shards."""


def webdataset(config: DataConfig) -> Source:
    """The samples of the shards, in parts.

    Raises `UserError` for shards that are missing or not whole, for a labelled image without a label, and for
    classes that are unknown, missing in a split or too small to be cut.
    """
    found = _find(config)
    vocabulary = Vocabulary(class_file(found["labeled"]))
    scanned = {field: _scan(shards, vocabulary, config.seed) for field, shards in found.items() if field in _CUT}
    numbers = np.unique(np.concatenate(scanned["labeled"].codes))
    names, codes = vocabulary.classes(numbers[numbers != _NONE].tolist())
    # Numbers begin at 0 and `_NONE` is -1: the last entry is its own.
    table = np.asarray([*codes, _NONE], np.int32)
    parts: dict[Split, list[Part]] = {split: [] for split in SPLITS}
    for field, one in scanned.items():
        labels = [table[numbers] for numbers in one.codes]
        _check_classes(field, labels, names)
        own = fractions(config, found) if field == "labeled" else {}
        splits = _cut_classes(_FIELDS[field], labels, one.ranks, names, own)
        _add_parts(parts, found[field], labels, splits)
    bytes_each = sum(one.bytes for one in scanned.values()) / sum(len(n) for one in scanned.values() for n in one.codes)
    for number, size in enumerate(found["unlabeled"].sizes()):
        samples = partial(_samples, "pool", found["unlabeled"], number, None)
        parts["pool"].append(Part("pool", number, max(1, round(size / bytes_each)), samples))
    return Source(names, parts)


def _add_parts(
    parts: dict[Split, list[Part]],
    shards: ShardSet,
    labels: Sequence[NDArray[np.int32]],
    splits: Sequence[NDArray[np.uint8]],
) -> None:
    """One for each split that a shard has samples of."""
    for number, (codes, positions) in enumerate(zip(labels, splits, strict=True)):
        for position in np.unique(positions).tolist():
            split, wanted = _CUT[position], positions == position
            samples = partial(_samples, split, shards, number, (wanted, codes))
            parts[split].append(Part(split, len(parts[split]), int(wanted.sum()), samples))


def _scan(shards: ShardSet, vocabulary: Vocabulary, seed: int) -> _Labelled:
    """Headers and labels of all shards of a field."""

    def scan(path: str) -> tuple[list[str | None], list[Found], int]:
        shard, where = shards.open(path), f"data.{shards.field}: {shards.root}/{path}"
        samples = found_in(shard.members())
        return [label_of(sample, shard, where) for sample in samples], samples, shard.size

    scanned = _Labelled([], [], 0)
    for path, (labels, samples, size) in zip(shards.paths, in_order(scan, shards.paths, _SCANNERS), strict=True):
        where = f"data.{shards.field}: {shards.root}/{path}"
        numbers = [
            _NONE if label is None else vocabulary.number(label, f"{where}/{printable(sample.stem)}")
            for label, sample in zip(labels, samples, strict=True)
        ]
        digests = b"".join(rank(f"{path}/{sample.stem}", seed)[:8] for sample in samples)
        scanned.codes.append(np.asarray(numbers, np.int32))
        scanned.ranks.append(np.frombuffer(digests, ">u8"))
        scanned.bytes += size
    return scanned


def _check_classes(field: str, labels: Sequence[NDArray[np.int32]], names: Sequence[str]) -> None:
    counts = _count(np.concatenate(labels), len(names))
    if missing := np.flatnonzero(counts == 0).tolist():
        raise UserError(f"data.{field}: no sample has the class '{names[missing[0]]}': add some")


def _count(labels: NDArray[np.int32], classes: int) -> NDArray[np.int64]:
    """Samples of each class."""
    return np.bincount(labels[labels != _NONE], minlength=classes)


def _cut_classes(
    whole: Split,
    labels: Sequence[NDArray[np.int32]],
    ranks: Sequence[NDArray[np.uint64]],
    names: Sequence[str],
    own: Mapping[Split, float],
) -> list[NDArray[np.uint8]]:
    """Position in `_CUT` of the split of each sample, shard by shard: `whole`, but for the shares that its `own`
    splits take of each class. What has no label stays in `whole`."""
    together = np.concatenate(labels)
    splits = np.full(len(together), _CUT.index(whole), np.uint8)
    order = np.lexsort((np.concatenate(ranks), together))
    start = int((together == _NONE).sum())
    for name, images in zip(names, _count(together, len(names)).tolist(), strict=True):
        check_room(name, images, own)
        rest = order[start : start + images]
        for split, taken in cut(images, own).items():
            splits[rest[:taken]] = _CUT.index(split)
            rest = rest[taken:]
        start += images
    return np.split(splits, np.cumsum([len(one) for one in labels])[:-1])


def _samples(
    split: Split, shards: ShardSet, number: int, some: tuple[NDArray[np.bool_], NDArray[np.int32]] | None
) -> Iterator[RawSample]:
    """Samples of one shard: all of it, or `some`: which ones, and the class indices of all."""
    path = shards.paths[number]
    shard = shards.open(path)
    found = found_in(shard.members())
    assert max(number + 1, len(found)) <= _MOST, (number, len(found))
    if some is not None and len(found) != len(some[1]):
        raise OSError(f"{shards.root}/{path}: {len(found)} samples, {len(some[1])} a moment ago: it is being written")
    for n, sample in enumerate(found):
        if some is not None and not some[0][n]:
            continue
        label = _NONE if some is None else int(some[1][n])
        there = sample.image != NOWHERE
        yield RawSample(
            split=split,
            key=f"{split}-{number:06d}-{n:06d}",
            label=None if label == _NONE else label,
            suffix=suffix(sample.name) if there else "",
            path=printable(f"{shards.field}/{path}/{sample.name}"),
            read=partial(shard.read, *sample.image) if there else _no_image,
            shard=f"{shards.field}/{path}",
            offset=sample.image[0],
        )


def _no_image() -> bytes:
    raise CorruptImage("no image in the sample")


def roots(config: DataConfig) -> dict[str, str]:
    """Field -> folder or URI, of the fields that are set."""
    return {field: split_place(place)[0] for field in _FIELDS if (place := getattr(config, field))}


def check(config: DataConfig) -> None:
    """The shards are there, and the class names can be read; else `UserError`. Opens no shard."""
    class_file(_find(config)["labeled"])


def digest(config: DataConfig) -> str:
    """sha256 over the sorted (field, path below its root, sha256 of the bytes) of all shards and the class names."""
    return tree_digest("webdataset", _entries(config))


def _entries(config: DataConfig) -> Iterator[tuple[str, bytes]]:
    found = _find(config)
    names = class_file(found["labeled"]) or ()
    yield "classes", "\n".join(names).encode("utf-8")
    for field in sorted(found):
        shards = found[field]
        for path, content in zip(shards.paths, shards.digests(), strict=True):
            yield f"{field}/{path}", content


def _find(config: DataConfig) -> dict[str, ShardSet]:
    """Field -> its shards, of the fields that are set."""
    for field in ("labeled", "unlabeled"):
        if not getattr(config, field):
            raise UserError(f"data.{field} is not set: give the shards, --set data.{field}=FOLDER or s3://...")
    return {field: find_shards(field, place) for field in _FIELDS if (place := getattr(config, field))}


WEBDATASET = Kind(webdataset, digest, check)
