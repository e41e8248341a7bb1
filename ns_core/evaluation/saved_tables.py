"""Finished tables of an evaluation, as they wait to be committed: each whole, and able to tell whether it still is.

In the resume folder a file is called `corruptions-fog-3-00000.{sha256}.parquet`: its name in the artifact, with the
digest of its bytes. Of an artifact that was set aside as damaged, the tables that are whole are taken as they are.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ns_core.evaluation.tables import Table, write_table
from ns_core.resume import Adopted
from ns_core.stage import StageContext, log

_AT_ONCE = 16
"""Files that are looked at together: in S3 each takes a request."""
_TOLD = 5
"""File names in a log line."""


class SavedTables:
    """The finished tables by their names in the artifact."""

    def __init__(self, context: StageContext) -> None:
        self._context, self._resume = context, context.resume

    def save(self, name: str, table: Table) -> Adopted:
        """Writes and publishes a table. The same table gives the same bytes."""
        path = self._context.output / name
        write_table(table, path)
        return self._resume.finish(name, path)

    def find(self, names: Sequence[str]) -> dict[str, Adopted]:
        """Those that are there already, and whole; by name, in the order of the names.

        A damaged one is deleted, said so, and counts as missing. Raises `NotFound` for one that goes meanwhile: a rival
        that has committed clears what both had saved.
        """
        there = self._resume.finished()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            tried = pool.map(lambda name: self._first_whole(there.get(name, [])), names)
            found = {name: file for name, file in zip(names, tried, strict=True) if file is not None}
        if missing := [name for name in names if name not in found]:
            found |= self._salvaged(missing)
        return {name: found[name] for name in names if name in found}

    def _first_whole(self, candidates: list[tuple[str, str]]) -> Adopted | None:
        """Several attempts may have saved a file each; one counts, the same for everybody who looks."""
        return next((file for one in candidates if (file := self._resume.whole(*one)) is not None), None)

    def _salvaged(self, missing: list[str]) -> dict[str, Adopted]:
        whole = self._context.salvage()
        if not whole:
            return {}
        kept = {name: whole[name] for name in missing if name in whole}
        again = [name for name in missing if name not in whole]
        log.warning(
            "of an evaluation that was set aside as damaged %d of %d tables are kept; measured again: %s",
            *(len(kept), len(missing)),
            ", ".join([*again[:_TOLD], "..."] if len(again) > _TOLD else again) or "none",
        )
        return kept
