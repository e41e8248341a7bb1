"""What was selected of each class: the rows of a selection's `classes.parquet`, and which are worth a look.

In: the table that filter-and-balance leaves, one row a class. Out: `ClassFigures`, and orders of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow.parquet as pq

from ns_core.evaluation.reports.selection_survey import JUDGED


@dataclass(frozen=True)
class ClassFigures:
    """One class, as the teacher predicts it."""

    label: int
    """The class index."""
    name: str
    pool: int
    """Images of the pool that the teacher takes for this class."""
    kept: int
    rows: int
    """What the student sees: kept images, repeats counted."""
    dropped: Mapping[str, int]
    """Reason (of `JUDGED`) -> images."""
    cut: float | None
    """The lowest confidence that was kept; None where nothing was."""
    mean: float | None
    """Of the confidences that were kept."""
    threshold: float | None = None
    """Where each class has its own: the lowest confidence that is kept; None where there is none, or one for all."""

    @property
    def factor(self) -> float | None:
        """Times that a kept image is seen, on average; None where nothing was kept."""
        return self.rows / self.kept if self.kept else None


def read_classes(file: BinaryIO) -> list[ClassFigures]:
    """By class index."""
    return [
        ClassFigures(
            label=row["label"],
            name=row["name"],
            pool=row["pool"],
            kept=row["kept"],
            rows=row["rows"],
            dropped={reason: row[reason] for reason in JUDGED},
            cut=row["cut_confidence"],
            mean=row["mean_confidence"],
            threshold=row.get("threshold"),
        )
        for row in pq.read_table(file).to_pylist()
    ]


def worst_first(classes: Sequence[ClassFigures]) -> list[ClassFigures]:
    """Fewest kept first; of as many the one with the lowest cut, then with the most repeats."""
    return sorted(classes, key=lambda one: (one.kept, one.cut or 0.0, -(one.factor or 0.0), one.label))


def shown_classes(classes: Sequence[ClassFigures], limit: int) -> list[ClassFigures]:
    """Up to `limit` classes, the worst first: half of them the worst, the others spread evenly over the rest."""
    order = worst_first(classes)
    if len(order) <= limit:
        return order
    half = limit // 2
    rest, count = order[half:], limit - half
    return order[:half] + [rest[step * (len(rest) - 1) // max(1, count - 1)] for step in range(count)]
