"""Joint batches: labelled and pseudo-labelled images at an exact ratio in every step.

Step t takes positions [t*B, (t+1)*B) of the labelled stream and [t*B*ratio, (t+1)*B*ratio) of the pseudo
stream (`data.order`), so a batch is a function of the step and resuming needs the step alone. Of `world` ranks
each takes an equal run of both, of every micro-batch; together they take the same images whatever their number,
and all make the same number of steps. Each image's augmentation draws from a generator keyed by (seed, stream,
position): the bytes of a batch depend neither on the number of threads nor on what was loaded before.

An image that cannot be read gives its place to the one at the next position of its stream, again a function of
the position, so that the ratio stays exact; the batch's ledger names it.

Threads, not processes: OpenCV and the decoders release the GIL. They share the images of a batch, 64 at a
time, and work two batches ahead: with 2 threads as with 64, three batches are in memory.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ns_core.data.bad_images import BadImage, BadImages
from ns_core.data.image_source import Image, ImageSource
from ns_core.data.images import CorruptImage
from ns_core.data.order import OrderBlocks, stream_key
from ns_core.data.read_ahead import TrainingAhead
from ns_core.data.remote_shard import ShortShard
from ns_core.data.rows import Rows, Shuffle, stream_of
from ns_core.errors import StageFailed, UserError

AUGMENTATION_KEY = 1 << 16
"""Keeps the keys of augmentation apart from those of the order."""
_PART = 64
"""Images that a thread makes in one go: some 200 us of bookkeeping, 3 an image."""
_STEPS_AHEAD = 2
_SUBSTITUTES = 1000
"""Images that are tried for a bad one's place. So many in a row are bad where a whole window is."""


class View(Protocol):
    """The noisy picture that training sees (`transforms.TrainView`)."""

    size: int

    def __call__(self, image: Image, rng: np.random.Generator, /) -> Image:
        """uint8[H,W,3] -> uint8[size,size,3]"""

    def encoded(self, data: bytes, rng: np.random.Generator, /) -> Image:
        """The same of the bytes of an image file."""


@dataclass(frozen=True)
class Batch:
    """One step's images of one rank. Labelled rows come first: `labelled` of them."""

    step: int
    images: Image
    """uint8[B,H,W,3]"""
    targets: NDArray[np.float32]
    """float32[B,C]"""
    labelled: int
    keys: list[str]
    """Of what is seen: of the substitute where an image could not be read."""
    bad: list[BadImage]
    """The images that could not be read."""


class _Part(NamedTuple):
    """A run of a batch's images."""

    stream: int
    position: int
    """Of its first image."""
    slot: int
    """Where that goes in the batch."""
    images: int


class Sampling(NamedTuple):
    """How the streams are read."""

    shuffle: Shuffle
    max_bad_fraction: float = 0.0
    """Of a stream's rows; more of them unreadable is a failure."""
    micro_batches: int = 1
    """Equal runs that a step's images of each stream fall into; the ranks divide each of them."""


