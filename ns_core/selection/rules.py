"""The two rules: from counts by class and bin to where each class is cut and how often what it keeps stands.

In: `Counts`, and the view `eligible` (`selection.statements`) for the rows that numbers by class do not settle. Out:
`Plan`. `selection.engine` says what the rules are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ns_core.selection.counts import Counts, Integers, reached
from ns_core.selection.lots import draw, draw_each
from ns_core.selection.statements import CODES, Drawn


class Rule(NamedTuple):
    """What is kept."""

    threshold: float
    """Lowest confidence, compared as float32: an image of confidence 0.3 passes 0.3, though both are rounded."""
    per_class: int
    max_copies: int
    seed: int
    official: bool
    max_confidence: float = 1.0
    """Of images below this, compared as float32; 1: of all."""
    pool_fraction: float = 1.0
    """Of all images those whose lot, the first 64 bits of sha256(f"pool:{pool_seed}:{sha256}"), is below so many parts
    of 2^64."""
    pool_seed: int = 0
    by_class: NDArray[np.float32] | None = None
    """float32[C], none below `threshold`: the lowest confidence of each class, infinite where nothing is to be kept of
    it. None: `threshold` for all."""

    def lowest(self, top1: NDArray[np.integer[Any]]) -> NDArray[np.float32] | np.float32:
        """The lowest confidence of rows of these classes: of each, or one for all."""
        return np.float32(self.threshold) if self.by_class is None else self.by_class.take(top1)


@dataclass
class Plan:
    """One entry a class. Rows beyond (`confidence`, `margin`) stand `above` times, rows exactly there `at` times, and
    a row that was drawn once more; none more than the rule's `max_copies` times. All others are left out."""

    confidence: NDArray[np.float32]
    margin: NDArray[np.float32]
    above: NDArray[np.int64]
    at: NDArray[np.int64]
    kept: Integers
    """Images."""
    rows: Integers
    """Copies of them all."""

    def copies(
        self, top1: NDArray[np.int32], confidence: NDArray[np.float32], margin: NDArray[np.float32]
    ) -> NDArray[np.int32]:
        """Of any rows, before any was drawn; one entry each. No class is cut below the threshold."""
        above, cut = self.above.astype(np.int32), self.confidence.take(top1)
        copies = above.take(top1)
        copies *= confidence > cut
        edge = np.flatnonzero(confidence == cut)
        mine, cut = top1[edge], self.margin[top1[edge]]
        copies[edge] = np.where(margin[edge] > cut, above[mine], np.where(margin[edge] == cut, self.at[mine], 0))
        return copies


Marked = Callable[[Drawn], Integers]
"""Takes note of the rows that are drawn, and counts them by class."""


def top(connection: duckdb.DuckDBPyConnection, counts: Counts, rule: Rule, marked: Marked) -> Plan:
    """Exactly the `per_class` best of each class."""
    rich = counts.eligible > rule.per_class
    plan, odd = _short(np.where(rich, rule.per_class, counts.eligible), rule)
    draws = odd.copy()
    if rich.any():
        edge = _edge(connection, counts, rule.per_class)
        cut, wanted, equal = edge["top1"], edge["places"], edge["rows"]
        plan.confidence[cut], plan.margin[cut] = edge["confidence"], edge["margin"]
        plan.at[cut] = wanted == equal
        draws[cut] = np.where(wanted < equal, wanted, 0)
    among = np.flatnonzero(draws)
    if len(among):
        columns = {"top1": among, "confidence": plan.confidence[among], "margin": plan.margin[among]}
        marked(draw(connection, pa.table({**columns, "copies": odd[among] > 0}), draws, rule.seed))
    return plan


def official(connection: duckdb.DuckDBPyConnection, counts: Counts, rule: Rule, marked: Marked) -> Plan:
    """Of each class the bins of 0.01, from the top, that hold `per_class` images, or all down to the threshold."""
    taken, edge = counts.eligible, np.full(counts.classes, rule.lowest(np.arange(counts.classes)))
    place, before = reached(counts.top1, counts.rows, np.full(counts.classes, rule.per_class))
    cut = counts.top1[place]
    taken[cut] = before + counts.rows[place]
    edge[cut] = np.maximum(edge[cut], ((counts.bins[place] - 1) / 100).astype(np.float32))
    plan, odd = _short(taken, rule)
    plan.confidence[:] = edge
    among = np.flatnonzero(odd)
    if len(among):
        # A lot is below odd / n of 2^64 exactly if it is below this, rounded up.
        limits = [-((-int(odd[top1]) << 64) // int(taken[top1])) for top1 in among]
        table = pa.table({"top1": among, "confidence": edge[among], "limit": pa.array(limits, pa.uint64())})
        drawn = marked(draw_each(connection, table, rule.seed))
        plan.kept = np.where(plan.above > 0, taken, drawn)
        plan.rows = plan.above * taken + drawn
    return plan


def _short(images: Integers, rule: Rule) -> tuple[Plan, Integers]:
    """All `images` (by class) stand equally often; and how many of them, by class, stand once more.

    In whole copies they come to `per_class` or, at the cap, to fewer.
    """
    whole, odd = np.divmod(rule.per_class, np.maximum(images, 1))
    capped = (whole >= rule.max_copies) | (images == 0)
    whole, odd = np.minimum(whole, rule.max_copies), np.where(capped, 0, odd)
    threshold = np.full(len(images), rule.lowest(np.arange(len(images))))
    # No margin is negative: at the threshold all are beyond this one.
    no_margin = np.full(len(images), np.float32(-1))
    return Plan(threshold, no_margin, whole, np.zeros_like(whole), images.copy(), whole * images + odd), odd


def _edge(connection: duckdb.DuckDBPyConnection, counts: Counts, per_class: int) -> dict[str, NDArray[Any]]:
    """Of each class with more than `per_class` eligible rows the confidence and margin of the last that is in.

    `places`: how many of the `rows` with just these are in. Only the bin where the class is cut is read.
    """
    goal = np.where(counts.eligible > per_class, per_class, counts.eligible + 1)
    place, before = reached(counts.top1, counts.rows, goal)
    top1 = counts.top1[place]
    bins = pa.table({"code": top1 * CODES + counts.bins[place], "class": top1, "wanted": per_class - before})
    connection.register("bins", bins)
    found: dict[str, NDArray[Any]] = connection.execute("""
        SELECT class::BIGINT AS top1, confidence, margin, rows, wanted - upto + rows AS places FROM (
            SELECT class, wanted, confidence, margin, count(*) AS rows,
                (sum(count(*)) OVER (PARTITION BY class ORDER BY confidence DESC, margin DESC))::BIGINT AS upto
            FROM eligible JOIN bins USING (code)
            GROUP BY class, wanted, confidence, margin)
        WHERE upto >= wanted
        QUALIFY row_number() OVER (PARTITION BY class ORDER BY upto) = 1""").fetchnumpy()
    assert len(found["top1"]) == len(top1), "each class is cut where the count says"
    return found
