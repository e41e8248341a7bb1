"""What was selected, counted by class and by reason while it is written.

In: for each image its class, confidence, outcome and copies, a shard at a time. Out: `classes.parquet`, one row a
class, and the result document, which goes into every record and log. All sums are of integers, so that neither the
order of shards nor how they are cut changes a digit.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import JsonValue

from ns_core.selection.engine import (
    BELOW_THRESHOLD,
    CLASS_FULL,
    CORRUPT,
    DUPLICATE,
    KEPT,
    NOT_SAMPLED,
    REASONS,
    TOO_CONFIDENT,
    Classes,
)

LEAK = "leak"
HISTOGRAM_BINS = 20
LISTED_CLASSES = 1000
"""The result document lists no classes where there are more; `classes.parquet` always has all."""
_JUDGED = (BELOW_THRESHOLD, CLASS_FULL, DUPLICATE)
_WORST = 10
_UNIT = 2.0**32
"""Confidences are added up in these parts: exact from 1/512 on, and int64 holds the sum of 2 billion of them."""


class Totals:
    """Counts so far."""

    def __init__(self, class_names: Sequence[str], reasons: Sequence[int] = ()) -> None:
        """`reasons`: outcomes that the rule knows beside those of every rule."""
        self._names, self.classes = class_names, len(class_names)
        self.thresholds: NDArray[np.float32] | None = None
        """By class, where each has its own (`selection.class_thresholds`)."""
        self._judged = (*_JUDGED, *reasons)
        self._counts = np.zeros((len(REASONS), len(class_names)), np.int64)
        """By outcome and class; of unreadable images nothing, which have no class."""
        self._rows = np.zeros(len(class_names), np.int64)
        self._sums = np.zeros(len(class_names), np.int64)
        """Of the kept confidences, in parts of `_UNIT`."""
        self._cut = np.full(len(class_names), np.inf, np.float32)
        self._histogram = np.zeros(HISTOGRAM_BINS, np.int64)
        self._squares = 0
        self._unreadable = 0
        self._before = {REASONS[CORRUPT]: 0, LEAK: 0}

    def add(
        self,
        top1: NDArray[np.int32],
        confidence: NDArray[np.float32],
        outcome: NDArray[np.int8],
        copies: NDArray[np.int32],
    ) -> None:
        """Images of the pool, one entry each."""
        readable, kept = outcome != CORRUPT, outcome == KEPT
        self._unreadable += int(len(outcome) - readable.sum())
        cells = outcome[readable].astype(np.int64) * self.classes + top1[readable]
        self._counts += np.bincount(cells, minlength=self._counts.size).reshape(self._counts.shape)
        self._histogram += np.histogram(confidence[readable], HISTOGRAM_BINS, (0.0, 1.0))[0]
        mine, sure, times = top1[kept], confidence[kept], copies[kept].astype(np.int64)
        assert (times > 0).all(), "what is kept stands at least once"
        np.add.at(self._sums, mine, np.rint(sure.astype(np.float64) * _UNIT).astype(np.int64))
        np.add.at(self._rows, mine, times)
        np.minimum.at(self._cut, mine, sure)
        self._squares += int((times**2).sum())

    def left_out(self, reason: str, images: int) -> None:
        """Images that prepare-dataset kept out of the pool, as `corrupt` or `leak`."""
        self._before[reason] += images

    def check(self, chosen: Classes, pool: int) -> None:
        """Asserts that each of the pool's images was kept or has one reason, class by class as they were chosen."""
        assert int(self._counts.sum()) + self._unreadable == pool == int(self._histogram.sum()) + self._unreadable
        beyond = (0, self.classes - len(chosen.kept))
        for mine, theirs in (
            (self._counts.sum(axis=0), chosen.predicted),
            (self._counts[KEPT], chosen.kept),
            (self._counts[[BELOW_THRESHOLD, TOO_CONFIDENT, NOT_SAMPLED]].sum(axis=0), chosen.below_threshold),
            (self._counts[DUPLICATE], chosen.duplicates),
            (self._eligible, chosen.eligible),
            (self._rows, chosen.rows),
        ):
            assert np.array_equal(mine, np.pad(theirs, beyond)), (mine, theirs)

    def unseen(self) -> dict[str, list[str]]:
        """What happened -> the names of the classes of which nothing is kept."""
        predicted, kept = self._counts.sum(axis=0) > 0, self._counts[KEPT] > 0
        names = np.array(self._names, object)
        return {
            "nothing in the pool is taken for": names[~predicted].tolist(),
            "everything was dropped that is taken for": names[predicted & ~kept].tolist(),
        }

    def not_shown(self) -> list[str]:
        """The names of the classes in which no confidence has the wanted precision."""
        thresholds = np.zeros(self.classes) if self.thresholds is None else self.thresholds
        return [name for name, lowest in zip(self._names, thresholds, strict=True) if np.isinf(lowest)]

    def table(self) -> pa.Table:
        """`classes.parquet`: a row a class, by class index.

        `pool`: images taken for the class, `eligible`: those at or above the threshold, duplicates apart; `kept`, the
        `rows` that the student sees of them, and what was dropped, by reason; the lowest and the mean confidence
        that was kept, null where nothing was. Where each class has its own, the `threshold`, null where there is none.
        """
        kept = self._counts[KEPT]
        none = kept == 0
        mean = self._sums / _UNIT / np.maximum(kept, 1)
        own = {}
        if self.thresholds is not None:
            own["threshold"] = pa.array(self.thresholds, pa.float32(), mask=np.isinf(self.thresholds))
        return pa.table(
            {
                "label": pa.array(np.arange(len(kept)), pa.int32()),
                "name": pa.array(self._names, pa.string()),
                "pool": self._counts.sum(axis=0),
                "eligible": self._eligible,
                "kept": kept,
                "rows": self._rows,
                **{REASONS[code]: self._counts[code] for code in self._judged},
                "cut_confidence": pa.array(self._cut, pa.float32(), mask=none),
                "mean_confidence": pa.array(mean, pa.float64(), mask=none),
                **own,
            }
        )

    def document(self) -> dict[str, JsonValue]:
        """The result."""
        dropped = {REASONS[code]: int(self._counts[code].sum()) for code in self._judged}
        dropped |= {REASONS[CORRUPT]: self._unreadable + self._before[REASONS[CORRUPT]], LEAK: self._before[LEAK]}
        pool = int(self._counts.sum()) + self._unreadable
        kept, rows = int(self._counts[KEPT].sum()), int(self._rows.sum())
        came_in = pool + sum(self._before.values())
        assert came_in == kept + sum(dropped.values()), "what came in is kept or has a reason"
        factors = self._rows / np.maximum(self._counts[KEPT], 1)
        document: dict[str, JsonValue] = {
            "pool": pool,
            "came_in": came_in,
            "kept": kept,
            "rows": rows,
            "dropped": {**dropped},
            "duplication": rows / kept,
            "largest_duplication": float(factors.max()),
            "effective_images": rows**2 / self._squares,
            "mean_confidence": int(self._sums.sum()) / _UNIT / kept,
            "histogram": [*self._histogram.tolist()],
            "worst_classes": self._worst(),
        }
        if self.thresholds is not None:
            document["classes_without_threshold"] = len(self.not_shown())
        return document | (self._lists() if len(self._names) <= LISTED_CLASSES else {})

    @property
    def _eligible(self) -> NDArray[np.int64]:
        return np.asarray(self._counts[KEPT] + self._counts[CLASS_FULL], np.int64)

    def _lists(self) -> dict[str, JsonValue]:
        own: dict[str, JsonValue] = {}
        if self.thresholds is not None:
            own["threshold_per_class"] = [None if np.isinf(one) else float(one) for one in self.thresholds]
        return own | {
            "kept_per_class": self._counts[KEPT].tolist(),
            "rows_per_class": self._rows.tolist(),
            "eligible_per_class": self._eligible.tolist(),
            "dropped_per_class": {REASONS[code]: self._counts[code].tolist() for code in self._judged},
        }

    def _worst(self) -> list[JsonValue]:
        """The classes with the fewest images kept."""
        order = np.argsort(self._counts[KEPT], kind="stable")[:_WORST]
        columns = {"eligible": self._eligible, "kept": self._counts[KEPT], "rows": self._rows}
        return [
            {"name": self._names[label], **{key: int(column[label]) for key, column in columns.items()}}
            for label in order
        ]
