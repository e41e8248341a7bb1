"""Labelling rows of a dataset: decoded by threads ahead of the network, batch by batch in the order of the rows.

In: rows, and a predictor. Out: float32 logits and features in the order of the rows; which images cannot be read, and
why; how fast it goes and what it waits for.

A batch holds the same rows in every run, and one that cannot be read keeps its place with black pixels: the numbers of
a row depend neither on threads nor on what is beside it, beyond the rounding of kernels that treat the places of a
batch differently.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from operator import add
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ns_core.data.image_source import ImageSource
from ns_core.data.images import CorruptImage
from ns_core.data.read_ahead import SequentialAhead
from ns_core.data.remote_shard import ShortShard
from ns_core.data.rows import Rows
from ns_core.data.transforms import eval_view
from ns_core.inference.label_noise import LabelNoise
from ns_core.models.predict import Outputs, Predictor

_AHEAD = 2
"""Batches that are being decoded while the network has one. Memory holds one more: at most four."""
_BOUND = 0.5
"""Share of waiting for pictures above which decoding is the bound."""


class Labelled(NamedTuple):
    """Of N rows, in their order."""

    logits: NDArray[np.float32]
    """float32[N,C]; NaN where the image could not be read."""
    features: NDArray[np.float32] | None
    """float32[N,D], likewise; None from a predictor that gives none."""
    unreadable: dict[int, str]
    """Place among the N, from 0 -> why the image could not be read."""


class Pace(NamedTuple):
    """Since the labeller was made, or `since` another of its paces."""

    images: int = 0
    seconds: float = 0.0
    """Spent in `Labeller.label`."""
    waited: float = 0.0
    """Seconds of them that the network waited for pictures."""

    @property
    def images_per_second(self) -> float:
        return self.images / max(self.seconds, 1e-9)

    @property
    def data_wait(self) -> float:
        """Share of the time, 0..1."""
        return self.waited / max(self.seconds, 1e-9)

    @property
    def decode_bound(self) -> bool:
        """Whether reading and decoding take longer than the network: more threads help, a faster device does not."""
        return self.data_wait > _BOUND

    def since(self, earlier: "Pace") -> "Pace":
        return Pace(self.images - earlier.images, self.seconds - earlier.seconds, self.waited - earlier.waited)

    def __str__(self) -> str:
        bound = ": decoding is the bound" if self.decode_bound else ""
        return f"{self.images_per_second:,.0f} images/s, data wait {100 * self.data_wait:.0f} %{bound}"


class Labeller:
    """Labels with one predictor."""

    def __init__(
        self,
        source: ImageSource,
        predictor: Predictor,
        view: tuple[int, float],
        batch: int,
        workers: int,
        noise: LabelNoise | None = None,
    ) -> None:
        """`view`: side and crop_pct, as `transforms.eval_view` takes them. `batch`: images at once. `workers`: threads
        that decode; 0: the caller's, between the batches. `noise`: on the predictor's network, and instead of the
        clean view. Compiles the predictor where it was asked for."""
        assert batch > 0, batch
        self.source, self.predictor = source, predictor
        self._view, self._batch, self._workers, self._noise = view, batch, workers, noise
        self._pace = Pace()
        predictor.expect(batch)

    @property
    def pace(self) -> Pace:
        """Of everything labelled up to now."""
        return self._pace

    def label(self, rows: Rows, part: slice | None = None) -> Labelled:
        """Logits of the rows, or of those from `part`'s start to its stop; at least one. Raises what reading raises
        of a shard that is not there; an image that cannot be read is told in `Labelled.unreadable`."""
        start, stop, _ = (part or slice(None)).indices(len(rows))
        assert start < stop, (start, stop)
        outputs, unreadable = list[Outputs](), dict[int, str]()
        began = time.perf_counter()
        for batch in self._batches(rows, range(start, stop)):
            ready = time.perf_counter()
            if self._noise:
                self._noise.draw([rows.key(row) for row in range(batch.first, batch.first + len(batch.images))])
            outputs.append(self.predictor.outputs(batch.images))
            unreadable.update((batch.first - start + place, batch.bad[place]) for place in sorted(batch.bad))
            done = time.perf_counter()
            spent = Pace(len(batch.images), done - began, ready - began)
            self._pace = Pace(*map(add, self._pace, spent))
            began = done
        return _labelled(outputs, unreadable)

    def _batches(self, rows: Rows, wanted: range) -> Iterator["_Batch"]:
        """Of consecutive rows, whole and in their order."""
        ahead, begun = (_AHEAD if self._workers else 0), deque[_Batch]()
        with SequentialAhead(self.source.reader, rows) as shards, ThreadPoolExecutor(self._workers or 1) as pool:
            for first in wanted[:: self._batch]:
                shards.at(begun[0].first if begun else first)
                begun.append(self._begin(pool, rows, range(first, min(first + self._batch, wanted.stop))))
                if len(begun) > ahead:
                    yield begun.popleft().whole()
            while begun:
                yield begun.popleft().whole()

    def _begin(self, pool: ThreadPoolExecutor, rows: Rows, wanted: range) -> "_Batch":
        """A batch that the threads fill, each its share; without threads, a full one."""
        batch = _Batch(wanted.start, np.zeros((len(wanted), self._view[0], self._view[0], 3), np.uint8), {}, [])
        if self._workers:
            shares = [range(worker, len(wanted), self._workers) for worker in range(self._workers)]
            batch.futures.extend(pool.submit(self._fill, batch, rows, share) for share in shares)
        else:
            self._fill(batch, rows, range(len(wanted)))
        return batch

    def _fill(self, batch: "_Batch", rows: Rows, places: range) -> None:
        for place in places:
            try:
                picture = self.source.for_labelling(rows, batch.first + place)
            except (CorruptImage, ShortShard) as error:
                batch.bad[place] = str(error)
            else:
                batch.images[place] = (
                    self._noise.view(picture, rows.key(batch.first + place))
                    if self._noise
                    else eval_view(picture, *self._view)
                )


class _Batch(NamedTuple):
    first: int
    """Row of its first picture."""
    images: NDArray[np.uint8]
    """uint8[B,H,W,3]; black where the image cannot be read."""
    bad: dict[int, str]
    """Place in the batch -> reason."""
    futures: list[Future[None]]

    def whole(self) -> "_Batch":
        """Itself, once every picture is there; raises what a thread raised."""
        for future in self.futures:
            future.result()
        return self


def _labelled(outputs: list[Outputs], unreadable: dict[int, str]) -> Labelled:
    logits = np.concatenate([output.logits for output in outputs])
    features = [output.features for output in outputs if output.features is not None]
    labelled = Labelled(logits, np.concatenate(features) if features else None, unreadable)
    for array in (labelled.logits, labelled.features):
        if array is not None:
            array[list(unreadable)] = np.nan
    return labelled
