"""Where the members of a tar file lie, from its headers alone.

In: an open tar file, uncompressed. Out: name, offset and size of each regular file in it, in the order of the
archive; or `BadTar`. An archive that ends early never passes for a shorter one, as it does in tarfile and so in
webdataset: all headers must have their checksum, the end must be marked, and nothing but zeros may follow it.

Plain headers are read in a loop, one `pread` for those that lie close together, and checked all at once with
numpy; whatever else is found (long names, extended headers that say more than times, links, sizes of 8 GiB) sends
the whole file through tarfile. On 1,000 samples of three members: 4.1 ms against 48 ms for tarfile (11x); mapping
the file instead takes 6.
"""

import os
import re
import tarfile
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 512
"""Headers are one block; the content of a member is filled up to whole blocks."""
_SIZE, _CHECKSUM, _TYPE, _MAGIC, _PREFIX = slice(124, 135), slice(148, 156), 156, slice(257, 263), slice(345, 500)
"""Of a POSIX ustar header (IEEE 1003.1, pax, "ustar Interchange Format")."""
_OCTAL = 8 ** np.arange(5, -1, -1, dtype=np.int64)
_FILE, _FOLDER, _EXTENDED = ord("0"), ord("5"), ord("x")
_KINDS = np.frombuffer(b"0\x005x", np.uint8)
"""Regular file, regular file before POSIX, folder, extended header of the member after it."""
_TIMES = re.compile(rb"(?:\d+ [amc]time=[\d.]+\n)+")
"""All that an extended header says where names and sizes fit the plain one. webdataset's writer, and so
img2dataset, gives one to each member, for the fraction of its second."""
_WINDOW = 4096
"""Bytes of a read: the label and the description of a sample and the next image's header come at once."""
_TAIL = 1 << 16
"""Bytes read at a time of what follows the end."""


class Members(NamedTuple):
    """The regular files in an archive, one entry each in three columns."""

    names: list[str]
    """As tarfile gives them: UTF-8, other bytes as surrogates."""
    offsets: list[int]
    """Of the contents, in bytes from the start of the archive."""
    sizes: list[int]


class BadTar(OSError):
    """Not a whole tar file; the message names the file and the offset."""


def scan_tar(stream: IO[bytes], where: str) -> Members:
    """The regular files of an uncompressed tar, which `where` names in errors.

    `stream` is a real file (read through its descriptor; its position changes). Raises `BadTar` for a file
    that is no tar, is cut short, has a header with a wrong checksum or anything but zeros after its end.
    """
    descriptor = stream.fileno()
    size = os.fstat(descriptor).st_size
    scanned = _plain(descriptor, size)
    if scanned is None:
        scanned = _any(stream, size, where)
    members, end = scanned
    _check_end(descriptor, end, where)
    return members


def _plain(descriptor: int, size: int) -> tuple[Members, int] | None:
    """The members and where their end is marked; None when tarfile has to look."""
    headers, offsets, sizes = [], [], []
    window, start, position = b"", 0, 0
    while True:
        header = window[position - start : position - start + BLOCK]
        if len(header) < BLOCK:
            window, start = os.pread(descriptor, _WINDOW, position), position
            header = window[:BLOCK]
        if not header or not header[0]:
            break
        try:
            length = int(header[_SIZE], 8)
        except ValueError:
            return None
        position += BLOCK
        if header[_TYPE : _TYPE + 1] == b"x":
            records = window[position - start : position - start + length]
            if len(records) < length:
                records = os.pread(descriptor, min(length, _WINDOW), position)
            if len(records) < length or not _TIMES.fullmatch(records):
                return None
        headers.append(header)
        offsets.append(position)
        sizes.append(length)
        position += (length + BLOCK - 1) & -BLOCK
    if not headers or position > size or len(headers[-1]) < BLOCK:
        return None
    table = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, BLOCK)
    names = _names(table)
    if names is None or not _are_plain(table, sizes):
        return None
    members = Members(names, offsets, sizes)
    kinds = table[:, _TYPE]
    extended = kinds == _EXTENDED
    if extended[-1] or (extended[1:] & extended[:-1]).any():  # of no member
        return None
    return (members if (kinds == _FILE).all() else _files(members, kinds)), position


