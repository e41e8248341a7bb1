"""A network looks at pictures that threads make ahead of it, and its answers become tables.

In: `Samples` or `Clips`, and which of their numbers. Out: `Predictions` or `Sequences` of these, in their order.

A batch holds the same pictures in every run, those that cannot be read left out, and the frames of several clips
together: the numbers of a row depend neither on threads nor on workers, nor on the batch beyond the rounding of kernels
that treat the places of a batch differently.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ns_core.data.images import CorruptImage
from ns_core.data.ordered import in_order
from ns_core.data.transforms import eval_view
from ns_core.evaluation.answers import Logits, check_finite, masked, predictions
from ns_core.evaluation.figures.stability import Stability, stability
from ns_core.evaluation.on_the_fly import clip_of, picture_of
from ns_core.evaluation.samples import Clips, Pixels, Samples, View
from ns_core.evaluation.sources import reading
from ns_core.evaluation.tables import Predictions, Sequences
from ns_core.models.predict import Predictor

Watch = Callable[[int], None]
"""Is told that so many images or clips more are done, and raises `Stopped` when it is time to go."""


class Seen(NamedTuple):
    """What the network is shown of one picture or clip."""

    stack: Pixels
    """uint8[K,S,S,3]: one square, or one for each frame; none where there is a reason."""
    reason: str
    """Why it could not be read, or empty."""


class Views:
    """Makes squares of pictures, by threads ahead of whoever takes them."""

    def __init__(self, size: int, crop_pct: float, batch: int, threads: int) -> None:
        """`size` and `crop_pct`: the checkpoint's. `batch`: squares that are taken together; two of them are made
        ahead. `threads`: 0 makes each when it is taken."""
        self.size, self.batch = size, batch
        self._crop_pct, self._threads = crop_pct, threads

    def of_pictures(self, samples: Samples, numbers: range) -> Iterator[Seen]:
        """One each, in the order of the numbers."""

        def square(number: int) -> Pixels:
            picture, view = picture_of(samples, number)
            return self._square(picture, view)[np.newaxis]

        return self._made(samples, square, numbers, -(-self.batch // max(1, self._threads)))

    def of_clips(self, clips: Clips, numbers: range) -> Iterator[Seen]:
        """One each, in the order of the numbers."""

        def squares(number: int) -> Pixels:
            frames, view = clip_of(clips, number)
            return np.stack([self._square(frame, view) for frame in frames])

        return self._made(clips, squares, numbers, 1)

    def _square(self, picture: Pixels, view: View) -> Pixels:
        """A picture that is seen whole is a square already, of whatever size."""
        return eval_view(picture, self.size, self._crop_pct if view == "clean" else 1.0)

    def _made(self, what: Samples | Clips, make: Callable[[int], Pixels], numbers: range, share: int) -> Iterator[Seen]:
        """`share`: how many a thread makes at a time."""
        none = np.empty((0, self.size, self.size, 3), np.uint8)

        def seen(part: range) -> list[Seen]:
            found = []
            for number in part:
                try:
                    found.append(Seen(make(number), ""))
                except CorruptImage as error:
                    found.append(Seen(none, str(error) or type(error).__name__))
            return found

        parts = [numbers[first : first + share] for first in range(0, len(numbers), share)]
        made = in_order(seen, parts, self._threads) if self._threads else map(seen, parts)
        with reading(what) as at:
            at(numbers.start)
            for part, found in zip(parts, made, strict=True):
                yield from found
                at(min(part.stop, numbers.stop - 1))


class Looker:
    """Looks without gradients."""

    def __init__(self, predictor: Predictor, views: Views, classes: int) -> None:
        """`classes`: of the predictor. Compiles it where that was asked for."""
        self._predictor, self._views, self._classes = predictor, views, classes
        predictor.expect(views.batch)

    def predictions(self, samples: Samples, numbers: range, watch: Watch) -> Predictions:
        """Of at least one image."""
        seen, reasons, logits = self._views.of_pictures(samples, numbers), list[str](), list[Logits]()
        for reason, answer in self._answered(seen):
            reasons.append(reason)
            logits.append(answer if len(answer) else np.zeros((1, self._classes), np.float32))
            watch(1)
        keys = samples.keys[numbers.start : numbers.stop]
        labels = samples.labels[numbers.start : numbers.stop]
        return predictions(keys, labels, masked(np.concatenate(logits), samples.classes), reasons)

    def sequences(self, clips: Clips, numbers: range, watch: Watch) -> Sequences:
        """Of at least one clip."""
        rows, reasons = list[Stability](), list[str]()
        for number, (reason, answer) in zip(numbers, self._answered(self._views.of_clips(clips, numbers)), strict=True):
            label = int(clips.labels[number])
            reasons.append(reason)
            rows.append(_NOTHING if reason else stability(answer, label, clips.against_first, clips.step))
            watch(1)
        counts = {name: np.array([getattr(row, name) for row in rows], np.int32) for name in _COUNTS}
        return Sequences(
            key=np.array(clips.keys[numbers.start : numbers.stop], np.object_),
            label=clips.labels[numbers.start : numbers.stop].astype(np.int32),
            t5d=np.array([row.t5d for row in rows], np.float64),
            reason=np.array(reasons, np.object_),
            **counts,
        )

    def _answered(self, seen: Iterable[Seen]) -> Iterator[tuple[str, Logits]]:
        """Reason and float32[K,C] of each; the network gets whole batches, across pictures and clips."""
        given, squares, waiting = deque[Seen](), deque[Pixels](), 0
        answers = np.empty((0, self._classes), np.float32)
        for one in seen:
            given.append(one)
            squares.append(one.stack)
            waiting += len(one.stack)
            while waiting >= self._views.batch:
                answers = np.concatenate([answers, self._look(squares)])
                waiting -= self._views.batch
            while given and len(given[0].stack) <= len(answers):
                count = len(given[0].stack)
                yield given.popleft().reason, answers[:count]
                answers = answers[count:]
        if waiting:
            answers = np.concatenate([answers, self._look(squares)])
        for one in given:
            yield one.reason, answers[: len(one.stack)]
            answers = answers[len(one.stack) :]

    def _look(self, squares: deque[Pixels]) -> Logits:
        """Logits of the first batch of `squares`, which is taken out."""
        together = np.concatenate(squares)
        squares.clear()
        squares.append(together[self._views.batch :])
        return check_finite(self._predictor.logits(together[: self._views.batch]))


_COUNTS = ("frames", "right", "compared", "flips")
_NOTHING = Stability(frames=0, right=0, compared=0, flips=0, t5d=float("nan"))
