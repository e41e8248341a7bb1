"""Which pseudo-labelled images are kept, and how often, of any number of them in bounded memory.

In: label tables as Parquet files with the columns key, sha256 (lower-case hexadecimal), reason, top1, confidence (the
one to go by), margin. Out: an outcome and a number of copies for each row, file by file.

    rule `top`         the paper's (section 3.1) made exact: of each class the `per_class` best by confidence, margin,
                       smaller content hash, smaller key. A class with fewer repeats them up to `per_class`: whole
                       copies first, the odd ones to the smallest sha256(f"{seed}:{sha256}"), keys among equals; none
                       stands more than `max_copies` times.
    rule `official`    filter_unlabel.py of google-research/noisystudent: bins of 0.01 from 1.00 downwards until they
                       hold `per_class` images or the threshold is reached; each of those n images stands
                       per_class / n times, the fraction by a draw of its own, and at most `max_copies` times.

A rule may have a highest confidence as well (`Rule.max_confidence`), and be asked of a share of the pool: the images
with the smallest lots, whatever their labels (`Rule.pool_fraction`). Images outside either are as if they were not
there, but for their reason. Its threshold may be another for each class (`Rule.by_class`).

Both count rows by class and bin first, which says in which bin each class is cut. `top` then ranks the rows of these
bins alone, a percent of what is kept, by numbers; content hashes are read where equal rows compete or copies are
drawn, keys where hashes are equal too. What is in is known by value (`Plan`) but for one byte a row.

Where `official` is not the official code: its draws have no seed, so that two runs differ, here they are a hash of
seed, content hash and key; it compares float32 confidences with float64 edges, here edges and threshold are float32, so
that a confidence of exactly float32(0.7) is above 0.7; it stops with an assertion when a short class meets a threshold
off the grid of 0.01, here that class ends at the threshold; it has no `max_copies`. In both a class with nothing above
the threshold is absent.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Self

import duckdb
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ns_core.errors import UserError
from ns_core.selection.counts import Counts, Integers
from ns_core.selection.duplicates import Twins, drop_duplicates
from ns_core.selection.flags import DRAWN, LOST, OUTSIDE, Flags
from ns_core.selection.rules import Plan, Rule, official, top
from ns_core.selection.statements import (
    Drawn,
    connect,
    define_views,
    drawn_rows,
    fine_bins,
    hundredths,
    row_counts,
    sampled,
    within,
)

__all__ = ["Classes", "Limits", "Outcomes", "Rule", "Selection", "Twins", "select"]

REASONS = ("kept", "below_threshold", "class_full", "duplicate", "corrupt", "too_confident", "not_sampled")
"""Name of each outcome, by its code. The last two are of a rule with a `max_confidence` or a `pool_fraction`."""
KEPT, BELOW_THRESHOLD, CLASS_FULL, DUPLICATE, CORRUPT, TOO_CONFIDENT, NOT_SAMPLED = range(7)


class Limits(NamedTuple):
    """What a selection may use."""

    memory_bytes: int
    """Of DuckDB; Python, Arrow and the file that is being read take some 200 MB besides."""
    threads: int
    scratch: Path
    """Folder for what does not fit, and for a byte a row."""


class Outcomes(NamedTuple):
    """Of one file, by row number."""

    outcome: NDArray[np.int8]
    """Index into `REASONS`."""
    copies: NDArray[np.int32]
    """0 unless the row is kept."""


@dataclass(frozen=True)
class Classes:
    """Counts by predicted class, up to the highest that occurs; int64[C]."""

    predicted: Integers
    """Rows that could be read."""
    below_threshold: Integers
    """Also those that are too confident or not sampled: whatever nothing is chosen among."""
    duplicates: Integers
    eligible: Integers
    """Those that are chosen among and are no duplicates: `kept` or full."""
    kept: Integers
    rows: Integers
    """Copies of them all."""
    cut: NDArray[np.float32]
    """The lowest confidence that is kept, or would be where the class is short of images."""


class Selection:
    """A context manager, after which the scratch is gone. Threads may share it."""

    def __init__(self, files: Sequence[Path], rule: Rule, chosen: "_Chosen", scratch: ExitStack) -> None:
        self._files, self._rule, self._scratch = files, rule, scratch
        self._plan, self._flags = chosen.plan, chosen.flags
        self.classes = chosen.classes
        self.corrupt = chosen.corrupt
        """Rows that could not be read, and so have no class."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._scratch.close()

    def of(self, number: int) -> Outcomes:
        """Of `files[number]`, of which no text is read. In any order; each call reads its file."""
        with pq.ParquetFile(self._files[number]) as file:
            table = file.read(["reason", "top1", "confidence", "margin"], use_threads=False)
        flags = self._flags.of(number)
        assert table.num_rows == len(flags), f"{self._files[number]} changed while it was selected from"
        unread = pc.is_valid(table["reason"]).to_numpy()
        top1, confidence, margin = (pc.fill_null(table[name], 0).to_numpy() for name in table.column_names[1:])
        passes = confidence >= self._rule.lowest(top1)
        beyond = confidence >= np.float32(self._rule.max_confidence)
        if self._rule.max_confidence == 1:
            beyond[:] = False
        copies = np.zeros(len(flags), np.int32)
        if (passes & ~unread).any():  # else there may be no class
            copies = self._plan.copies(top1, confidence, margin)
        if flags.any():
            copies += flags == DRAWN
            copies[flags == LOST] = 0
        copies[unread | beyond | (flags == OUTSIDE)] = 0
        np.minimum(copies, self._rule.max_copies, out=copies)
        outcome = np.where(passes, np.int8(CLASS_FULL), np.int8(BELOW_THRESHOLD))
        outcome[beyond] = TOO_CONFIDENT
        outcome[copies > 0] = KEPT
        outcome[flags == LOST] = DUPLICATE
        outcome[flags == OUTSIDE] = NOT_SAMPLED
        outcome[unread] = CORRUPT
        return Outcomes(outcome, copies)


