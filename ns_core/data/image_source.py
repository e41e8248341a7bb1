"""Pictures of a dataset by row: for training as far as they must be decoded, for evaluation whole and in order."""

from collections.abc import Iterator
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ns_core.data.images import CorruptImage, decode
from ns_core.data.read_ahead import SequentialAhead
from ns_core.data.reading import ShardReader
from ns_core.data.remote_shard import ShortShard
from ns_core.data.rows import Rows
from ns_core.data.transforms import eval_view
from ns_core.errors import StageFailed

CACHE_BYTES = 256 << 20
"""Decoded images kept for the next epoch: a small data set is decoded once (1,797 digits: 5 MB)."""
JPEG_START = b"\xff\xd8\xff"

Image = NDArray[np.uint8]


class ImageSource:
    """Pictures of a dataset by row; the recently decoded ones from memory."""

    def __init__(self, reader: ShardReader, limit: int = CACHE_BYTES) -> None:
        """`limit`: bytes of decoded images kept."""
        self.reader = reader
        self._room, self._lock = limit, Lock()
        self._decoded: dict[tuple[str, int], tuple[Image, bool]] = {}
        """(shard, offset) -> picture, and whether it came from a JPEG."""

    def image(self, rows: Rows, row: int) -> Image:
        """uint8[H,W,3]; the caller must not write into it. For evaluation, which leaves nothing out: raises
        `StageFailed` for an image that cannot be read."""
        try:
            return self.for_labelling(rows, row)
        except (CorruptImage, ShortShard) as error:
            raise StageFailed(
                f"{rows.place(row)[0]}: image {rows.key(row)} cannot be read ({error}): its bytes have changed since "
                "the dataset was prepared; put them back or prepare it again"
            ) from error

    def for_labelling(self, rows: Rows, row: int) -> Image:
        """As `image`, for whoever counts what cannot be read and goes on: raises `CorruptImage` or `ShortShard`."""
        place = rows.place(row)
        known = self._decoded.get(place[:2])
        return self._decode(place, self.reader.read(*place)) if known is None else known[0]

    def for_training(self, rows: Rows, row: int) -> bytes | Image:
        """The bytes of a JPEG, which a view decodes as far as it needs them; of any other file the picture, as
        `image`. Raises `CorruptImage` or `ShortShard`.

        Which of the two does not depend on what is in memory.
        """
        place = rows.place(row)
        known = self._decoded.get(place[:2])
        if known is not None and not known[1]:
            return known[0]
        data = self.reader.read(*place)
        return data if data.startswith(JPEG_START) else self._decode(place, data)

    def _decode(self, place: tuple[str, int, int], data: bytes) -> Image:
        image, key = decode(data), place[:2]
        with self._lock:
            if key not in self._decoded and image.nbytes <= self._room:
                self._room -= image.nbytes
                self._decoded[key] = image, data.startswith(JPEG_START)
        return image


def eval_batches(
    source: ImageSource, rows: Rows, view: tuple[int, float], size: int, part: slice | None = None
) -> Iterator[Image]:
    """Clean central views of the rows in their order, `size` at a time: uint8[<=size,H,W,3].

    `view` is (side, crop_pct) as `transforms.eval_view` takes them; `part` is start and stop of the rows wanted,
    None meaning all. A shard in S3 is fetched while the one before is worked on.
    """
    start, stop, _ = (part or slice(None)).indices(len(rows))
    with SequentialAhead(source.reader, rows) as ahead:
        for first in range(start, stop, size):
            ahead.at(first)
            chunk = range(first, min(first + size, stop))
            yield np.stack([eval_view(source.image(rows, row), *view) for row in chunk])
