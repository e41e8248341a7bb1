"""The samples of a tar shard and their labels.

In: the members of a shard. Out: `Found`, one a sample; labels as text, and the class index of each text.
"""

import json
import posixpath
from collections.abc import Iterable
from typing import NamedTuple

from ns_core.data.folders import SUFFIXES, printable
from ns_core.data.sources.shardset import OpenShard, ShardSet
from ns_core.data.tars import Members
from ns_core.errors import UserError, nearest

CLASS_FILES = ("classes.txt", "classes.json")
_JSON_LABELS = ("label", "cls", "class_name")
"""In the order in which they are looked for."""
_ENDINGS = frozenset(SUFFIXES)
NOWHERE = (0, -1)

Span = tuple[int, int]
"""Offset and size in the shard; `NOWHERE` when there is no such member."""


class Found(NamedTuple):
    """A sample: members called the same up to the last dot."""

    stem: str
    name: str
    """Of the image's member; of the sample's first when there is no image."""
    image: Span
    cls: Span
    json: Span


def found_in(members: Members) -> list[Found]:
    """The samples, in the order of their first members."""
    samples: dict[str, dict[str, tuple[str, Span]]] = {}
    for name, offset, size in zip(*members, strict=True):
        stem, ending = posixpath.splitext(name)
        if not posixpath.basename(name).startswith("."):
            kinds = samples.setdefault(stem, {"": (name, NOWHERE)})
            ending = ending[1:].lower()
            kind = "image" if ending in _ENDINGS else ending or "none"
            if kind not in kinds or name < kinds[kind][0]:
                kinds[kind] = name, (offset, size)
    return [
        Found(
            stem,
            kinds.get("image", kinds[""])[0],
            *(kinds.get(kind, kinds[""])[1] for kind in ("image", "cls", "json")),
        )
        for stem, kinds in samples.items()
    ]


def label_of(sample: Found, shard: OpenShard, where: str) -> str | None:
    """The label as written, without blanks around it; None of a sample with neither image nor label.

    Raises `UserError`, which `where` begins, for an image without a label or one that is neither text nor integer.
    """
    name = printable(sample.stem)
    if sample.cls != NOWHERE:
        text = shard.read(*sample.cls).decode("utf-8", "backslashreplace").strip()
        if text:
            return text
    elif sample.json != NOWHERE:
        try:
            content = json.loads(shard.read(*sample.json))
        except ValueError as error:
            raise UserError(f"{where}/{name}.json is no JSON ({error}): mend the shard") from None
        known = (
            [content[key] for key in _JSON_LABELS if content.get(key) is not None] if isinstance(content, dict) else []
        )
        if known and isinstance(known[0], int | str) and not isinstance(known[0], bool) and str(known[0]).strip():
            return str(known[0]).strip()
    if sample.image == NOWHERE:
        return None
    raise UserError(
        f"{where}/{name} has no label: give it a member .cls, or .json with one of {', '.join(_JSON_LABELS)}"
    )


def class_file(labeled: ShardSet) -> tuple[str, ...] | None:
    """The class names beside the labelled shards, if a file has them; `UserError` for one that cannot be used."""
    name, text = labeled.text(CLASS_FILES)
    if not name:
        return None
    where = f"data.labeled: {labeled.root}/{name}"
    if name.endswith(".txt"):
        names = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        try:
            names = json.loads(text)
        except ValueError as error:
            raise UserError(f"{where} is no JSON ({error}): make it a list of class names") from None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{where} is no list of texts: make it a list of class names")
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"{where} has {len(names)} class(es), {len(set(names))} different: name each class once")
    return tuple(names)


class Vocabulary:
    """Numbers the labels as they come, and says in the end which class each is."""

    def __init__(self, given: tuple[str, ...] | None) -> None:
        self._given = given
        self._numbers: dict[str, int] = {}
        self._places: list[str] = []

    def number(self, label: str, place: str) -> int:
        """The same for the same text; `place` is where it was met."""
        if label not in self._numbers:
            self._numbers[label] = len(self._places)
            self._places.append(place)
        return self._numbers[label]

    def classes(self, labeled: Iterable[int]) -> tuple[tuple[str, ...], list[int]]:
        """The class names, and the class index of each number. `labeled`: the numbers that the field `labeled` has.

        Raises `UserError` for a label that is no class.
        """
        labels = list(self._numbers)
        integers = all(label.isascii() and label.removeprefix("-").isdigit() for label in labels)
        if self._given is not None:
            codes = [self._code(label, self._given, place) for label, place in zip(labels, self._places, strict=True)]
            return self._given, codes
        names_of = [str(int(label)) if integers else label for label in labels]
        names = sorted({names_of[number] for number in labeled}, key=int if integers else str)
        if len(names) < 2:
            raise UserError(
                f"data.labeled has one class, {' '.join(names) or 'or none'}: a classifier needs two or more"
            )
        index = {name: code for code, name in enumerate(names)}
        for name, place in zip(names_of, self._places, strict=True):
            if name not in index:
                raise UserError(f"{place}: no sample of data.labeled has the class '{name}'{nearest(name, names)}")
        return tuple(names), [index[name] for name in names_of]

    def _code(self, label: str, names: tuple[str, ...], place: str) -> int:
        if label.isascii() and label.isdigit():
            if int(label) < len(names):
                return int(label)
            raise UserError(f"{place}: label {label}, where the list of classes has 0 to {len(names) - 1}: correct one")
        if label not in names:
            raise UserError(
                f"{place}: class '{label}'{nearest(label, names)} is not in the list of classes: correct one"
            )
        return names.index(label)
