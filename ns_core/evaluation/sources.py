"""Lists of pictures that an evaluation reads from a dataset, and lists made of other lists.

In: a split of the dataset, or any `Samples`. Out: `Samples`, read by number, in any order, by several threads.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from ns_core.data.dataset import Images
from ns_core.data.index import Split
from ns_core.data.read_ahead import SequentialAhead
from ns_core.data.rows import OneHot, rows_of
from ns_core.evaluation.samples import Clips, Pixels, Samples, View


class SplitSamples:
    """A labelled split of a dataset, in the order of its index: `Samples`.

    `image` raises `StageFailed` for an image that cannot be read: prepare-dataset has read each of them once, so its
    bytes have changed.
    """

    classes: NDArray[np.int64] | None = None
    view: View = "clean"

    def __init__(self, images: Images, split: Split) -> None:
        part = images.index.split(split)
        self.keys: Sequence[str] = part.keys.tolist()
        self.labels = part.labels
        self.source = images.source
        self.rows = rows_of(part, OneHot(part.labels, images.index.num_classes))

    def image(self, number: int) -> Pixels:
        """uint8[H,W,3], as it was ingested."""
        return self.source.image(self.rows, number)


class Derived:
    """Samples or clips made of those of another list, image by image."""

    def __init__(self, source: Samples, numbers: NDArray[np.int64] | None = None) -> None:
        """`numbers`: of `source`, in the order of this list; None: all."""
        self.source = source
        self._numbers = numbers
        self.keys: Sequence[str] = source.keys if numbers is None else [source.keys[int(one)] for one in numbers]
        self.labels: NDArray[np.int32] = source.labels if numbers is None else source.labels[numbers]
        self.classes = source.classes

    def number(self, number: int) -> int:
        """Number in `source` of an image of this list."""
        return number if self._numbers is None else int(self._numbers[number])


class Drawn(Derived):
    """Some of the images of another list: `Samples`."""

    @property
    def view(self) -> View:
        return self.source.view

    def image(self, number: int) -> Pixels:
        """As of the other list."""
        return self.source.image(self.number(number))


@contextmanager
def reading(what: Samples | Clips) -> Iterator[Callable[[int], None]]:
    """While a list is read in its order: a function to be told the lowest number that is not read yet.

    A dataset's shards in a remote store are fetched ahead by it; files of a local folder need no notice.
    """
    lists: list[Derived] = []
    while isinstance(what, Derived):
        lists.append(what)
        what = what.source
    if not isinstance(what, SplitSamples):
        yield lambda number: None
        return
    with SequentialAhead(what.source.reader, what.rows) as shards:

        def at(number: int) -> None:
            for one in lists:
                number = one.number(number)
            shards.at(number)

        yield at
