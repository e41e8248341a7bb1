"""Finished files of the labels, as they wait to be committed: each whole, and each able to tell whether it still is.

In the resume folder a file is called `labels-pool-000003.{sha256}.parquet`: its name in the artifact, with the digest
of its bytes. What the stage adds up over all files (`Counts`) stands in each one's footer, so that soft labels are
never read back. Of an artifact that was set aside as damaged, the files that are whole are taken as they are.
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ns_core.data.pseudo_labels import TEACHER
from ns_core.resume import RESUME, Adopted
from ns_core.stage import StageContext, log

CONFIDENCE_BINS = 20
"""Of equal width, from 0 to 1."""
NAMED = 3
"""Unreadable images that a file's counts name; all are in its column `reason`."""
_TOLD = 5
"""File names in a log line."""
_COUNTS = b"ns.labels"
_ROW_GROUP = 1 << 14
"""32 MB of full soft labels over 1,000 classes: what a reader of some columns holds at a time."""
_AT_ONCE = 16
"""Files that are looked at together: in S3 each takes two requests."""


@dataclass(frozen=True)
class Counts:
    """What a file adds to the totals."""

    images: int
    unreadable: int
    predicted: NDArray[np.int32]
    """By class: 4 kB a file at 1,000 classes, 120 MB for the 30,000 files of 300 million images."""
    confidence: NDArray[np.int32]
    """By bin."""
    kept_mass: float | None = None
    """Sum over the images, where labels keep the most probable classes alone."""
    named: tuple[tuple[str, str], ...] = ()
    """The first unreadable images: key and reason."""

    def document(self) -> dict[str, Any]:
        """For JSON."""
        lists = {"predicted": self.predicted.tolist(), "confidence": self.confidence.tolist()}
        return {**vars(self), **lists, "named": [list(one) for one in self.named]}

    @classmethod
    def of(cls, table: pa.Table, classes: int) -> Self:
        """`table`: as `data.pseudo_labels.label_table` makes it."""
        bad, good = table.filter(pc.is_valid(table["reason"])), table.filter(pc.is_null(table["reason"]))
        named = zip(bad["key"][:NAMED].to_pylist(), bad["reason"][:NAMED].to_pylist(), strict=True)
        bins = np.histogram(good["confidence"].to_numpy(), CONFIDENCE_BINS, (0.0, 1.0))[0]
        mass = float(good["kept_mass"].to_numpy().sum(dtype=np.float64)) if "kept_mass" in table.column_names else None
        predicted = np.bincount(good["top1"].to_numpy(), minlength=classes)
        counts = (predicted.astype(np.int32), bins.astype(np.int32))
        return cls(table.num_rows, bad.num_rows, *counts, mass, tuple(named))

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """What `document` gave."""
        counts = {name: np.array(document[name], np.int32) for name in ("predicted", "confidence")}
        named = tuple((key, reason) for key, reason in document["named"])
        return cls(**{**document, **counts, "named": named})


@dataclass(frozen=True)
class Saved:
    """A finished file."""

    file: Adopted
    counts: Counts
    extra: Mapping[str, Any]
    """What else was written into its footer."""


class SavedLabels:
    """The finished files by their names in the artifact."""

    def __init__(self, context: StageContext) -> None:
        self._context, self._resume = context, context.resume

    def save(self, name: str, table: pa.Table, counts: Counts, extra: Mapping[str, Any] | None = None) -> Saved:
        """Writes and publishes a file. The same arguments give the same bytes.

        Text repeats in `reason` alone; a dictionary of keys or of digests would hold each of them.
        """
        told = json.dumps({**counts.document(), "extra": dict(extra or {})}, sort_keys=True)
        footer = {_COUNTS: told, TEACHER: self._context.fingerprints.get("teacher", "")}
        path = self._context.output / name
        pq.write_table(
            table.replace_schema_metadata(footer),
            path,
            row_group_size=_ROW_GROUP,
            compression="zstd",
            use_dictionary=["reason", "top1"],
            write_page_checksum=True,
        )
        return Saved(self._resume.finish(name, path), counts, extra or {})

    def forget(self, saved: Saved) -> None:
        """The next attempt makes this file anew."""
        if saved.file.folder == RESUME:
            self._resume.delete(saved.file.saved)

    def find(self, names: Iterable[str]) -> dict[str, Saved]:
        """Those of the artifact's files that are there already, and whole.

        A damaged one is deleted, said so, and counts as missing. Raises `NotFound` for one that goes meanwhile: a rival
        that has committed clears what both had saved.
        """
        there, names = self._resume.finished(), list(names)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            tried = zip(names, pool.map(lambda name: self._first_whole(there.get(name, [])), names), strict=True)
            found = {name: saved for name, saved in tried if saved is not None}
            if missing := [name for name in names if name not in found]:
                found |= self._salvaged(missing, pool)
        return found

    def _salvaged(self, missing: list[str], pool: ThreadPoolExecutor) -> dict[str, Saved]:
        whole = self._set_aside
        if not whole:
            return {}
        kept = [name for name in missing if name in whole]
        again = [name for name in missing if name not in whole]
        log.warning(
            "of an artifact that was set aside as damaged %d of %d files are kept; computed again: %s",
            *(len(kept), len(missing)),
            ", ".join([*again[:_TOLD], "..."] if len(again) > _TOLD else again) or "none",
        )
        return dict(zip(kept, pool.map(lambda name: self._read(whole[name]), kept), strict=True))

    @cached_property
    def _set_aside(self) -> Mapping[str, Adopted]:
        """Looked for once: of a local store that reads all files of the damaged artifact."""
        return self._context.salvage()

    def _first_whole(self, candidates: list[tuple[str, str]]) -> Saved | None:
        """Several attempts may have saved a file each; one counts, the same for everybody who looks."""
        whole = (self._resume.whole(*candidate) for candidate in candidates)
        return next((self._read(file) for file in whole if file is not None), None)

    def _read(self, file: Adopted) -> Saved:
        """A file with its footer; nothing else of it is read."""
        with self._resume.open(file) as stream:
            document = json.loads(pq.read_metadata(stream).metadata[_COUNTS])
        extra = document.pop("extra")
        return Saved(file, Counts.parse(document), extra)
