"""Selected images written out as WebDataset shards of their own, in a seeded shuffle, by copying bytes.

In: where each image lies in the shards of the pool, as columns. Out: `selected-000000.tar`, ... of about equal
size, plain tar and the same bytes each time, one member `{key}.{suffix}` an image; and where each image lies now.
No image is decoded: the first bytes say what it is. Shards hold neither labels nor copies: both are in the
manifest, where a better teacher changes them and the images stay.

`plan` lays everything out beforehand from the sizes alone, so each shard can be written by itself, again, or by
another process: `write_shard` depends on nothing but the plan. Images are read in the order of the output and
written in sequence; where the pool is not in memory, the system is told a few batches ahead which images come. On an
SSD that wrote 3.0 times as much a second (medians of 4 runs, 2 busy cores, 2026-11-23) as reading in the order of the
pool and writing each image to its place, where no read is ahead of the one before; from memory both took as long.

Of a pool in S3, each output shard has images from all shards of the pool. `choose_reading` has these copied whole,
once, where the cache holds them all, and else each image read by a request of its own: also one pass, of the
selected bytes alone, but a request (of about a millisecond of CPU) an image. With `window`, the order mixes so many
shards of the pool at a time: then the cache needs to hold one window, and each shard is still fetched once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ns_core.data.order import Order, StreamOrder, WindowedOrder
from ns_core.data.ordered import in_order
from ns_core.data.read_ahead import ShardsAhead
from ns_core.data.reading import ShardReader
from ns_core.data.shard_cache import SETTING, gigabytes
from ns_core.data.tar_headers import BLOCK, archive_size, padded
from ns_core.selection.copying import Copier, Images, Members
from ns_core.stage import log

__all__ = ["Images", "Layout", "choose_reading", "plan", "shard_name", "write_shard"]

_STREAM = 2
"""Number of this order among those of a seed: 0 and 1 are training's streams."""
_PLANNED = 1 << 16
"""Positions laid out at a time: their temporaries, of 0.5 MB each, stay in the processor's cache."""
_BATCH, _REMOTE_BATCH = 4 << 20, 1 << 20
"""Bytes read at a time: of files by one thread, from S3 by each of these:"""
_REQUESTS = 32
"""Threads that wait for S3, at most two batches ahead each."""
_PIECE = 1 << 20
"""Bytes written at a time. For more at once the kernel looks for blocks of 2 MB in the page cache, which in a virtual
machine may first have to be had from the host: at 4 MB one run in three took 2 to 5 times the CPU."""


@dataclass(frozen=True)
class Layout:
    """Which image lies where in which shard. Beside the columns it was made from, 8 bytes a row: 1.04 GB for 130
    million. The order itself is a function, and not stored."""

    images: Images
    order: Order
    """Position in the output -> row of `images`."""
    starts: NDArray[np.int64]
    """int64[shards+1], the first position of each shard, and at the end all."""
    sizes: NDArray[np.int64]
    """int64[shards], bytes of each tar file."""
    shards: NDArray[np.int32]
    """int32[N], the number of each row's shard."""
    offsets_in_blocks: NDArray[np.int32]
    """int32[N], where each row's bytes begin, in blocks of 512."""

    def __len__(self) -> int:
        """Shards."""
        return len(self.sizes)

    def offsets(self, rows: slice) -> NDArray[np.int64]:
        """Where the bytes of these rows' images begin in their new shards; they are as many as before."""
        return self.offsets_in_blocks[rows].astype(np.int64) * BLOCK

    def rows(self, number: int) -> NDArray[np.int64]:
        """The rows in a shard, in its order."""
        return self.order.rows(np.arange(self.starts[number], self.starts[number + 1]))


def shard_name(number: int) -> str:
    """File name of a shard; at most a million have names of one length."""
    return f"selected-{number:06d}.tar"


