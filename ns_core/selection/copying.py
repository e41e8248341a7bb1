"""Members of a tar file made of images that lie in shards, some at a time, in buffers that are used again.

In: rows of the columns that say where images lie. Out: headers, bytes and padding as they stand in the file.
"""

from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ns_core.data.reading import ShardReader
from ns_core.data.tar_headers import BLOCK, headers, padded

_BATCH_IMAGES = 256
"""Of a batch, however small they are: its shards are open at the same time."""
_ANNOUNCED, _WARY = 8, 64
"""Batches that the system is told of ahead of their turn, and for how many it is after a read had to wait. Told of
all it would take 1.3 times the CPU where the pool is in memory; of none, 2.7 times as long where it is not."""
_ENDINGS = {
    b"\xff\xd8": "jpg",
    b"\x89P": "png",
    b"GI": "gif",
    b"BM": "bmp",
    b"II": "tif",
    b"MM": "tif",
    b"\xff\x4f": "j2k",
    **{b"P%d" % kind: "ppm" for kind in range(1, 8)},
}
"""By the first two bytes, which tell what `data.images` reads apart."""
_BOXED = {b"WEBP": "webp", b"\r\n\x87\n": "jp2", b"avif": "avif", b"avis": "avif"}
"""By bytes 8 to 11 of what begins otherwise: RIFF and ISO containers say there what they hold."""
_MAGIC_BYTES = 12


class Images(NamedTuple):
    """The selected images in the pool, one entry each, in any order."""

    shard_names: tuple[str, ...]
    shard_codes: NDArray[np.int32]
    """int32[N], into `shard_names`."""
    offsets: NDArray[np.int64]
    """int64[N], of the image's bytes in its shard."""
    sizes: NDArray[np.int64]
    """int64[N], bytes, none of them 0."""
    keys: pa.Array
    """large_string[N], unique, of the characters that `data.shards` allows; also those of a person's own shards,
    whose samples `prepare` numbers."""

    def places(self, rows: NDArray[np.int64]) -> tuple[list[str], list[int], list[int]]:
        """Shard, offset and size of each of these rows."""
        names = [self.shard_names[code] for code in self.shard_codes[rows].tolist()]
        return names, self.offsets[rows].tolist(), self.sizes[rows].tolist()


class Members(NamedTuple):
    """Of some images, one after the other."""

    buffer: memoryview
    """Begins with them."""
    length: int
    images: int
    free: Callable[[], None]
    """To be called when the buffer may be used again."""


class Copier:
    """The members of one file, in batches. Any number of threads may fill them."""

    def __init__(
        self, images: Images, rows: NDArray[np.int64], reader: ShardReader, batch_bytes: int, buffers: int
    ) -> None:
        """`rows`: int64[members], in the order of the file. `batch_bytes`: size of a batch, unless one image is
        larger. `buffers`: how many batches there may be that nobody is done with."""
        self._images, self._rows, self._reader = images, rows, reader
        self._keys: list[str] = images.keys.take(pa.array(rows)).to_pylist()
        sizes = images.sizes[rows]
        assert sizes.min() > 0, rows[sizes.argmin()]
        lengths = padded(sizes)
        self._ends = np.cumsum(lengths)
        self._batches = _batches(lengths, batch_bytes)
        self._told = self._wary = 0
        """The first batch that the system has not been told of, and up to which one it is."""
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(buffers):
            self._free.put(memoryview(bytearray(batch_bytes)))

    def __len__(self) -> int:
        """Batches."""
        return len(self._batches) - 1

    def fill(self, batch: int) -> Members:
        """The members of a batch; waits for a buffer. Raises what `ShardReader.read` does."""
        self._announce(batch)
        first, last = self._batches[batch : batch + 2]
        ends = self._ends[first:last] - (self._ends[first - 1] if first else 0)
        length = int(ends[-1])
        buffer = self._free.get()
        if len(buffer) < length:
            buffer = memoryview(bytearray(length))
        blocks = np.frombuffer(buffer, np.uint8, length).reshape(-1, BLOCK)
        ends //= BLOCK
        heads = np.concatenate([[0], ends[:-1]])
        blocks[ends - 1] = 0  # the padding of each image; those of whole blocks overwrite it
        rows = self._rows[first:last]
        sizes, begins = self._images.sizes[rows], (heads + 1) * BLOCK
        contents = [buffer[begin:end] for begin, end in zip(begins.tolist(), (begins + sizes).tolist(), strict=True)]
        shards, offsets, _ = self._images.places(rows)
        if self._reader.read_into(zip(shards, offsets, contents, strict=True)):
            self._wary = batch + _WARY
        starts = blocks[heads + 1, :_MAGIC_BYTES].view(f"S{_MAGIC_BYTES}").ravel().tolist()
        names = [f"{key}.{suffix(start)}".encode() for key, start in zip(self._keys[first:last], starts, strict=True)]
        blocks[heads] = headers(names, sizes)
        return Members(buffer, length, last - first, partial(self._free.put, buffer))

    def _announce(self, batch: int) -> None:
        """Tells the system which images are read soon, if it kept us waiting lately."""
        if batch < self._wary:
            first, last = max(self._told, batch + 1), min(batch + 1 + _ANNOUNCED, len(self))
            rows = self._rows[self._batches[first] : self._batches[last]]
            for place in zip(*self._images.places(rows), strict=True):
                self._reader.will_need(*place)
            self._told = last


def suffix(start: bytes) -> str:
    """The ending for the name of an image, by its first 12 bytes, of which NULs at the end may be missing; `img`
    of one that begins like none we read."""
    return _ENDINGS.get(start[:2]) or _BOXED.get(start[8:12], "img")


def _batches(lengths: NDArray[np.int64], limit: int) -> list[int]:
    """The first image of each batch of at most `limit` bytes, or of one image, and at the end all.

    `lengths`: int64[images], bytes of their members.
    """
    ends = np.cumsum(lengths)
    begins = [0]
    while (first := begins[-1]) < len(lengths):
        fit = int(np.searchsorted(ends, ends[first] - lengths[first] + limit, side="right"))
        begins.append(min(max(fit, first + 1), first + _BATCH_IMAGES))
    return begins
