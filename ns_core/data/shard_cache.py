"""Local copies of shards that lie in a store, within a bound.

In: `RemoteShard`s, asked for image by image, and plans of what will be read next. Out: bytes, as from a local
file. A shard is fetched whole, checked, and renamed into the folder, so that a copy is complete or absent. Two
threads that want one shard fetch it once. Copies outlive the process: a retry, or the next epoch, finds them.

Room is made for a copy by removing others: first those in nobody's plan, the longest unused first, then those
that the plans need later than the one that comes. One that is being read stays. So what was fetched ahead is
there when its turn comes, as long as the bound holds the plan up to it, and nothing past that is fetched ahead.

Other processes may use the folder: they find each other's copies and count them towards the bound, and one
that loses a copy to another fetches it again.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from time import time
from typing import Any, Self
from uuid import uuid4

from ns_core.data.patience import Patience
from ns_core.data.remote_shard import RemoteShard, ShortShard
from ns_core.errors import UserError

_FETCHERS = 4
"""Threads that fetch ahead, each with up to four connections of its own for a shard of more than 32 MiB."""
_ABANDONED_S = 3600.0
"""A half copy that nobody has written to for so long was left by a process that is gone."""
SETTING = "compute.cache_gigabytes"


@dataclass
class _Copy:
    """A shard that is here."""

    size: int
    readers: int = 0
    """Threads that read it, or are about to."""


@dataclass
class _Flight:
    """A shard on its way."""

    arrived: Future[_Copy] = field(default_factory=Future)
    size: int = 0
    """Bytes kept free for it."""
    readers: int = 0
    """Threads that wait for it; none when it is fetched ahead."""


class Plan:
    """The shards that one reader will want, in the order of need. Kept and fetched ahead while it is open."""

    def __init__(self, replan: Callable[["Plan", Sequence[RemoteShard]], None], drop: Callable[["Plan"], None]) -> None:
        self._replan, self._drop = replan, drop
        self.shards: Sequence[RemoteShard] = ()

    def want(self, shards: Sequence[RemoteShard]) -> None:
        """Replaces the plan and returns at once."""
        self._replan(self, shards)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._drop(self)


class ShardCache:
    """Copies in `folder` of at most `limit` bytes together. Any number of threads may share it."""

    def __init__(self, folder: Path, limit: int, patience: Patience) -> None:
        """Touches neither disk nor network."""
        self.limit, self.patience = limit, patience
        self._folder = folder
        self._changed = threading.Condition()
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        """The longest unused first."""
        self._flights: dict[str, _Flight] = {}
        self._plans: list[Plan] = []
        self._given_up: set[str] = set()
        """Could not be fetched ahead: left to whoever needs them, who is then told why."""
        self._fetchers = 0

    def read(self, shard: RemoteShard, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`.

        Raises `ShortShard` when the shard ends before, `UserError` when it is not there, may not be read, or is
        larger than the bound, `StageFailed` when the server stays away or sends other bytes than recorded.
        """
        while True:
            try:
                copy = self._hold(shard)
            except _NoRoom:  # of a fetch ahead that this read came upon as it gave up
                continue
            try:
                data = _pread(self._folder / shard.name, offset, size)
            finally:
                self._release(copy)
            if data is None:  # another process made room
                with self._changed:
                    if self._copies.get(shard.name) is copy:
                        del self._copies[shard.name]
            elif len(data) < size:
                raise ShortShard(f"{shard.uri}: truncated, {len(data)} of {size} bytes at offset {offset}")
            else:
                return data

    def plan(self) -> Plan:
        """A new plan, to be used as a context manager."""
        plan = Plan(self._replan, self._drop)
        with self._changed:
            self._plans.append(plan)
        return plan

    def _replan(self, plan: Plan, shards: Sequence[RemoteShard]) -> None:
        with self._changed:
            plan.shards = tuple(shards)
            self._given_up.clear()
            missing = len({shard.name for shard in shards} - self._copies.keys())
            for _ in range(min(missing, _FETCHERS) - self._fetchers):
                self._fetchers += 1
                threading.Thread(target=self._fetch_ahead, name="read-ahead", daemon=True).start()

    def _drop(self, plan: Plan) -> None:
        with self._changed:
            self._plans.remove(plan)

    def _hold(self, shard: RemoteShard) -> _Copy:
        """The shard's copy, fetched if it is not here; it stays until it is released."""
        with self._changed:
            copy = self._copies.get(shard.name)
            if copy is not None and not copy.readers and not shard.fits(copy.size):
                del self._copies[shard.name]  # found in the folder, where a crash of the machine cut it short
                copy = None
            if copy is not None:
                copy.readers += 1
                self._copies.move_to_end(shard.name)
                return copy
            flight = self._flights.get(shard.name)
            ours = flight is None
            if flight is None:
                flight = self._flights[shard.name] = _Flight()
            flight.readers += 1
            self._changed.notify_all()  # room is now made for it at any price
        if ours:
            self._fly(shard, flight)
        return flight.arrived.result()

    def _release(self, copy: _Copy) -> None:
        with self._changed:
            copy.readers -= 1
            if not copy.readers:
                self._changed.notify_all()

    def _fly(self, shard: RemoteShard, flight: _Flight) -> None:
        """Fetches, and tells all who wait how it went."""
        try:
            size = self._fetch(shard, flight)
        except BaseException as error:
            with self._changed:
                del self._flights[shard.name]
                self._changed.notify_all()
            flight.arrived.set_exception(error)
            return
        with self._changed:
            del self._flights[shard.name]
            copy = self._copies[shard.name] = _Copy(size, flight.readers)
            self._changed.notify_all()
        flight.arrived.set_result(copy)

    def _fetch(self, shard: RemoteShard, flight: _Flight) -> int:
        """Copies the shard into the folder, unless another process has; its size."""
        target = self._folder / shard.name
        with suppress(FileNotFoundError):
            size = target.stat().st_size
            if shard.fits(size):
                return size
            target.unlink()
        self._folder.mkdir(parents=True, exist_ok=True)
        arrived = self._folder / f".{uuid4().hex}"
        try:
            size = shard.bytes_now(self.patience)
            self._reserve(shard.name, flight, size)
            shard.fetch(arrived, size, self.patience)
            arrived.replace(target)
        finally:
            arrived.unlink(missing_ok=True)
        return size

    def _reserve(self, name: str, flight: _Flight, size: int) -> None:
        """Makes room for `size` bytes and keeps it free."""
        if size > self.limit:
            raise UserError(f"{SETTING}={gigabytes(self.limit)} holds no shard of {gigabytes(size)} GB: raise it")
        with self._changed:
            self._look()
            while self._used() + size > self.limit:
                if victim := self._victim(name, flight):
                    del self._copies[victim]
                    (self._folder / victim).unlink(missing_ok=True)
                elif flight.readers or self._is_busy():
                    self._changed.wait()  # for a read, which takes microseconds, or for another shard to arrive
                    self._look()
                else:
                    raise _NoRoom(name)
            flight.size = size

    def _used(self) -> int:
        return sum(copy.size for copy in self._copies.values()) + sum(flight.size for flight in self._flights.values())

    def _is_busy(self) -> bool:
        return any(copy.readers for copy in self._copies.values()) or any(one.size for one in self._flights.values())

    def _victim(self, name: str, flight: _Flight) -> str | None:
        """The copy that is missed the least when `name` takes its place."""
        turn = {shard.name: number for number, shard in reversed(list(enumerate(self._needed())))}
        idle = [other for other, copy in self._copies.items() if not copy.readers]
        unplanned = next((other for other in idle if other not in turn), None)
        # Whoever waits is given room even where the plans came first: they were made for a larger cache.
        after = -1 if flight.readers else turn.get(name, -1)
        return unplanned or max((other for other in idle if turn[other] > after), key=turn.__getitem__, default=None)

    def _needed(self) -> list[RemoteShard]:
        """What the plans want, the most urgent of each first."""
        return [shard for shard in chain(*zip_longest(*(plan.shards for plan in self._plans))) if shard is not None]

    def _fetch_ahead(self) -> None:
        """A thread's work: one planned shard after the other, until all that fit are there."""
        while (following := self._next()) is not None:
            shard, flight = following
            self._fly(shard, flight)
            if flight.arrived.exception() is not None:
                with self._changed:
                    self._given_up.add(shard.name)

    def _next(self) -> tuple[RemoteShard, _Flight] | None:
        """The first planned shard that is neither here nor on its way, within the bound; None ends the thread."""
        with self._changed:
            room, seen = self.limit, set[str]()
            for shard in self._needed():
                if shard.name in seen:
                    continue
                seen.add(shard.name)
                room -= shard.size
                if room < 0:
                    break
                if all(shard.name not in there for there in (self._copies, self._flights, self._given_up)):
                    flight = self._flights[shard.name] = _Flight()
                    return shard, flight
            self._fetchers -= 1
            return None

    def _look(self) -> None:
        """Takes in what other processes have put into the folder or removed, and clears what they left half done."""
        there = dict[str, os.stat_result]()
        for entry in os.scandir(self._folder):
            with suppress(FileNotFoundError):
                there[entry.name] = entry.stat()
        for name in self._copies.keys() - there.keys():
            del self._copies[name]
        for name, state in sorted(there.items(), key=lambda item: item[1].st_mtime):
            if name.startswith("."):
                if time() - state.st_mtime > _ABANDONED_S:
                    (self._folder / name).unlink(missing_ok=True)
            elif name not in self._copies and name not in self._flights:
                self._copies[name] = _Copy(state.st_size)


class _NoRoom(Exception):
    """All room is taken by what is needed earlier."""


def gigabytes(size: int) -> str:
    """As the setting counts them, in 2^30 bytes."""
    return f"{size / 2**30:.3g}"


def _pread(path: Path, offset: int, size: int) -> bytes | None:
    """What the file holds there; None when there is no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
