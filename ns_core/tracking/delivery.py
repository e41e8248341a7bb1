"""Each entry to MLflow at once, or to the journal and to MLflow once it answers again.

In: entries of runs. Out: nothing is raised and nothing is lost. An entry is told directly only if none of its run and
lane waits; else it waits behind those. While MLflow is away nothing but `deliver` tries it. Of an entry that MLflow
refuses there are three sorts: it is wrong in itself (a warning, and it is dropped); its run was deleted by hand (a
warning, and the run's entries wait for a later process); anything else (a warning, and its lane waits for the next
try). None holds up other runs.
"""

import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path

from ns_core.tracking.connection import Connection
from ns_core.tracking.entries import STATE, Entry, is_local
from ns_core.tracking.journal import Journal

LOCK_SECONDS = 10.0
"""How long a call waits for another process that delivers; then that one delivers this call's entry too."""
_WRONG = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST")
_log = logging.getLogger("noisy_student.tracking")


class _Unresolved(Exception):
    """MLflow has no run of this handle yet."""


class _End(Enum):
    """What became of an attempt."""

    DONE, WRONG, GONE, HELD, AWAY = range(5)


class Delivery:
    """The way of one process's entries. Thread-safe."""

    def __init__(self, connection: Connection, journal: Journal) -> None:
        self._connection, self._journal = connection, journal
        self.away = False
        self._gone: set[str] = set()
        self._told: set[object] = set()
        try:
            journal.adopt_metric_files()
        except (OSError, sqlite3.Error) as error:
            self._once("old", f"cannot read the metric files beside {journal.path}: {error}")
        self._connected()

    def give(self, entry: Entry) -> None:
        """Tell it, or keep it."""
        if not (self.away or entry.run in self._gone or self._journal.holds(entry.run, entry.lane)):
            end, _ = self._attempt([entry], late=False)
            if end in (_End.DONE, _End.WRONG):
                return
        self._keep(entry)

    def open(self, entry: Entry) -> str:
        """The run's id, or the local handle that the entry has; "" where even the journal fails.

        What waits of any run's state goes first: an end that was kept would else end the run that is resumed.
        """
        if not self.away and self._journal.waiting():
            self.deliver(LOCK_SECONDS, (STATE,))
        if not self.away and not self._journal.holds(entry.run, STATE):
            end, run = self._attempt([entry], late=False)
            if end is _End.DONE:
                self._gone.discard(entry.run)
                return run
        return entry.run if self._keep(entry) else ""

    def resolve(self, run: str) -> str:
        """MLflow's id of a run, as far as it is known here; "" of a handle that waits."""
        return self._journal.run_of(run) if is_local(run) else run

    def waiting(self) -> int:
        """How many entries of runs that are not known to be deleted wait."""
        return self._journal.waiting(self._gone)

    def deliver(self, seconds: float = 0.0, lanes: Sequence[str] = (STATE, "")) -> None:
        """One try to tell all that waits, lane after lane ("": all), unless another process is at it for longer."""
        with self._journal.delivering(seconds) as allowed:
            if not (allowed and self._connected()):
                return
            held: set[tuple[str, str]] = set()
            if all(self._deliver_lane(lane, held) for lane in lanes) and not self.waiting():
                self._told.clear()

    def warn_of_rest(self) -> None:
        """One warning an outage, if something waits."""
        if count := self.waiting():
            self._once(
                "rest",
                f"{count} record{'s' * (count > 1)} for MLflow {self._connection.uri} wait in {self._journal.path}: "
                f"the next run with this MLflow delivers them",
            )

    def asked(self, error: Exception) -> None:
        """A question failed: note whether MLflow is away."""
        self._judge(None, "", error)

    def _deliver_lane(self, lane: str, held: set[tuple[str, str]]) -> bool:
        """Tell what waits, in order; False as soon as MLflow is away. `held`: runs and lanes that have to wait."""
        last = 0
        while outline := self._journal.outline(last, lane):
            for number, run, own in outline:
                last = number
                if run in self._gone or (run, own) in held or (run, "") in held:
                    continue
                if not (entries := self._journal.take(number)):
                    continue
                end, opened = self._attempt(entries, late=True)
                if end is _End.AWAY:
                    return False
                if end in (_End.DONE, _End.WRONG):
                    self._forget(entries, opened)
                else:
                    held.add((run, "" if entries[0].kind == "open" else own))
        return True

    def _attempt(self, entries: list[Entry], *, late: bool) -> tuple[_End, str]:
        """Tell entries of one run and kind; how it ended, and of an `open` the run's id."""
        entry, run = entries[0], ""
        try:
            if entry.kind == "open":
                parent = entry.body["parent"]
                opened = self._connection.open(entry, self._id(parent) if parent else "", late=late)
            else:
                run, opened = self._id(entry.run), ""
                self._connection.tell(entries, run, late=late)
        except _Unresolved:
            return _End.HELD, ""
        except Exception as error:  # MLflow lets SQLAlchemy's, Alembic's and artifact stores' out
            return self._judge(entry, run, error), ""
        self.away = False
        return _End.DONE, opened

    def _judge(self, entry: Entry | None, run: str, error: Exception) -> _End:
        """What a failure was: of MLflow as a whole, of the run, or of the request (None: a question)."""
        words, handle = (entry.words, entry.run) if entry else ("look for similar runs", "")
        try:
            exists = self._connection.exists(run)
        except Exception as away:
            return self._set_away(words, away)
        wrong = getattr(error, "error_code", "") in _WRONG
        if entry is None or (run and exists and wrong and entry.kind != "points"):  # of many points one may be wrong
            self._warn(words, error, "")
            return _End.WRONG
        self._once((handle, exists), self._text(words, error, f"; it waits in {self._journal.path}"))
        if run and not exists:
            self._gone.add(handle)
            return _End.GONE
        if not run:  # a run that cannot be opened loses nothing by waiting; the server may have begun anew
            self._connection.drop()
        return _End.HELD

    def _set_away(self, words: str, error: Exception) -> _End:
        if not self.away:
            kept = f"; what is recorded meanwhile waits in {self._journal.path} and is delivered when it answers"
            self._warn(words, error, kept)
        self.away = True
        self._connection.drop()
        return _End.AWAY

    def _connected(self) -> bool:
        try:
            self._connection.client()
        except Exception as error:
            self._set_away("connect", error)
            return False
        if self.away:
            _log.info("MLflow %s answers again", self._connection.uri)
        self.away = False
        return True

    def _id(self, run: str) -> str:
        found = self.resolve(run)
        if not found and not self._journal.holds(run, STATE):  # opened by a process with another spool
            found = self._connection.run_of(run)
        if not found:
            raise _Unresolved(run)
        return found

    def _keep(self, entry: Entry) -> bool:
        try:
            if entry.kind == "artifact":
                entry = replace(entry, data=Path(entry.body["path"]).read_bytes())
            self._journal.append(entry)
        except (OSError, sqlite3.Error) as error:
            self._once("broken", f"cannot keep what MLflow was to be told, it is lost: {self._journal.path}: {error}")
            return False
        return True

    def _forget(self, entries: list[Entry], opened: str) -> None:
        try:
            self._journal.done(entries, opened)
        except (OSError, sqlite3.Error) as error:  # told again next time, which changes nothing
            self._once("broken", f"cannot write {self._journal.path}: {error}")

    def _text(self, words: str, error: Exception, tail: str) -> str:
        return f"MLflow {self._connection.uri} cannot {words}: {str(error).split(chr(10))[0]}{tail}"

    def _warn(self, words: str, error: Exception, tail: str) -> None:
        _log.warning("%s", self._text(words, error, tail))

    def _once(self, topic: object, text: str) -> None:
        if topic not in self._told:
            self._told.add(topic)
            _log.warning("%s", text)
