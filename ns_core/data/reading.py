"""Reading images out of shards, wherever these lie.

In: a shard as the index names it, an offset and a size. Out: bytes.

    pool-000001.tar            a file of the dataset artifact: read in place with one `pread` (14 us in random
                               order, against 117 us for streaming the tar through webdataset), or, when the
                               artifact lies in S3, from a copy (`data.shard_cache`)
    labeled/2024/000.tar       a shard of the person's own, below what `places["labeled"]` names: a folder
                               or s3://bucket/prefix, in the same two ways
    selected/selected-000000.tar  a shard of the selection's, below `places["selected"]`, too
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Self

from ns_core.data.remote_shard import RemoteShard, ShortShard
from ns_core.data.shard_cache import ShardCache
from ns_core.errors import UserError
from ns_core.storage import Storage, open_storage

ARTIFACT = ""
"""The place of the dataset's own shards, when it is not their folder."""
SELECTED = "selected"
"""The place of the shards that filter-and-balance wrote: `selected/selected-000000.tar`."""
_OPEN_SHARDS = 256
"""Descriptors a reader keeps: 2.56 million images at the default shard size, a quarter of the usual limit."""
_RETRIES = 2
"""Of boto3; who waits is `data.patience`, which tells the person and sees SIGTERM."""


@dataclass
class _OpenShard:
    descriptor: int
    readers: int = 0


