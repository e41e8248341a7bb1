"""Which shards in S3 are fetched before they are needed. Does nothing for local ones.

In: rows in the order in which they will be read. Out: plans for `data.shard_cache`.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Self

import numpy as np

from ns_core.data.order import WindowedOrder
from ns_core.data.reading import ShardReader
from ns_core.data.remote_shard import RemoteShard
from ns_core.data.rows import Rows, Stream
from ns_core.data.shard_cache import SETTING, Plan, gigabytes
from ns_core.errors import UserError
from ns_core.stage import log

_WINDOWS_AHEAD, _SHARDS_AHEAD = 2, 16
"""The window that is read and the next; of small windows as many as make so many shards."""


_Shards = dict[int, RemoteShard]
"""By code, those that are remote."""


class ShardsAhead:
    """A plan that is told which shards come next. Nobody else's plan is touched."""

    def __init__(self, reader: ShardReader) -> None:
        self._reader, self._opened = reader, ExitStack()
        self._plan: Plan | None = None

    def want(self, names: Sequence[str]) -> None:
        """These are read next, in this order: instead of those that were told before."""
        self._want([shard for name in names if (shard := self._reader.copied(name)) is not None])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._opened.close()

    def _want(self, shards: Sequence[RemoteShard]) -> None:
        if self._plan is None and shards:
            assert self._reader.cache is not None
            self._plan = self._opened.enter_context(self._reader.cache.plan())
        if self._plan is not None:
            self._plan.want(shards)


class SequentialAhead(ShardsAhead):
    """For rows that are read in their order: a shard and the next one."""

    def __init__(self, reader: ShardReader, rows: Rows) -> None:
        super().__init__(reader)
        self._begins = np.flatnonzero(np.diff(rows.shard_codes, prepend=-1))
        self._names = [rows.shard_names[code] for code in rows.shard_codes[self._begins]]
        self._now = -1

    def at(self, row: int) -> None:
        """`row` is read next."""
        number = int(np.searchsorted(self._begins, row, side="right")) - 1
        if number != self._now:
            self._now = number
            self.want(self._names[number : number + 2])


class TrainingAhead(ShardsAhead):
    """For the joint stream. With windows: the one that each stream is in, and the next. Without: all shards of a
    stream, where the bound of the cache holds them; else its images are read one by one."""

    def __init__(self, reader: ShardReader, streams: Sequence[Stream]) -> None:
        """Raises `UserError` for windows that the bound does not hold."""
        super().__init__(reader)
        remote = [(stream, shards) for stream in streams if (shards := _remote_shards(reader, stream.rows))]
        self._windowed: list[tuple[WindowedOrder, int, _Shards]] = [
            (stream.order, stream.images, shards)
            for stream, shards in remote
            if isinstance(stream.order, WindowedOrder)
        ]
        self._now: list[int] = []
        if self._windowed:
            self._check_windows()
        elif remote:
            self._keep_what_fits(remote)

    def at(self, step: int) -> None:
        """`step` is the earliest one that is not made yet."""
        windows = [order.shards_ahead(step * images, 1)[0][0] for order, images, _ in self._windowed]
        if windows == self._now:
            return
        self._now = windows
        ahead: list[tuple[int, RemoteShard]] = []
        for order, images, shards in self._windowed:
            count = max(_WINDOWS_AHEAD * order.window, _SHARDS_AHEAD)
            needed = order.shards_ahead(step * images, count)
            ahead += [(position // images, shards[code]) for position, code in needed if code in shards]
        ahead.sort(key=lambda need: need[0])
        self._want([shard for _, shard in ahead])

    def _check_windows(self) -> None:
        """Any window may hold the largest shards of its stream."""
        assert self._reader.cache is not None
        limit, window = self._reader.cache.limit, self._windowed[0][0].window
        largest = [sorted(shard.size for shard in shards.values())[-window:] for _, _, shards in self._windowed]
        if (needed := sum(map(sum, largest))) > limit:
            raise UserError(
                f"{SETTING}={gigabytes(limit)} is less than the {gigabytes(needed)} that a window of {window} shards "
                "of each stream can take: raise it, or lower window_shards"
            )

    def _keep_what_fits(self, streams: list[tuple[Stream, _Shards]]) -> None:
        assert self._reader.cache is not None
        room = limit = self._reader.cache.limit
        kept: list[RemoteShard] = []
        for stream, shards in sorted(streams, key=lambda one: _total(one[1])):
            room -= _total(shards)
            if room >= 0:
                kept += shards.values()
                continue
            self._reader.read_in_ranges(stream.rows.shard_names[code] for code in shards)
            log.warning(
                "%s GB of shards do not fit into %s=%s: each image is read by a request of its own; with "
                "window_shards (64, say) whole shards would be fetched ahead",
                *(gigabytes(_total(shards)), SETTING, gigabytes(limit)),
            )
        if kept:
            self._want(kept)


def _remote_shards(reader: ShardReader, rows: Rows) -> _Shards:
    """The remote shards of a stream, with their size as recorded, or as far as the rows reach."""
    used = np.flatnonzero(np.bincount(rows.shard_codes, minlength=len(rows.shard_names)))
    found = {int(code): reader.remote(rows.shard_names[code]) for code in used}
    remote = {code: shard for code, shard in found.items() if shard is not None}
    if any(not shard.sha256 for shard in remote.values()):
        reach = np.zeros(len(rows.shard_names), np.int64)
        np.maximum.at(reach, rows.shard_codes, rows.offsets + rows.sizes)
        remote = {
            code: shard if shard.sha256 else replace(shard, size=int(reach[code])) for code, shard in remote.items()
        }
    return remote


def _total(shards: _Shards) -> int:
    return sum(shard.size for shard in shards.values())
