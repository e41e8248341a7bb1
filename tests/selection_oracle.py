"""The two rules of filter-and-balance over a Python list, as they are described and with no thought of speed.

In: rows. Out: key -> (outcome, copies). Shares nothing with the engine but the description.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

Result = dict[str, tuple[str, int]]


class Row(NamedTuple):
    """Of a label table; a row that could not be read has None from `top1` on."""

    key: str
    sha256: str
    top1: int | None
    confidence: np.float32 | None
    margin: np.float32 | None


class Asked(NamedTuple):
    """A rule, and which duplicates count once: "keep" none, "bytes", or "near" by `twins`, key -> group."""

    threshold: float
    per_class: int
    max_copies: int
    seed: int
    official: bool
    duplicates: str = "keep"
    twins: Mapping[str, int] = {}
    max_confidence: float = 1.0
    pool_fraction: float = 1.0
    pool_seed: int = 0
    by_class: tuple[float, ...] | None = None

    def lowest(self, row: Row) -> np.float32:
        """The lowest confidence of the row's class."""
        assert row.top1 is not None
        return np.float32(self.threshold if self.by_class is None else self.by_class[row.top1])


def best_first(row: Row) -> tuple[float, float, str, str]:
    """The order in which rows are taken."""
    assert row.confidence is not None
    assert row.margin is not None
    return -float(row.confidence), -float(row.margin), row.sha256, row.key


def oracle(rows: Sequence[Row], asked: Asked) -> Result:
    """What the selection is to be."""
    result: Result = {row.key: ("corrupt", 0) for row in rows if row.confidence is None}
    read = [row for row in rows if row.confidence is not None]
    result |= {row.key: ("below_threshold", 0) for row in read if row.confidence < asked.lowest(row)}
    if asked.max_confidence < 1:
        highest = np.float32(asked.max_confidence)
        result |= {row.key: ("too_confident", 0) for row in read if row.confidence >= highest}
    result |= {row.key: ("not_sampled", 0) for row in read if not _sampled(row, asked)}
    eligible = [row for row in read if row.key not in result]
    lost = _lost(eligible, asked)
    result |= dict.fromkeys(lost, ("duplicate", 0))
    classes: dict[int | None, list[Row]] = defaultdict(list)
    for row in sorted(eligible, key=best_first):
        if row.key not in lost:
            classes[row.top1].append(row)
    for members in classes.values():
        copies = _official(members, asked) if asked.official else _top(members, asked)
        for row in members:
            times = min(copies.get(row.key, 0), asked.max_copies)
            result[row.key] = ("kept" if times else "class_full", times)
    return result


def _sampled(row: Row, asked: Asked) -> bool:
    lot = hashlib.sha256(f"pool:{asked.pool_seed}:{row.sha256}".encode()).digest()[:8]
    return Fraction(int.from_bytes(lot, "big"), 1 << 64) < Fraction(asked.pool_fraction)


def _lost(eligible: list[Row], asked: Asked) -> set[str]:
    if asked.duplicates == "keep":
        return set()
    twins = asked.twins if asked.duplicates == "near" else {}
    group_of_bytes: dict[str, int] = {}
    for row in eligible:
        if row.key in twins:
            group_of_bytes[row.sha256] = min(twins[row.key], group_of_bytes.get(row.sha256, twins[row.key]))
    groups: dict[int | str, list[Row]] = defaultdict(list)
    for row in eligible:
        groups[group_of_bytes.get(row.sha256, row.sha256)].append(row)
    return {row.key for members in groups.values() for row in sorted(members, key=best_first)[1:]}


def _top(members: list[Row], asked: Asked) -> dict[str, int]:
    kept = members[: asked.per_class]
    whole, odd = divmod(asked.per_class, len(kept))
    drawn = sorted(kept, key=lambda row: (hashlib.sha256(f"{asked.seed}:{row.sha256}".encode()).digest(), row.key))
    copies = {row.key: whole for row in kept}
    return copies | {row.key: whole + 1 for row in drawn[:odd]}


def _official(members: list[Row], asked: Asked) -> dict[str, int]:
    """get_threshold and get_keep_image_idx of filter_unlabel.py, at float32, with a seeded draw."""
    edges = [np.float32(i / 100) for i in range(101)]
    lowest = asked.lowest(members[0])
    edge = lowest
    for candidate in reversed(edges):
        if candidate < lowest:
            break
        if sum(row.confidence >= candidate for row in members) >= asked.per_class:
            edge = candidate
            break
    taken = [row for row in members if row.confidence is not None and row.confidence >= edge]
    expected = Fraction(asked.per_class, len(taken))
    copies = {}
    for row in taken:
        digest = hashlib.sha256(f"{asked.seed}:{row.sha256}:{row.key}".encode()).digest()
        draw = Fraction(int.from_bytes(digest[:8], "big"), 1 << 64)
        copies[row.key] = int(expected) + (draw < expected - int(expected))
    return copies