class JointLoader:
    """Batches of one rank."""

    def __init__(
        self,
        source: ImageSource,
        view: View,
        streams: Sequence[tuple[Rows, int]],
        sampling: Sampling,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """`streams`: rows, and images a step over all ranks, of the labelled stream, then of the pseudo stream if any.

        Raises `UserError` when a batch cannot be divided among the ranks.
        """
        assert 0 <= rank < world, (rank, world)
        self.source, self._view, self._seed = source, view, sampling.shuffle.seed
        self._streams = [stream_of(rows, images, n, sampling.shuffle) for n, (rows, images) in enumerate(streams)]
        self._orders = [OrderBlocks(stream.order) for stream in self._streams]
        self._micro_batches = sampling.micro_batches
        parts = world * self._micro_batches
        for stream in self._streams:
            if stream.images % parts:
                among = f"{world} processes" + (f" of {self._micro_batches} micro-batches" if parts > world else "")
                raise UserError(
                    f"{stream.images} images a step cannot be divided among {among}: set batch_size to a multiple "
                    f"of {parts}"
                )
        self._classes = streams[0][0].targets[np.empty(0, np.int64)].shape[1]
        self._rank, self._shares = rank, [stream.images // world for stream in self._streams]
        self.bad = BadImages(sampling.max_bad_fraction, [len(stream.rows) for stream in self._streams])
        """What `batches` met so far; part of a checkpoint."""

    def batch(self, step: int) -> Batch:
        """The batch of one step, made by this thread."""
        batch = self._empty(step)
        for part in self._parts(step):
            batch.bad.extend(self._fill(batch, part))
        return batch

    def batches(self, start: int, stop: int, workers: int) -> Generator[Batch, None, None]:
        """The batches of the steps [start, stop), in order, made ahead by `workers` threads (0: by this one).

        Raises `StageFailed` when too many images cannot be read, and what reading raises.
        """
        with TrainingAhead(self.source.reader, self._streams) as ahead:
            for batch in self._made(start, stop, workers, ahead.at):
                self.bad.note(batch.bad)
                yield batch

    def _made(self, start: int, stop: int, workers: int, at: Callable[[int], None]) -> Iterator[Batch]:
        """`at` is told each step before it is given."""
        if not workers:
            for step in range(start, stop):
                at(step)
                yield self.batch(step)
            return
        depth = max(_STEPS_AHEAD, -(-2 * workers // len(self._parts(start))))
        with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
            pending: deque[tuple[Batch, list[Future[list[BadImage]]]]] = deque()
            try:
                for step in range(start, stop):
                    at(step)
                    for following in range(step + len(pending), min(stop, step + depth + 1)):
                        batch = self._empty(following)
                        parts = self._parts(following)
                        pending.append((batch, [pool.submit(self._fill, batch, part) for part in parts]))
                    batch, futures = pending.popleft()
                    for future in futures:
                        batch.bad.extend(future.result())
                    yield batch
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _empty(self, step: int) -> Batch:
        count, size = sum(self._shares), self._view.size
        images = np.empty((count, size, size, 3), np.uint8)
        targets = np.empty((count, self._classes), np.float32)
        return Batch(step, images, targets, self._shares[0], [""] * count, [])

    def _parts(self, step: int) -> list[_Part]:
        parts, slot = [], 0
        for number, (stream, share) in enumerate(zip(self._streams, self._shares, strict=True)):
            mine, whole = share // self._micro_batches, stream.images // self._micro_batches
            for micro in range(self._micro_batches):
                first = step * stream.images + micro * whole + self._rank * mine
                for done in range(0, mine, _PART):
                    parts.append(_Part(number, first + done, slot + done, min(_PART, mine - done)))
                slot += mine
        return parts

    def _fill(self, batch: Batch, part: _Part) -> list[BadImage]:
        """Makes a part of a batch; its ledger."""
        rows = self._orders[part.stream].rows(part.position, part.position + part.images)
        draws, bad = _Draws(self._seed, part.stream), list[BadImage]()
        for number, row in enumerate(rows.tolist()):
            position = part.position + number
            try:
                image = self._seen(part.stream, row, draws.at(position))
            except (CorruptImage, ShortShard) as error:
                bad.append(BadImage(part.stream, self._streams[part.stream].rows.key(row), str(error)))
                rows[number], image = self._substitute(part.stream, position, draws)
            batch.images[part.slot + number] = image
        columns, slots = self._streams[part.stream].rows, slice(part.slot, part.slot + part.images)
        batch.targets[slots] = columns.targets[rows]
        batch.keys[slots] = columns.keys_of(rows)
        return bad

    def _seen(self, stream: int, row: int, rng: np.random.Generator) -> Image:
        found = self.source.for_training(self._streams[stream].rows, row)
        return self._view.encoded(found, rng) if isinstance(found, bytes) else self._view(found, rng)

    def _substitute(self, stream: int, position: int, draws: "_Draws") -> tuple[int, Image]:
        """The row, and its picture, for a position whose own image is bad: those of the next position whose image
        is good. With windows its shard is at hand."""
        reason = ""
        for later in range(position + 1, position + 1 + _SUBSTITUTES):
            (row,) = self._orders[stream].rows(later, later + 1).tolist()
            try:
                return row, self._seen(stream, row, draws.at(position))
            except (CorruptImage, ShortShard) as error:
                reason = str(error)
        raise StageFailed(f"{_SUBSTITUTES} images in a row cannot be read, the last because of: {reason}")


class _Draws:
    """The random draws of each position's augmentation. One generator that is keyed anew: 2 us against 12."""

    def __init__(self, seed: int, stream: int) -> None:
        self._bits = stream_key(seed, AUGMENTATION_KEY + stream)
        self._generator = np.random.Generator(self._bits)
        self._state: Any = self._bits.state
        self._key = self._state["state"]["key"]

    def at(self, position: int) -> np.random.Generator:
        """That of `stream_key(seed, AUGMENTATION_KEY + stream, low, high)` with the halves of the position."""
        self._key[1] = (position & 0xFFFFFFFF) << 32 | position >> 32
        self._bits.state = self._state
        return self._generator
