"""Writes images as WebDataset shards: plain tar files that hold the same bytes each time.

In: `ShardImage`s of one part of a split, keys ascending. Out: `{split}-{part:06d}.tar`, and `_1.tar`, `_2.tar`
after it when the part fills more than one, readable by tar and by webdataset; and one `IndexRow` an image. A
sample is `{key}.{suffix}`, then `{key}.cls` (the class index as text, as webdataset's decoder expects it) where
the image has a label.

Written by tarfile: webdataset's writer is a layer on top of it that stamps the time, cannot be told to keep to
USTAR, and loads torch (2 s and 0.4 GB in a worker that needs none).
"""

import re
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Self

from ns_core.data.index import IndexRow, Split

_BLOCK, _RECORD = 512, 10_240
"""Sizes in a tar file: headers and padded members are blocks; the file is filled up to whole records."""
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
"""No dot: webdataset ends the key at the first one and would merge `a.1` and `a.2` into one sample."""
_SUFFIX = re.compile(r"(?!cls$)[a-z0-9]{1,8}")


@dataclass(frozen=True)
class ShardImage:
    """An image to be written, with what the index says of it."""

    key: str
    suffix: str
    """Of the image's member, without the dot: `png`."""
    data: bytes
    label: int | None
    """Class index; None in the pool, and only there."""
    width: int
    height: int
    sha256: str
    path: str


def shard_name(split: Split, part: int, number: int = 0) -> str:
    """File name of shard `number` (0, 1, ...) of a split's part."""
    return f"{split}-{part:06d}_{number}.tar" if number else f"{split}-{part:06d}.tar"


class ShardWriter:
    """The shards of one part of a split. A context manager: shards are complete once it has been left."""

    def __init__(self, folder: Path, split: Split, part: int, limit: int) -> None:
        """`limit`: bytes at which a shard is closed; it is passed by one image at most."""
        assert limit > 0
        self._folder, self._split, self._part, self._limit = folder, split, part, limit
        self._last_key = ""
        self._position = 0
        self._stream: IO[bytes] | None = None
        self._tar: tarfile.TarFile | None = None
        self.names: list[str] = []
        """Of the shards begun so far."""

    def add(self, image: ShardImage) -> IndexRow:
        """Appends one sample; the row says where its image lies.

        Raises `ValueError` for a key with other characters than letters, digits, `_` and `-`, or one that
        does not come after the key before it (so no two of a part are equal).
        """
        self._check(image)
        if self._stream is None or self._position >= self._limit:
            self._close_shard()
            self._open_shard()
        offset = self._member(image.key, image.suffix, image.data)
        if image.label is not None:
            self._member(image.key, "cls", str(image.label).encode("ascii"))
        self._last_key = image.key
        return IndexRow(
            key=image.key,
            split=self._split,
            shard=self.names[-1],
            offset=offset,
            size=len(image.data),
            label=image.label,
            width=image.width,
            height=image.height,
            sha256=image.sha256,
            path=image.path,
        )

    def close(self) -> None:
        """Completes the last shard."""
        self._close_shard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _check(self, image: ShardImage) -> None:
        if not _KEY.fullmatch(image.key):
            raise ValueError(f"key {image.key!r}: only letters, digits, '_' and '-', at most 80 of them")
        if image.key <= self._last_key:
            raise ValueError(f"key {image.key!r} after {self._last_key!r}: keys must ascend")
        assert _SUFFIX.fullmatch(image.suffix), image.suffix
        assert (image.label is None) == (self._split == "pool"), (image.key, image.label)

    def _member(self, key: str, suffix: str, data: bytes) -> int:
        """Appends `{key}.{suffix}`; the offset of its bytes."""
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size, member.mode, member.mtime = len(data), 0o444, 0
        assert self._tar is not None, "add opens a shard"
        self._tar.addfile(member, BytesIO(data))
        start = self._position + _BLOCK
        self._position = start + _round_up(len(data), _BLOCK)
        return start

    def _open_shard(self) -> None:
        name = shard_name(self._split, self._part, len(self.names))
        self.names.append(name)
        self._stream = (self._folder / name).open("wb")
        self._tar = tarfile.TarFile(fileobj=self._stream, mode="w", format=tarfile.USTAR_FORMAT)
        self._position = 0

    def _close_shard(self) -> None:
        if self._stream is None or self._tar is None:
            return
        with self._stream as stream:
            self._tar.close()
            size = stream.tell()
        self._stream = None
        expected = _round_up(self._position + 2 * _BLOCK, _RECORD)
        assert size == expected, f"{stream.name}: {size} bytes, where its members make {expected}"


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
