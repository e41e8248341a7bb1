"""Counts of rows by class and bin, and where they reach what a class is to have. No row is read here."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ns_core.errors import StageFailed
from ns_core.selection.statements import CODES, DAMAGED, UNREAD

Integers = NDArray[np.int64]


class Counts(NamedTuple):
    """Rows by class and bin, as far as there are any: by class, then by descending bin."""

    classes: int
    """As many, or the highest predicted class + 1."""
    unread: int
    top1: Integers
    bins: Integers
    """1 and more; the rows that nothing is chosen among are in `below`."""
    rows: Integers
    below: Integers
    """[classes]"""

    @property
    def eligible(self) -> Integers:
        """Rows that are chosen among, [classes]."""
        return np.bincount(self.top1, self.rows, self.classes).astype(np.int64)

    @staticmethod
    def of(code: Integers, rows: Integers, classes: int = 0) -> "Counts":
        """Of the answer to `SELECT code, count(*)`, for `classes` at least.

        Raises `StageFailed` if it speaks of damaged rows.
        """
        if damaged := int(rows[code == DAMAGED].sum()):
            raise StageFailed(
                f"{damaged} labels have a class, confidence or margin that no teacher gives (confidences are from 0 "
                "to 1, margins finite and not negative): label the pool again"
            )
        order = np.argsort(-(code % CODES), kind="stable")
        order = order[np.argsort(code[order] // CODES, kind="stable")]
        order = order[code[order] >= 0]
        top1, bins, counts = code[order] // CODES, code[order] % CODES, rows[order]
        classes = max(classes, int(top1.max(initial=-1)) + 1)
        below = np.bincount(top1[bins == 0], counts[bins == 0], classes).astype(np.int64)
        passing = bins > 0
        return Counts(classes, int(rows[code == UNREAD].sum()), top1[passing], bins[passing], counts[passing], below)


class Reached(NamedTuple):
    """Where counts added up class by class reach a goal; one entry for each class whose counts do."""

    place: Integers
    """Index of the entry with which they do."""
    before: Integers
    """Their sum without it."""


def reached(group: Integers, amount: Integers, goal: Integers) -> Reached:
    """`group`, `amount`: [n], each group's entries together; `goal`: by group."""
    total = np.cumsum(amount)
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    base = np.repeat(total[starts] - amount[starts], np.diff(starts, append=len(group)))
    there = np.flatnonzero(total - base >= goal[group])
    place = there[np.unique(group[there], return_index=True)[1]]
    return Reached(place, (total - base - amount)[place])
