"""Writes images as WebDataset shards: plain tar files that hold the same bytes each time.

In: `ShardImage`s of one split, keys ascending. Out: `{split}-{number:06d}.tar`, readable by tar and by
webdataset, and one `IndexRow` an image. A sample is `{key}.{suffix}`, then `{key}.cls` (the class index as
text, as webdataset's decoder expects it) where the image has a label.

webdataset's own writer stamps the time and encodes by suffix; with mtime 0, no names of users and no
encoder it is byte-reproducible. It ignores its `format` argument, so tarfile would add extended headers
for long or non-ASCII names: keys are kept to what a USTAR header holds.
"""

import re
from dataclasses import dataclass
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


def shard_name(split: Split, number: int) -> str:
    """File name of a split's shard `number` (0, 1, ...)."""
    return f"{split}-{number:06d}.tar"


class ShardWriter:
    """The shards of one split. A context manager: shards are complete once it has been left."""

    def __init__(self, folder: Path, split: Split, shard_images: int) -> None:
        """`shard_images`: images in one shard at most."""
        assert shard_images > 0
        self._folder, self._split, self._shard_images = folder, split, shard_images
        self._last_key = ""
        self._images = 0
        self._position = 0
        self._stream: IO[bytes] | None = None
        self._tar: Any = None

    @property
    def shards(self) -> int:
        """Shards begun so far."""
        return -(-self._images // self._shard_images)

    def add(self, image: ShardImage) -> IndexRow:
        """Appends one sample; the row says where its image lies.

        Raises `ValueError` for a key with other characters than letters, digits, `_` and `-`, or one that
        does not come after the key before it (so no two of a split are equal).
        """
        self._check(image)
        if self._images % self._shard_images == 0:
            self._close_shard()
            self._open_shard()
        shard = shard_name(self._split, self._images // self._shard_images)
        offset = self._member(image.key, image.suffix, image.data)
        if image.label is not None:
            self._member(image.key, "cls", str(image.label).encode("ascii"))
        self._images += 1
        self._last_key = image.key
        return IndexRow(
            key=image.key,
            split=self._split,
            shard=shard,
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
            raise ValueError(f"key {image.key!r} after {self._last_key!r}: keys of a split must ascend")
        assert _SUFFIX.fullmatch(image.suffix), image.suffix
        assert (image.label is None) == (self._split == "pool"), (image.key, image.label)

    def _member(self, key: str, suffix: str, data: bytes) -> int:
        """Appends `{key}.{suffix}`; the offset of its bytes."""
        self._tar.write({"__key__": key, suffix: data})
        start = self._position + _BLOCK
        self._position = start + _round_up(len(data), _BLOCK)
        return start

    def _open_shard(self) -> None:
        # Loads torch where it is installed, about 2 s: reading an index should not.
        from webdataset import TarWriter

        name = shard_name(self._split, self._images // self._shard_images)
        self._stream = (self._folder / name).open("wb")
        self._tar = TarWriter(self._stream, user="", group="", mode=0o444, mtime=0, encoder=False)
        self._position = 0

    def _close_shard(self) -> None:
        if self._stream is None:
            return
        with self._stream as stream:
            self._tar.close()
            size = stream.tell()
        self._stream = None
        expected = _round_up(self._position + 2 * _BLOCK, _RECORD)
        assert size == expected, f"{stream.name}: {size} bytes, where its members make {expected}"


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