class _Chosen(NamedTuple):
    plan: Plan
    flags: Flags
    classes: Classes
    corrupt: int


def select(files: Sequence[Path], rule: Rule, twins: Twins, limits: Limits) -> Selection:
    """The choice among the rows of all `files`; of each group of `twins` among those that could be kept, the best.

    How rows are ordered and divided among files changes nothing. Keys are unique. Raises `StageFailed` where labels
    are damaged, `UserError` where the memory does not do.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="selection-", dir=limits.scratch)))
        try:
            with connect(limits.memory_bytes, limits.threads, scratch) as connection:
                chosen = _choose(connection, files, rule, twins, scratch)
        except duckdb.OutOfMemoryException as error:
            megabytes = limits.memory_bytes >> 20
            raise UserError(
                f"{megabytes} MB of memory do not do for this selection: raise compute.memory_gigabytes"
            ) from error
        kept = stack.pop_all()
    return Selection(list(files), rule, chosen, kept)


def _choose(
    connection: duckdb.DuckDBPyConnection, files: Sequence[Path], rule: Rule, twins: Twins, scratch: Path
) -> _Chosen:
    flags = Flags(scratch / "flags", row_counts(connection, files))
    if not files:
        counts, lost = Counts.of(np.zeros(0, np.int64), np.zeros(0, np.int64)), np.zeros(0, np.int64)
    else:
        share = sampled(rule.pool_fraction, rule.pool_seed) if rule.pool_fraction < 1 else "true"
        passes = f"{within(rule.threshold, rule.max_confidence, rule.by_class)} AND {share}"
        define_views(connection, files, passes, hundredths() if rule.official else fine_bins())
        lost = _marked(flags, LOST, drop_duplicates(connection, twins), 0)
        found = connection.execute("SELECT code, count(*) AS rows FROM labels GROUP BY code").fetchnumpy()
        counts = Counts.of(found["code"].astype(np.int64), found["rows"], len(lost))
        if rule.pool_fraction < 1:
            others = f"SELECT row, top1 FROM labels WHERE code >= 0 AND NOT {share}"
            _marked(flags, OUTSIDE, drawn_rows(connection, others), 0)
    lost = np.pad(lost, (0, counts.classes - len(lost)))
    decide = official if rule.official else top
    plan = decide(connection, counts, rule, lambda drawn: _marked(flags, DRAWN, drawn, counts.classes))
    predicted = counts.below + counts.eligible + lost
    classes = Classes(predicted, counts.below, lost, counts.eligible, plan.kept, plan.rows, plan.confidence)
    return _Chosen(plan, flags, classes, counts.unread)


def _marked(flags: Flags, value: int, drawn: Drawn, classes: int) -> Integers:
    """Marks the rows, and counts them by class: int64[`classes`], or as many as occur."""
    counts = np.zeros(classes, np.int64)
    for rows, top1 in drawn:
        flags.mark(rows, value)
        more = np.bincount(top1, minlength=len(counts))
        more[: len(counts)] += counts
        counts = more
    return counts