class ShardReader:
    """Bytes by (shard, offset, size). Any number of threads may share one reader."""

    def __init__(
        self,
        folder: Path,
        places: Mapping[str, str] | None = None,
        cache: ShardCache | None = None,
        recorded: Mapping[str, tuple[int, str]] | None = None,
    ) -> None:
        """Touches neither disk nor network.

        `folder`: of the dataset, with its shards unless `places` has `ARTIFACT`. `places`: root of the shards by
        field. `cache` holds the copies; needed once a place is in S3. `recorded`: size and sha256 of the dataset's
        own shards.
        """
        self._folder, self._places, self.cache = folder, places or {}, cache
        self._recorded = recorded or {}
        self._lock, self._closed = Lock(), False
        self._open: OrderedDict[str, _OpenShard] = OrderedDict()
        self._stores: dict[str, Storage] = {}
        self._found: dict[str, RemoteShard | Path] = {}
        self._in_ranges: dict[str, int | None] = {}
        """Shard -> its size once that was asked for, of those that are read image by image."""

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes of the shard from `offset`.

        Raises `ShortShard` that names the shard when it ends before (a plain tar reader would stop without a
        word), `FileNotFoundError` when a local one is not there, `ValueError` when this reader is closed, and
        what `ShardCache.read` raises of one in S3.
        """
        remote = self.remote(shard)
        if remote is None:
            return self._pread(shard, offset, size)
        if shard in self._in_ranges:
            return self._range(shard, remote, offset, size)
        assert self.cache is not None, f"{remote.uri} is read through a cache"
        return self.cache.read(remote, offset, size)

    def read_into(self, pieces: Iterable[tuple[str, int, memoryview]]) -> bool:
        """Fills each buffer from an offset of a shard; whether the disk had to be waited for. Raises what `read` does.

        A local shard is looked up once and stays open meanwhile: ask for a few hundred at a time. A new `bytes` for
        each image costs as much as reading it: copying 80 kB images from the page cache into files ran at 1.9 GB a CPU
        second so, and at 3.1 into one buffer (2026-11-23).
        """
        opened: dict[str, _OpenShard] = {}
        waited = False
        try:
            for shard, offset, buffer in pieces:
                if shard not in opened:
                    if self.remote(shard) is not None:
                        buffer[:] = self.read(shard, offset, len(buffer))
                        continue
                    opened[shard] = self._acquire(shard)
                descriptor = opened[shard].descriptor
                try:
                    size = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
                except OSError:  # nothing of it is in memory, or the file system cannot say
                    size = 0
                if size < len(buffer):
                    waited = True
                    size += os.preadv(descriptor, [buffer[size:]], offset + size)
                if size < len(buffer):
                    raise self._short(shard, offset, len(buffer), size)
        finally:
            for held in opened.values():
                self._release(held)
        return waited

    def will_need(self, shard: str, offset: int, size: int) -> None:
        """Has the system fetch a piece of a local shard in the background; does nothing for other shards."""
        if self.remote(shard) is not None:
            return
        held = self._acquire(shard)
        try:
            os.posix_fadvise(held.descriptor, offset, size, os.POSIX_FADV_WILLNEED)
        finally:
            self._release(held)

    def remote(self, shard: str) -> RemoteShard | None:
        """The shard in its store; None when it is a local file."""
        if shard not in self._found:
            self._found[shard] = self._find(shard)
        found = self._found[shard]
        return found if isinstance(found, RemoteShard) else None

    def copied(self, shard: str) -> RemoteShard | None:
        """The shard in its store, if it is read from a copy."""
        return None if shard in self._in_ranges else self.remote(shard)

    def read_in_ranges(self, shards: Iterable[str]) -> None:
        """From now on an image of these costs one request, and no copies are made."""
        self._in_ranges.update(dict.fromkeys(shards, None))

    def close(self) -> None:
        """Closes the shards; one that a thread is reading is closed when that read ends."""
        with self._lock:
            self._closed = True
            for held in self._open.values():
                if not held.readers:
                    os.close(held.descriptor)
            self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _find(self, shard: str) -> RemoteShard | Path:
        field, slash, below = shard.partition("/")
        if not slash:
            field, below = ARTIFACT, shard
            if ARTIFACT not in self._places:
                return self._folder / shard
        elif field not in self._places:
            raise UserError(f"the dataset's images lie in shards of your own, and nobody says where: set data.{field}")
        store = self._store(field)
        local = store.local_path(below)
        if local is not None:
            return local
        # The dataset's folder is in the name: it is another one once the shards were indexed anew.
        name = hashlib.sha256(f"{self._folder}\n{store.uri}/{below}".encode()).hexdigest()[:32]
        size, sha256 = self._recorded.get(shard, (0, ""))
        return RemoteShard(store, below, f"{name}.tar", size, sha256)

    def _store(self, field: str) -> Storage:
        with self._lock:
            if field not in self._stores:
                self._stores[field] = open_storage(self._places[field], retries=_RETRIES)
            return self._stores[field]

    def _range(self, shard: str, remote: RemoteShard, offset: int, size: int) -> bytes:
        assert self.cache is not None
        length = self._in_ranges[shard]
        if length is None:
            length = self._in_ranges[shard] = remote.bytes_now(self.cache.patience)
        if offset + size > length:
            raise ShortShard(f"{remote.uri}: truncated, {max(0, length - offset)} of {size} bytes at offset {offset}")
        return remote.read(offset, size, self.cache.patience)

    def _pread(self, shard: str, offset: int, size: int) -> bytes:
        held = self._acquire(shard)
        try:
            data = os.pread(held.descriptor, size, offset)
        finally:
            self._release(held)
        if len(data) != size:
            raise self._short(shard, offset, size, len(data))
        return data

    def _short(self, shard: str, offset: int, wanted: int, there: int) -> ShortShard:
        return ShortShard(f"{self._found[shard]}: truncated, {there} of {wanted} bytes at offset {offset}")

    def _acquire(self, shard: str) -> _OpenShard:
        """The open shard, protected from closing until `_release`."""
        path = self._found[shard]
        assert isinstance(path, Path), shard
        with self._lock:
            if self._closed:
                raise ValueError(f"the reader of {self._folder} is closed")
            held = self._open.get(shard)
            if held is None:
                self._make_room()
                held = _OpenShard(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                self._open[shard] = held
            self._open.move_to_end(shard)
            held.readers += 1
            return held

    def _release(self, held: _OpenShard) -> None:
        with self._lock:
            held.readers -= 1
            if self._closed and not held.readers:
                os.close(held.descriptor)

    def _make_room(self) -> None:
        """Closes shards that nobody reads, the longest unused first, until one more may be opened."""
        while len(self._open) >= _OPEN_SHARDS:
            idle = next((name for name, held in self._open.items() if not held.readers), None)
            if idle is None:
                return
            os.close(self._open.pop(idle).descriptor)
