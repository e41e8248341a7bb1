"""Digests of files, remembered between runs: unchanged files are not read again.

In: paths, or keys of a remote store. Out: their digests, in order. The memory is one SQLite file,
`digests.sqlite` in `NS_CACHE` (by default `~/.cache/noisy-student`): a file of the same absolute path, size and
times of modification and change (ns) has the digest that was found before, and so has an object of the same URI,
size and ETag. The memory may be removed at any time; one that is broken is replaced, one that cannot be written is done
without.

A file that was modified less than two seconds before it was read is not remembered: it may be modified again
within the same tick of the clock, which its time would not show (git calls such an entry racy).
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path

from ns_core.data.folders import Algorithm, file_digest, told
from ns_core.data.ordered import in_order
from ns_core.errors import NotFound, UserError
from ns_core.stage import cache_folder
from ns_core.storage import Storage

READERS = 8
"""Threads that read files: they wait for the disk or the network."""
_RACY_NS = 2_000_000_000
_BATCH = 2048
"""Files that are looked up and remembered at a time."""
_RUN = 16
"""Files that a thread reads in a row; handing one over costs 60 us, as much as reading it."""
_LOCKED_S = 10.0
"""How long to wait for another process that writes."""

_OBJECTS = 16
"""Objects of a remote store that are looked up and remembered at a time."""
_CHUNK = 8 << 20
"""Bytes of one request when such an object is hashed."""

Stamp = tuple[str, int, int]
"""Absolute path, size in bytes, times of modification and change (ns) in one number."""
_POSITIVE = (1 << 63) - 1


def file_digests(paths: Iterable[str], algorithm: Algorithm = "sha256") -> Iterator[bytes]:
    """The digest of each file; `UserError` for one that is gone or may not be read."""
    remaining, digest = iter(paths), partial(_digests, algorithm)
    with closing(_Memory(_place(), algorithm)) as memory:
        while batch := list(islice(remaining, _BATCH)):
            stamps = [_stamp(path) for path in batch]
            known = memory.get(stamps)
            unknown = [stamp for stamp in stamps if stamp not in known]
            runs = [unknown[start : start + _RUN] for start in range(0, len(unknown), _RUN)]
            fresh = dict(zip(unknown, chain.from_iterable(in_order(digest, runs, READERS)), strict=True))
            memory.put({stamp: digest for stamp, (digest, settled) in fresh.items() if settled})
            for stamp in stamps:
                yield known[stamp] if stamp in known else fresh[stamp][0]


def object_digests(storage: Storage, keys: Iterable[str]) -> Iterator[bytes]:
    """sha256 of each object of a remote store, read through unless its size and ETag are known; or `NotFound`."""
    remaining, digest = iter(keys), partial(_streamed, storage)
    with closing(_Memory(_place(), "sha256")) as memory:
        # Few at a time: an object may be of gigabytes, and what was read should be remembered soon.
        while batch := list(islice(remaining, _OBJECTS)):
            stamps = [_object_stamp(storage, key) for key in batch]
            known = memory.get(stamps)
            unknown = [number for number, stamp in enumerate(stamps) if stamp not in known]
            read = in_order(digest, ((batch[number], stamps[number]) for number in unknown), READERS)
            fresh = dict(zip((stamps[number] for number in unknown), read, strict=True))
            memory.put(fresh)
            for stamp in stamps:
                yield known[stamp] if stamp in known else fresh[stamp]


def tree_digest(kind: str, entries: Iterable[tuple[str, bytes]]) -> str:
    """The identity of a source: `{kind}-` and sha256 over names and their digests, in the order given."""
    total = hashlib.sha256()
    for name, digest in entries:
        total.update(os.fsencode(name) + b"\0" + digest)
    return f"{kind}-{total.hexdigest()}"


def _place() -> Path:
    return cache_folder() / "digests.sqlite"


def _stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)
    except OSError:
        with told(Path(path)):
            raise
    # The time of change beside that of modification: `cp -p` and `mv` keep the latter.
    times = (status.st_mtime_ns ^ status.st_ctime_ns << 1) & _POSITIVE
    return path if path.startswith("/") else os.path.abspath(path), status.st_size, times


def _object_stamp(storage: Storage, key: str) -> Stamp:
    """The URI, the size and the ETag, as a number, in the place of a time."""
    uri, version = f"{storage.uri}/{key}", storage.version(key)
    if version is None:
        raise NotFound(uri)
    return uri, version[0], int.from_bytes(hashlib.sha256(version[1].encode()).digest()[:7], "big")


def _streamed(storage: Storage, one: tuple[str, Stamp]) -> bytes:
    """sha256 of an object that is still of this stamp afterwards; else `UserError`."""
    total, (key, stamp) = hashlib.sha256(), one
    for start in range(0, stamp[1], _CHUNK):
        total.update(storage.read_range(key, start, min(_CHUNK, stamp[1] - start)))
    if _object_stamp(storage, key) != stamp:
        raise UserError(f"{stamp[0]} changed while it was read: run the same command again once it is written")
    return total.digest()


def _digests(algorithm: Algorithm, stamps: list[Stamp]) -> list[tuple[bytes, bool]]:
    """The digest of each, and whether it may be remembered under this stamp."""
    found = []
    for path, _, _ in stamps:
        with told(Path(path)):
            settled = time.time_ns() - os.stat(path).st_mtime_ns >= _RACY_NS
        found.append((file_digest(Path(path), algorithm), settled))
    return found


class _Memory:
    """Digests by stamp; whatever is wrong with the file, it forgets rather than fails."""

    def __init__(self, place: Path, algorithm: Algorithm) -> None:
        self._place, self._table = place, algorithm
        try:
            self._base = _open(place, algorithm)
        except (sqlite3.OperationalError, OSError):
            self._base = _open(None, algorithm)
        except sqlite3.DatabaseError:
            self._base = self._replaced()

    def get(self, stamps: Iterable[Stamp]) -> dict[Stamp, bytes]:
        """Those of the stamps that are known."""
        question = f"SELECT digest FROM {self._table} WHERE path = ? AND size = ? AND modified = ?"
        known = {}
        try:
            for stamp in stamps:
                row = self._base.execute(question, (os.fsencode(stamp[0]), *stamp[1:])).fetchone()
                if row is not None:
                    known[stamp] = row[0]
        except sqlite3.DatabaseError as error:
            self._mend(error)
        return known

    def put(self, digests: dict[Stamp, bytes]) -> None:
        """Remembers them, in place of what was known of these paths."""
        rows = [(os.fsencode(path), size, modified, digest) for (path, size, modified), digest in digests.items()]
        try:
            with self._base:
                self._base.executemany(f"INSERT OR REPLACE INTO {self._table} VALUES (?, ?, ?, ?)", rows)
        except sqlite3.DatabaseError as error:
            self._mend(error)

    def close(self) -> None:
        self._base.close()

    def _mend(self, error: sqlite3.DatabaseError) -> None:
        if not isinstance(error, sqlite3.OperationalError):
            self._base.close()
            self._base = self._replaced()

    def _replaced(self) -> sqlite3.Connection:
        """A new file; the broken one goes with its journal, which would be played back into the new."""
        with suppress(OSError):
            for ending in ("", "-journal", "-wal", "-shm"):
                self._place.with_name(self._place.name + ending).unlink(missing_ok=True)
        try:
            return _open(self._place, self._table)
        except (sqlite3.Error, OSError):
            return _open(None, self._table)


def _open(place: Path | None, table: str) -> sqlite3.Connection:
    """The file, made when it is not there; None: in memory alone."""
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
    base = sqlite3.connect(place or ":memory:", timeout=_LOCKED_S)
    try:
        # In the order of paths, in which they are asked for: neighbours lie on one page.
        base.execute(
            f"CREATE TABLE IF NOT EXISTS {table} (path BLOB PRIMARY KEY, size INTEGER NOT NULL, "
            "modified INTEGER NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID"
        )
    except sqlite3.Error:
        base.close()
        raise
    return base
