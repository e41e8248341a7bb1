"""Files of a store that are read in place, a range at a time: of a table in S3 the columns that somebody wants.

In: a key. Out: a file that can be read and sought, as pyarrow takes it.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from ns_core.storage import Storage

_BUFFER = 1 << 18
"""Bytes of a request at least: the footer of a table, or a small column."""


@dataclass(frozen=True)
class RemoteFiles:
    """The files of an artifact that are read where they lie."""

    storage: "Storage"
    prefix: str
    sizes: Mapping[str, int]

    def open(self, name: str) -> BinaryIO:
        """The file, to be read and sought; reading raises what `Storage.read_range` does."""
        return cast(
            BinaryIO, io.BufferedReader(_Ranged(self.storage, f"{self.prefix}/{name}", self.sizes[name]), _BUFFER)
        )


class _Ranged(io.RawIOBase):
    """One object, each read of which is a request."""

    def __init__(self, storage: "Storage", key: str, size: int) -> None:
        self._storage, self._key, self._size, self._position = storage, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readall(self) -> bytes:
        count = max(0, self._size - self._position)
        data = self._storage.read_range(self._key, self._position, count) if count else b""
        self._position += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), max(0, self._size - self._position))
        if count:
            buffer[:count] = self._storage.read_range(self._key, self._position, count)
            self._position += count
        return count
