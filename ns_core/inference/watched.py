"""Labelling that can be stopped, and that says how far it is.

In: rows. Out: what `Labeller.label` gives for them, which knows neither SIGTERM nor whoever waits.
"""

from collections.abc import Callable

import numpy as np

from ns_core.data.reading import ShardReader
from ns_core.data.rows import Rows
from ns_core.inference.labelling import Labelled, Labeller, Pace
from ns_core.stage import Stopped

_SECONDS = 5.0
"""Between two looks: a quarter of the grace that a worker has. At each one the decoding threads run dry for a batch."""


class WatchedLabeller:
    """A labeller that is asked for some seconds' worth of whole batches at a time, so that the batches are those of one
    call."""

    def __init__(self, labeller: Labeller, batch: int, stopping: Callable[[], bool]) -> None:
        """`batch`: the labeller's."""
        self._labeller, self._batch, self._stopping = labeller, batch, stopping

    @property
    def reader(self) -> ShardReader:
        return self._labeller.source.reader

    @property
    def pace(self) -> Pace:
        return self._labeller.pace

    def label(self, rows: Rows, tell: Callable[[], None] = lambda: None) -> Labelled:
        """All rows, at least one. `tell()`: some more are labelled. Raises `Stopped` after SIGTERM."""
        parts, first = list[Labelled](), 0
        while first < len(rows):
            if self._stopping():
                raise Stopped
            batches = max(1, int(_SECONDS * self.pace.images_per_second) // self._batch)
            part = slice(first, min(first + batches * self._batch, len(rows)))
            parts.append(self._labeller.label(rows, part))
            unreadable = parts[-1].unreadable
            parts[-1] = parts[-1]._replace(unreadable={first + place: why for place, why in unreadable.items()})
            first = part.stop
            tell()
        features = [part.features for part in parts if part.features is not None]
        return Labelled(
            np.concatenate([part.logits for part in parts]),
            np.concatenate(features) if features else None,
            {row: reason for part in parts for row, reason in part.unreadable.items()},
        )
