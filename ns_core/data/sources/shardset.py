"""Tar shards of the person's own, where they lie: in a folder or below `s3://bucket/prefix`.

In: a field of `DataConfig`: a folder or prefix (all `*.tar` below), a shard, a glob, or webdataset's braces,
`{00000..00123}.tar`. Out: a `ShardSet`: the root, the shards below it, and each of them as an open file. A shard
in S3 is fetched whole into a scratch file, which is gone when nobody reads it any more: one request after the
other, no more disk than the shards that are open.
"""

import os
import re
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO

from ns_core.data.folders import check_folder, printable, told, walk
from ns_core.data.ordered import in_order
from ns_core.data.sources.digests import READERS, file_digests, object_digests
from ns_core.data.tars import BadTar, Members, scan_tar
from ns_core.errors import NotFound, UserError
from ns_core.storage import Storage, open_storage

_SPECIAL = re.compile(r"[*?\[{]")


class OpenShard:
    """A shard that may be read at any offset, by any number of threads; closed with the last reference to it."""

    def __init__(self, stream: IO[bytes], where: str) -> None:
        self._stream, self._where = stream, where
        weakref.finalize(self, stream.close)

    def members(self) -> Members:
        """What lies in it; `UserError` for a tar that is not whole: no retry would mend it."""
        try:
            return scan_tar(self._stream, self._where)
        except BadTar as error:
            raise UserError(f"{error}: copy the shard again, or remove it") from None

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`, or `OSError`."""
        data = os.pread(self._stream.fileno(), size, offset)
        if len(data) != size:
            raise OSError(
                f"{self._where}: {len(data)} of {size} bytes at offset {offset}: it changed while it was read"
            )
        return data

    @property
    def size(self) -> int:
        """Bytes."""
        return os.fstat(self._stream.fileno()).st_size


@dataclass(frozen=True)
class ShardSet:
    """The shards that one field names."""

    field: str
    root: str
    """`/absolute/folder` or `s3://bucket/prefix`."""
    paths: tuple[str, ...]
    """Below the root, by their bytes."""

    @cached_property
    def _storage(self) -> Storage:
        return open_storage(self.root)

    @property
    def _is_local(self) -> bool:
        return not self.root.startswith("s3://")

    def open(self, path: str) -> OpenShard:
        """One shard. `UserError` when it is gone or may not be read."""
        where = f"data.{self.field}: {self.root}/{path}"
        if self._is_local:
            with told(Path(self.root, path)):
                return OpenShard(Path(self.root, path).open("rb"), where)
        with tempfile.TemporaryDirectory(prefix="ns-shard-") as scratch:
            copy = Path(scratch) / "shard.tar"
            try:
                self._storage.fetch(path, copy)
            except NotFound:
                raise UserError(f"{where} is gone: put it back, or correct the place") from None
            return OpenShard(copy.open("rb"), where)

    def sizes(self) -> Iterator[int]:
        """Bytes of each shard."""
        return (size or 0 for size in in_order(self._storage.size, self.paths, READERS))

    def text(self, names: Iterable[str]) -> tuple[str, str]:
        """Name and content of the first of these files that lies in the root; empty when none does."""
        for name in names:
            try:
                return name, self._storage.read(name).decode("utf-8")
            except NotFound:
                continue
            except UnicodeDecodeError:
                raise UserError(f"data.{self.field}: {self.root}/{name} is not UTF-8: save it as that") from None
        return "", ""

    def digests(self) -> Iterator[bytes]:
        """sha256 of each shard; those that did not change since they were last asked for are not read."""
        if self._is_local:
            return file_digests(f"{self.root}/{path}" for path in self.paths)
        return self._remote_digests()

    def _remote_digests(self) -> Iterator[bytes]:
        try:
            yield from object_digests(self._storage, self.paths)
        except NotFound as error:
            raise UserError(f"data.{self.field}: {error.args[0]} is gone: put it back, or correct the place") from None


def find_shards(field: str, place: str) -> ShardSet:
    """The shards at the place that `data.{field}` names. `UserError` when there is none, or one of those that
    braces or a plain name ask for is missing."""
    root, patterns = _root_and_patterns(field, place)
    there = _listing(field, root)
    if not patterns:
        chosen = set(there)
    else:
        known = set(there)
        exact = {pattern for pattern in patterns if not _SPECIAL.search(pattern)}
        if missing := sorted(exact - known):
            raise UserError(
                f"data.{field}: {root}/{missing[0]} does not exist, nor do {len(missing) - 1} more of {place}: correct "
                "the numbers, or complete the shards"
            )
        globs = [PurePosixPath(pattern) for pattern in patterns if pattern not in exact]
        chosen = exact | {path for path in there if any(_fits(PurePosixPath(path), glob) for glob in globs)}
    if not chosen:
        raise UserError(f"data.{field}: {place} matches no .tar: correct the path, or put the shards there")
    return ShardSet(field, root, tuple(path for path in there if path in chosen))


def split_place(place: str) -> tuple[str, str]:
    """Root and what is asked for below it (empty: all), of a field's value."""
    if not place.startswith("s3://"):
        place = os.path.abspath(os.path.expanduser(place))
        if os.path.isdir(place):
            return place, ""
    special = _SPECIAL.search(place)
    if special is None and not place.endswith(".tar"):
        return place.rstrip("/"), ""
    cut = place.rfind("/", 0, special.start() if special else len(place))
    return place[:cut], place[cut + 1 :]


def _root_and_patterns(field: str, place: str) -> tuple[str, list[str]]:
    # Comes with webdataset, whose notation it is.
    from braceexpand import braceexpand

    root, rest = split_place(place)
    try:
        return root, list(braceexpand(rest)) if rest else []
    except ValueError as error:  # UnbalancedBracesError, which its stubs leave out
        raise UserError(f"data.{field}: {place}: {error}; write braces as {{00000..00123}}") from None


def _listing(field: str, root: str) -> list[str]:
    """All shards below the root, by their bytes."""
    if root.startswith("s3://"):
        keys = (key for key in open_storage(root).list("") if key.endswith(".tar"))
        return [key for key in keys if not any(part.startswith(".") for part in key.split("/"))]
    check_folder(field, Path(root))
    paths = walk(Path(root), suffixes=("tar",))
    if odd := [path for path in paths if printable(path) != path]:
        raise UserError(f"data.{field}: {root}/{printable(odd[0])}: its name is not UTF-8: rename the shard")
    return paths


def _fits(path: PurePosixPath, glob: PurePosixPath) -> bool:
    return len(path.parts) == len(glob.parts) and path.match(str(glob))