def _files(members: Members, kinds: NDArray[np.uint8]) -> Members:
    """Without folders and extended headers; before POSIX, a folder was a file whose name ends in a slash."""
    files = ~np.isin(kinds, (_FOLDER, _EXTENDED))
    kept = [n for n in np.flatnonzero(files).tolist() if not members.names[n].endswith("/")]
    return Members(
        [members.names[n] for n in kept], [members.offsets[n] for n in kept], [members.sizes[n] for n in kept]
    )


def _are_plain(table: NDArray[np.uint8], sizes: list[int]) -> bool:
    """Whether uint8[members,512] has right checksums and only kinds whose content is as long as they say."""
    kinds = table[:, _TYPE]
    if not np.isin(kinds, _KINDS).all() or np.asarray(sizes)[kinds == _FOLDER].any():
        return False
    if not np.isin(table[:, _SIZE.stop], (0, ord(" "))).all():  # a size of twelve digits
        return False
    digits = table[:, _CHECKSUM][:, :6].astype(np.int64) - ord("0")
    if ((digits < 0) | (digits > 7)).any():
        return False
    # The checksum is taken with its own eight bytes as blanks.
    own = table[:, _CHECKSUM].sum(axis=1, dtype=np.int64) - 8 * ord(" ")
    return bool((table.sum(axis=1, dtype=np.uint32) - own == digits @ _OCTAL).all())


def _names(table: NDArray[np.uint8]) -> list[str] | None:
    """The names in uint8[members,512]; None when they are not laid out as POSIX says."""
    names, prefixes = _text(table[:, :100]), table[:, _PREFIX]
    if names is None or not prefixes.any():
        return names
    folders = _text(prefixes)
    if folders is None or (table[:, _MAGIC] != np.frombuffer(b"ustar\0", np.uint8)).any():
        return None
    return [f"{folder}/{name}" if folder else name for folder, name in zip(folders, names, strict=True)]


def _text(field: NDArray[np.uint8]) -> list[str] | None:
    """uint8[members,length], padded with NULs; None when there is something after a NUL."""
    raw = np.ascontiguousarray(field).view(f"S{field.shape[1]}").ravel().tolist()
    text = b"\0".join(raw).decode("utf-8", "surrogateescape").split("\0")
    return text if len(text) == len(raw) else None


def _any(stream: IO[bytes], size: int, where: str) -> tuple[Members, int]:
    """As `_plain`, of any archive that tarfile reads."""
    stream.seek(0)
    members = Members([], [], [])
    end = 0
    try:
        with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            for member in archive:
                if member.issparse():
                    raise BadTar(f"{where}: {member.name} at offset {member.offset} is stored as a sparse file")
                end = archive.offset
                if end > size:
                    raise BadTar(f"{where}: cut short, {size} bytes, where {member.name} ends at {end}")
                if member.isreg():
                    members.names.append(member.name)
                    members.offsets.append(member.offset_data)
                    members.sizes.append(member.size)
    except tarfile.TarError as error:
        raise BadTar(f"{where}: no tar file, or cut short, at offset {end} of {size} ({error})") from None
    return members, end


def _check_end(descriptor: int, end: int, where: str) -> None:
    """The archive is marked as ended at `end`, and zeros follow. tarfile stops without a word at a header that
    is damaged, and a second archive that was appended goes unseen."""
    first = os.pread(descriptor, BLOCK, end)
    if len(first) < BLOCK:
        raise BadTar(f"{where}: cut short, it ends at offset {end + len(first)} with no end-of-archive block")
    if any(first):
        raise BadTar(f"{where}: damaged header at offset {end}")
    position = end + BLOCK
    while data := os.pread(descriptor, _TAIL, position):
        if data.strip(b"\0"):
            raise BadTar(f"{where}: more data after the end of the archive at offset {end}")
        position += len(data)
