"""Source `manifest`: CSV (with a header) or Parquet lists of images, one row each.

    path    of the image: absolute, or relative to the folder of the list
    label   class name, or integer; not of unlabelled images
    split   labeled or train, holdout or val, test, pool or unlabeled; counts in the list `labeled` alone, which
            need not have it

In: the lists `labeled`, `unlabeled`, `holdout`, `test`. Out: a `Source`: classes sorted by name, by number when all
labels are integers; images by path, whatever the order of the list. A split that neither a list nor a word in
`split` gives takes its fraction of each labelled class.
"""

import os
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ns_core.config import DataConfig
from ns_core.data.folders import printable
from ns_core.data.index import Split
from ns_core.data.source import Source
from ns_core.data.sources.digests import file_digests, tree_digest
from ns_core.data.sources.kind import Kind
from ns_core.data.sources.lists import WORDS, Listing, read_list
from ns_core.data.sources.parts import Files, file_parts, files
from ns_core.data.sources.splits import by_fraction
from ns_core.errors import UserError, nearest

_FIELDS: dict[str, Split] = {"labeled": "labeled", "holdout": "holdout", "test": "test", "unlabeled": "pool"}
"""Field -> split of its images, unless its column `split` says otherwise."""
Runs = list[tuple[Listing, "array[int]"]]
"""Entries of lists, ascending."""
Rows = dict[Split, Runs]
_INTEGER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True)
class _Lists:
    listings: list[Listing]
    names: tuple[str, ...]
    """Of the classes."""
    rows: Rows
    codes: dict[str, int]
    """Label as written -> class index."""


def manifest(config: DataConfig) -> Source:
    """The images of the lists, in parts.

    Raises `UserError` with file and line for every mistake in the lists, for a labelled image that is not there,
    and for a class that a split lacks. An unlabelled image that is not there is found when it is read.
    """
    lists = _read(config)
    plan: dict[Split, list[Files]] = {}
    for split, runs in lists.rows.items():
        plan[split] = [_files(listing, entries, None if split == "pool" else lists.codes) for listing, entries in runs]
        if split != "pool":
            for listing, entries in runs:
                _check_there(listing, entries)
    (labeled,) = plan["labeled"]
    classes: list[list[str]] = [[] for _ in lists.names]
    assert labeled.labels is not None
    for path, label in zip(labeled.paths, labeled.labels, strict=True):
        classes[label].append(path)
    for split, images in by_fraction(classes, lists.names, config, plan.keys()).items():
        plan[split] = [files("labeled", labeled.root, *images)]
    return Source(lists.names, file_parts(plan, config.shard_images))


def digest(config: DataConfig) -> str:
    """sha256 over the sorted (field, split, label, path, sha256 of the bytes) of all images. A path below the folder
    of its list counts as it lies there, so that the whole may move."""
    return tree_digest("manifest", _entries(config))


def _entries(config: DataConfig) -> Iterator[tuple[str, bytes]]:
    lists = _read(config)
    for listing in lists.listings:
        root = listing.file.parent
        digests = file_digests(os.path.join(root, path) for path in listing.paths)
        for n, (path, content) in enumerate(zip(listing.paths, digests, strict=True)):
            split = WORDS[listing.splits[n]] if listing.splits else ""
            label = "" if split == "pool" or not listing.labels else lists.names[lists.codes[listing.labels[n]]]
            yield f"{listing.field}\0{split}\0{label}\0{path}", content


def _read(config: DataConfig) -> _Lists:
    """Reads all lists and checks them against each other."""
    if not config.labeled:
        raise UserError("data.labeled is not set: give the list, --set data.labeled=LIST.csv")
    listings = [
        read_list(field, Path(text).expanduser(), labelled=field != "unlabeled")
        for field in _FIELDS
        if (text := getattr(config, field))
    ]
    rows: Rows = {}
    for listing in listings:
        for split, entries in _by_split(listing).items():
            if split in rows and split != "pool":
                raise UserError(
                    f"data.{split} is set, and {listings[0].file} has rows of the split {split}: keep one of the two"
                )
            rows.setdefault(split, []).append((listing, entries))
    if "pool" not in rows:
        raise UserError("data.unlabeled is not set, or has no rows: give the list, --set data.unlabeled=LIST.csv")
    if "labeled" not in rows:
        raise UserError(f"data.labeled: {listings[0].file} has no row of the split 'labeled': add some")
    names, codes = _classes(rows)
    return _Lists(listings, names, rows, codes)


def _by_split(listing: Listing) -> "dict[Split, array[int]]":
    """The entries of each split that the list has, ascending."""
    entries: dict[Split, array[int]] = {}
    for n in range(len(listing.paths)):
        split = WORDS[listing.splits[n]] if listing.splits else _FIELDS[listing.field]
        entries.setdefault(split, array("q")).append(n)
    return entries


def _classes(rows: Rows) -> tuple[tuple[str, ...], dict[str, int]]:
    """The names, and the class index of each label as written. Every split has the same classes."""
    judged = [split for split in rows if split != "pool"]
    found = {split: {listing.labels[n] for listing, entries in rows[split] for n in entries} for split in judged}
    integers = all(_INTEGER.fullmatch(label.strip()) for labels in found.values() for label in labels)
    name_of = {label: str(int(label)) if integers else label.strip() for labels in found.values() for label in labels}
    names = sorted({name_of[label] for label in found["labeled"]}, key=int if integers else str)
    if len(names) < 2:
        raise UserError(f"{rows['labeled'][0][0].file} has one class, '{names[0]}': a classifier needs two or more")
    for split in judged:
        _check_classes(split, rows[split], names, name_of)
    codes = {name: code for code, name in enumerate(names)}
    return tuple(names), {label: codes[name] for label, name in name_of.items()}


def _check_classes(split: Split, runs: Runs, names: list[str], name_of: Mapping[str, str]) -> None:
    known, seen = set(names), set()
    for listing, entries in runs:
        for n in entries:
            seen.add(name := name_of[listing.labels[n]])
            if name not in known:
                raise UserError(
                    f"{listing.place(n)}: no labelled image has the class '{name}'{nearest(name, names)}: "
                    "correct it, or add some"
                )
    if missing := [name for name in names if name not in seen]:
        raise UserError(f"{runs[0][0].file}: the split {split} has no image of class '{missing[0]}': add some")


def _files(listing: Listing, entries: "array[int]", codes: Mapping[str, int] | None) -> Files:
    labels = None if codes is None else array("i", (codes[listing.labels[n]] for n in entries))
    return files(listing.field, listing.file.parent, [listing.paths[n] for n in entries], labels)


def _check_there(listing: Listing, entries: "array[int]") -> None:
    for n in entries:
        path = os.path.join(listing.file.parent, listing.paths[n])
        if not os.path.isfile(path):
            raise UserError(f"{listing.place(n)}: {printable(path)} is not there: correct the path, or remove the row")


MANIFEST = Kind(manifest, digest, manifest)
