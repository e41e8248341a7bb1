"""What MLflow could not be told yet, in order: `{spool}/journal.db`, an SQLite file that processes may share.

In: entries. Out: the same in the order of their arrival, across processes, until each is marked as done; and MLflow's
ids of the runs that got a local handle. Every change is one transaction: a kill leaves no half entry. Entries belong
to one MLflow and experiment (`address`): a tracker of another one leaves them alone. Only entries that came from the
metric files of older versions, which do not say where they belong, are everybody's (address "").
"""

import json
import sqlite3
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ns_core.tracking.entries import Entry
from ns_core.tracking.points import Point, rows

FILE = "journal.db"
BATCH_POINTS = 1000
"""What one of MLflow's calls may hold."""
_BUSY_SECONDS = 30.0
_TABLES = """
create table if not exists entry (number integer primary key autoincrement, address text not null, run text not null,
    lane text not null, kind text not null, at integer not null, body text not null, data blob);
create index if not exists entry_of_run on entry (run, lane, number);
create table if not exists opened (address text, handle text, run text, primary key (address, handle));
"""
_OURS = "address in (?, '')"


class Journal:
    """The journal of one address in a spool. Thread-safe.

    Reading where there is none yet, or on a broken disk, finds nothing; writing raises OSError or sqlite3.Error.
    """

    def __init__(self, spool: Path, address: str) -> None:
        self._spool, self._address = spool, address
        self._opened: sqlite3.Connection | None = None
        self._lock = threading.RLock()

    @property
    def path(self) -> Path:
        return self._spool / FILE

    def append(self, entry: Entry) -> None:
        """Keep an entry."""
        self._insert([entry], self._address)

    def waiting(self, but: Collection[str] = ()) -> int:
        """How many entries wait, those of the runs `but` not counted."""
        counts = self._ask(f"select run, count(*) from entry where {_OURS} group by run", self._address)
        return sum(count for run, count in counts if run not in but)

    def holds(self, run: str, lane: str = "") -> bool:
        """Whether entries of a run wait, in one lane or in any."""
        where, given = ("and lane = ?", (lane,)) if lane else ("", ())
        return bool(
            self._ask(f"select 1 from entry where {_OURS} and run = ? {where} limit 1", self._address, run, *given)
        )

    def outline(self, after: int, lane: str = "") -> list[tuple[int, str, str]]:
        """Number, run and lane of the entries behind a number, of one lane or of all, in order."""
        where, given = ("and lane = ?", (lane,)) if lane else ("", ())
        sql = f"select number, run, lane from entry where {_OURS} and number > ? {where} order by number"
        return self._ask(sql, self._address, after, *given)

    def take(self, number: int) -> list[Entry]:
        """The entry of this number, and if it holds points, what follows of the run's up to 1000; [] if it is done."""
        columns = "number, kind, run, at, body, data"
        found = [_entry(row) for row in self._ask(f"select {columns} from entry where number = ?", number)]
        if not found or found[0].kind != "points":
            return found
        sql = (
            f"select {columns} from entry where {_OURS} and run = ? and lane = 'points' and number > ? order by number"
        )
        count = len(found[0].body["points"])
        for row in self._ask(f"{sql} limit {BATCH_POINTS}", self._address, found[0].run, number):
            entry = _entry(row)
            if (count := count + len(entry.body["points"])) > BATCH_POINTS:
                break
            found.append(entry)
        return found

    def done(self, entries: Sequence[Entry], run: str = "") -> None:
        """Forget entries; of an `open`, remember the run's id in MLflow, in the same step."""
        with self._writing() as database:
            database.executemany("delete from entry where number = ?", [(entry.number,) for entry in entries])
            if run:
                given = (self._address, entries[0].run, run)
                database.execute("insert or replace into opened values (?, ?, ?)", given)

    def run_of(self, handle: str) -> str:
        """MLflow's id of the run with this local handle; "" while it has none."""
        found = self._ask("select run from opened where address = ? and handle = ?", self._address, handle)
        return str(found[0][0]) if found else ""

    @contextmanager
    def delivering(self, seconds: float) -> Iterator[bool]:
        """Whether this process may deliver: of those that share the spool one at a time, waited for so long."""
        name = sha256(self._address.encode()).hexdigest()[:8]
        try:
            self._spool.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._spool / f"deliver-{name}.lock", timeout=seconds)
            lock.acquire()
        except (Timeout, OSError):
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def adopt_metric_files(self) -> None:
        """Take over `<run>.jsonl`, a point a line, which older versions left in the spool."""
        for path in sorted(self._spool.glob("*.jsonl")):
            with FileLock(self._spool / ".lock"):  # theirs
                points = []
                for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
                    with suppress(ValueError, TypeError):  # empty, or torn by a kill
                        points.append(Point(**json.loads(line)))
                parts = [points[start : start + BATCH_POINTS] for start in range(0, len(points), BATCH_POINTS)]
                self._insert([Entry("points", path.stem, {"points": rows(part)}) for part in parts], "")
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _insert(self, entries: Sequence[Entry], address: str) -> None:
        columns = "address, run, lane, kind, at, body, data"
        given = [(address, e.run, e.lane, e.kind, e.at, json.dumps(dict(e.body), default=str), e.data) for e in entries]
        with self._writing() as database:
            database.executemany(f"insert into entry ({columns}) values (?, ?, ?, ?, ?, ?, ?)", given)

    def _database(self) -> sqlite3.Connection:
        if self._opened is None:
            self._spool.mkdir(parents=True, exist_ok=True)
            with FileLock(self._spool / f"{FILE}.lock"):
                opened = sqlite3.connect(self.path, _BUSY_SECONDS, check_same_thread=False)
                # One commit with a log of its own costs no fsync: a kill loses nothing, a power cut the last ones.
                for pragma in ("auto_vacuum = full", "journal_mode = wal", "synchronous = normal"):
                    opened.execute(f"pragma {pragma}")
                opened.executescript(_TABLES)
            self._opened = opened
        return self._opened

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._database() as database:
            yield database

    def _ask(self, sql: str, *given: object) -> list[Any]:
        with self._lock, suppress(OSError, sqlite3.Error):
            if self._opened or self.path.exists():
                return self._database().execute(sql, given).fetchall()
        return []


def waiting(spool: Path) -> dict[str, int]:
    """What a spool holds: MLflow's address and experiment, joined by a space, to its number of entries; "" is any."""
    if not (spool / FILE).exists():
        return {}
    with closing(sqlite3.connect(f"{(spool / FILE).absolute().as_uri()}?mode=ro", uri=True)) as database:
        return dict(database.execute("select address, count(*) from entry group by address"))


def _entry(row: Sequence[Any]) -> Entry:
    number, kind, run, at, body, data = row
    return replace(Entry(kind, run, json.loads(body), data, at), number=number)
