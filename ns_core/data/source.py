"""What a source of images is: class names, and for each split a list of parts.

A part is a run of consecutive images of one split. It is prepared, and after a kill redone, as a whole, so a
source can open any of its parts without having gone through the ones before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ns_core.data.index import Split


@dataclass(frozen=True)
class RawSample:
    """One image as it was found, not yet looked at."""

    split: Split
    key: str
    label: int | None
    """Class index; None in the pool, whatever the source says."""
    suffix: str
    """Ending of the file name in lower case, without the dot; may be empty."""
    path: str
    """Where it came from, below the field of `DataConfig` that named it: does not change when the place moves."""
    read: Callable[[], bytes]
    shard: str = ""
    """A shard of the person's own that holds the bytes and is left where it lies, as `{field}/{path below it}`;
    empty: the image is to be written into one of ours."""
    offset: int = 0
    """Of the bytes in that shard."""


@dataclass(frozen=True)
class Part:
    """Consecutive images of one split."""

    split: Split
    number: int
    """0, 1, ... within the split."""
    images: int
    """How many there are; an estimate when they lie in shards that were not read yet."""
    samples: Callable[[], Iterator[RawSample]]
    """Streams them with ascending keys, above those of the parts before; can be called again."""


@dataclass(frozen=True)
class Source:
    """Images by split."""

    class_names: tuple[str, ...]
    parts: Mapping[Split, Sequence[Part]]
    """Every split is there, if with no parts."""
