"""Images that cannot be read while training: each is counted and named once, and a few are put up with.

In: the ledgers of batches, in the order of steps, so that what is counted, and when training gives up, does not
depend on which thread was quicker. Out: `StageFailed` once a stream has too many.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ns_core.errors import StageFailed
from ns_core.stage import log

NAMED = 3
"""Images in the message that ends training."""
STREAMS = ("labelled", "pseudo-labelled")


@dataclass(frozen=True)
class BadImage:
    """An image whose place another one took."""

    stream: int
    key: str
    reason: str
    """Names the shard where that is what ends too early."""


class BadImages:
    """The images left out so far."""

    def __init__(self, max_fraction: float, rows: Sequence[int]) -> None:
        """`rows`: of each stream, of which the `max_fraction` may be bad."""
        self._allowed = [max_fraction * count for count in rows]
        self._max_fraction, self._rows = max_fraction, rows
        self._found: dict[tuple[int, str], BadImage] = {}

    def __len__(self) -> int:
        return len(self._found)

    @property
    def keys(self) -> list[str]:
        """In the order in which they came."""
        return [key for _, key in self._found]

    def note(self, ledger: Sequence[BadImage]) -> None:
        """Takes in the ledger of the next batch."""
        for image in ledger:
            if (image.stream, image.key) not in self._found:
                self._found[image.stream, image.key] = image
                log.warning("image %s cannot be read (%s): another takes its place", image.key, image.reason)
                self._check(image.stream)

    def state(self) -> list[tuple[int, str, str]]:
        """For a checkpoint."""
        return [(image.stream, image.key, image.reason) for image in self._found.values()]

    def restore(self, state: Sequence[tuple[int, str, str]]) -> None:
        """Goes on from a checkpoint."""
        self._found = {(stream, key): BadImage(stream, key, reason) for stream, key, reason in state}

    def merge(self, states: Sequence[Sequence[tuple[int, str, str]]]) -> None:
        """Takes in what the other processes met, whose logs have named it."""
        self.restore([one for state in states for one in state])
        for stream in range(len(self._rows)):
            self._check(stream)

    def _check(self, stream: int) -> None:
        bad = [image for image in self._found.values() if image.stream == stream]
        if len(bad) > self._allowed[stream]:
            named = ", ".join(f"{image.key} ({image.reason})" for image in bad[:NAMED])
            raise StageFailed(
                f"{len(bad)} of {self._rows[stream]} {STREAMS[stream]} images cannot be read, more than "
                f"max_bad_fraction={self._max_fraction:g} allows: {named}{', ...' if len(bad) > NAMED else ''}; "
                "put the bytes back, prepare the dataset again without them, or raise max_bad_fraction"
            )
