"""Headers of tar members for many files at once, the bytes that tarfile writes.

In: names and sizes. Out: uint8[N,512]: plain ustar, mode 0444, time 0, nobody's, as in every shard of ours
(`data.shards`). tarfile takes 15 us for one; copying an image takes 30.
"""

import tarfile
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

BLOCK, RECORD = 512, 10_240
"""Bytes: headers and padded members are whole blocks; the file, with two empty blocks at its end, whole records."""
LONGEST_NAME = 100
_SIZE_BITS = 33
"""Names of up to 100 bytes and sizes below 8 GiB: more of either is another format than ustar's plain header."""
_SIZE, _CHECKSUM = slice(124, 135), slice(148, 154)
_BLANKS = slice(148, 156)
"""Place of the checksum and of what ends it, taken as blanks in the sum (IEEE 1003.1, pax, "ustar")."""


def headers(names: Sequence[bytes], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """uint8[N,512], the header of each regular file. Names and sizes that do not fit are the caller's bug."""
    assert max(map(len, names), default=0) <= LONGEST_NAME, max(names, key=len)
    assert not (sizes >> _SIZE_BITS).any(), (sizes.min(), sizes.max())
    template, rest = _template()
    table = np.empty((len(names), BLOCK), np.uint8)
    table[:] = template
    table[:, :LONGEST_NAME] = np.array(names, f"S{LONGEST_NAME}").view(np.uint8).reshape(-1, LONGEST_NAME)
    table[:, _SIZE] = _octal(sizes, 11)
    sums = table[:, :LONGEST_NAME].sum(axis=1, dtype=np.int64) + table[:, _SIZE].sum(axis=1, dtype=np.int64) + rest
    table[:, _CHECKSUM] = _octal(sums, 6)
    return table


def padded(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bytes that members of these sizes take, their headers too."""
    return BLOCK + (sizes + (BLOCK - 1) & -BLOCK)


def archive_size(members: int) -> int:
    """Bytes of an archive whose padded members come to `members`."""
    return -(-(members + 2 * BLOCK) // RECORD) * RECORD


@cache
def _template() -> tuple[NDArray[np.uint8], int]:
    """A header whose name, size and checksum are to be filled in, and what it adds to the checksum without them."""
    member = tarfile.TarInfo()
    member.mode, member.mtime = 0o444, 0
    header = np.frombuffer(member.tobuf(tarfile.USTAR_FORMAT), np.uint8).copy()
    header[_SIZE] = 0
    summed = header.copy()
    summed[_BLANKS] = ord(" ")
    return header, int(summed.sum(dtype=np.int64))


def _octal(values: NDArray[np.int64], digits: int) -> NDArray[np.uint8]:
    """uint8[N,digits], ASCII."""
    shifts = 3 * np.arange(digits - 1, -1, -1)
    return ((values[:, None] >> shifts & 7) + ord("0")).astype(np.uint8)
