"""Small shards and a view of them, for tests of who reads what: an image's picture tells its number and its draws."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ns_core.data.image_source import JPEG_START, Image
from ns_core.data.images import CorruptImage
from ns_core.data.rows import Rows

CLASSES = 3
IMAGE_BYTES = 64
BAD = b"bad!"


def image_bytes(number: int, size: int = IMAGE_BYTES, bad: bool = False) -> bytes:
    """What a shard holds of image `number`."""
    head = JPEG_START + (BAD if bad else b"good") + number.to_bytes(4, "little")
    return head + np.random.default_rng(number).bytes(size - len(head))


class Numbered:
    """A view whose picture is the image's number, a sum over its bytes and the first draws of its generator."""

    size = 4

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        raise AssertionError("these images are JPEGs as far as anybody looks")

    def encoded(self, data: bytes, rng: np.random.Generator) -> Image:
        head = len(JPEG_START) + len(BAD)
        if data[len(JPEG_START) : head] == BAD:
            raise CorruptImage("broken on purpose")
        checked = sum(data).to_bytes(4, "little")
        picture = data[head : head + 4] + checked + rng.bytes(self.size * self.size * 3 - 8)
        return np.frombuffer(picture, np.uint8).reshape(self.size, self.size, 3)


def write_rows(
    folder: Path,
    name: str,
    shards: Sequence[int],
    copies: Sequence[int] | None = None,
    bad: Sequence[int] = (),
    image_size: int = IMAGE_BYTES,
) -> Rows:
    """Shards `{name}-{n}.tar` of `shards[n]` images each, and their rows; `bad`: numbers of the corrupt images.

    Keys are `{name}-{number}`; the rows lie in the order of a fixed draw, shards mixed.
    """
    codes = np.repeat(np.arange(len(shards), dtype=np.int32), shards)
    within = np.concatenate([np.arange(count) for count in shards])
    numbers = np.arange(len(codes))
    for code in range(len(shards)):
        data = b"".join(image_bytes(number, image_size, number in bad) for number in numbers[codes == code].tolist())
        (folder / shard_name(name, code)).write_bytes(data)
    order: NDArray[np.int64] = np.random.default_rng(0).permutation(len(codes))
    return Rows(
        shard_names=tuple(shard_name(name, code) for code in range(len(shards))),
        shard_codes=codes[order],
        offsets=within[order] * image_size,
        sizes=np.full(len(codes), image_size, np.int64),
        keys=pa.array([f"{name}-{number}" for number in order], pa.large_string()),
        targets=np.stack([order % 7, order, -order], axis=1).astype(np.float32),
        copies=None if copies is None else np.array(copies, np.int32),
    )


def shard_name(name: str, code: int) -> str:
    return f"{name}-{code:03d}.tar"