def plan(images: Images, limit: int, seed: int, window: int = 0) -> Layout:
    """Lays out all shards, each closed by the image with which its members reach `limit` bytes.

    `window`: shards of the pool that are mixed at a time (`WindowedOrder`); 0: all. Takes 0.16 us of CPU an image.
    """
    count = len(images.offsets)
    assert count, "nothing is selected"
    assert 0 < limit < 1 << 39, limit
    order: Order = StreamOrder(count, seed, _STREAM)
    if window:
        order = WindowedOrder(images.shard_codes, window, seed, _STREAM)
    shards, blocks = np.empty(count, np.int32), np.empty(count, np.int32)
    starts, bases, end = [0], [0], 0
    for first in range(0, count, _PLANNED):
        rows = order.rows(np.arange(first, min(first + _PLANNED, count)))
        lengths = padded(images.sizes[rows])
        ends = end + np.cumsum(lengths)
        begun = len(bases) - 1
        while (last := int(np.searchsorted(ends, bases[-1] + limit))) < len(ends):
            starts.append(first + last + 1)
            bases.append(int(ends[last]))
        begins, known = ends - lengths, np.array(bases[begun:])
        number = np.searchsorted(known, begins, side="right") - 1
        shards[rows] = begun + number
        blocks[rows] = (begins - known[number]) // BLOCK + 1
        end = int(ends[-1])
    if starts[-1] < count:
        starts.append(count)
        bases.append(end)
    sizes = np.array([archive_size(size) for size in np.diff(bases).tolist()], np.int64)
    return Layout(images, order, np.array(starts, np.int64), sizes, shards, blocks)


def choose_reading(layout: Layout, reader: ShardReader) -> None:
    """Decides, before the first shard is written, how shards in S3 are read; of local ones there is nothing to say.

    Copied whole, where the cache holds all that are used, or a window of them; else image by image, and the
    log says so.
    """
    images = layout.images
    remote = {name: shard for name in images.shard_names if (shard := reader.remote(name)) is not None}
    if not remote:
        return
    reach = _reach(images)
    sizes = [remote[name].size or reach[code] for code, name in enumerate(images.shard_names) if name in remote]
    together = layout.order.window if isinstance(layout.order, WindowedOrder) else len(sizes)
    needed = sum(sorted(sizes)[-together:])
    if reader.cache is not None and needed <= reader.cache.limit:
        return
    reader.read_in_ranges(remote)
    log.warning(
        "%s GB of the pool's shards do not fit into %s: each selected image is read by a request of its own",
        gigabytes(needed),
        SETTING,
    )


def _reach(images: Images) -> list[int]:
    """Bytes of each shard of the pool, as far as the images reach."""
    reach = np.zeros(len(images.shard_names), np.int64)
    for first in range(0, len(images.sizes), _PLANNED):
        part = slice(first, first + _PLANNED)
        np.maximum.at(reach, images.shard_codes[part], images.offsets[part] + images.sizes[part])
    return reach.tolist()


def write_shard(
    layout: Layout, number: int, reader: ShardReader, path: Path, tell: Callable[[int], object] = bool
) -> None:
    """Writes shard `number` to `path`: the same bytes whenever and wherever.

    `tell` is called with the images written so far; what it raises ends the work, and half a file stays. Memory:
    100 bytes an image of the shard and 4 MB; from S3, image by image, 65 MB. Raises `ShortShard` that names a
    shard of the pool which ends too early, and what `ShardReader.read` raises else.
    """
    written = 0
    with ShardsAhead(reader) as ahead, path.open("wb") as stream:
        for rows, names in _segments(layout, number):
            ahead.want(names)
            for members in _members(layout.images, rows, names, reader):
                for first in range(0, members.length, _PIECE):
                    stream.write(members.buffer[first : min(first + _PIECE, members.length)])
                members.free()
                written += members.images
                tell(written)
        stream.write(bytes(int(layout.sizes[number]) - stream.tell()))
    assert written == layout.starts[number + 1] - layout.starts[number], (number, written)


def _segments(layout: Layout, number: int) -> Iterator[tuple[NDArray[np.int64], list[str]]]:
    """A shard's rows in its order, up to the next window, and the shards of the pool to have for them."""
    images, order = layout.images, layout.order
    if isinstance(order, StreamOrder):
        rows = layout.rows(number)
        yield rows, [images.shard_names[code] for code in dict.fromkeys(images.shard_codes[rows].tolist())]
        return
    first, end = layout.starts[number : number + 2].tolist()
    while first < end:
        following = order.shards_ahead(first, order.window + 1)
        last = min((begins for begins, _ in following if begins > first), default=end)
        rows = order.rows(np.arange(first, min(last, end)))
        # No more than this window: what is fetched ahead of the next would take the place of what is still needed.
        yield rows, [images.shard_names[code] for begins, code in following if begins <= first]
        first = last


def _members(images: Images, rows: NDArray[np.int64], names: list[str], reader: ShardReader) -> Iterator[Members]:
    """What the shard has of these rows, which lie in the shards `names`."""
    if any(reader.copied(name) is None and reader.remote(name) is not None for name in names):
        copier = Copier(images, rows, reader, _REMOTE_BATCH, 2 * _REQUESTS + 1)
        return in_order(copier.fill, range(len(copier)), _REQUESTS)
    copier = Copier(images, rows, reader, _BATCH, 1)
    return map(copier.fill, range(len(copier)))
