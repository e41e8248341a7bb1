"""A byte for each row of the label tables, in a file: what a selection knows of single rows.

In: rows, named as in `selection.statements`, in any order. Out: the bytes of a file, by row number. The file is sparse,
and its pages leave memory under pressure; rows come file by file as they are read, so that few pages are in use.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ns_core.selection.statements import ROW_BITS

DRAWN, LOST, OUTSIDE = 1, 2, 3
"""Values of the byte, beside 0: drawn by lot, lost to a twin, not in the share of the pool that is chosen from."""


class Flags:
    """All 0 at first."""

    def __init__(self, path: Path, rows: Sequence[int]) -> None:
        """`rows`: of each file."""
        self.starts = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        self._bytes = np.zeros(0, np.uint8)
        if self.starts[-1]:
            self._bytes = np.memmap(path, np.uint8, "w+", shape=(int(self.starts[-1]),))

    def mark(self, rows: NDArray[np.int64], value: int) -> None:
        """Sets the bytes of these rows."""
        self._bytes[self.starts[rows >> ROW_BITS] + (rows & ((1 << ROW_BITS) - 1))] = value

    def of(self, number: int) -> NDArray[np.uint8]:
        """The bytes of a file."""
        return self._bytes[self.starts[number] : self.starts[number + 1]]
