"""The one package that knows local directories from S3.

In: a store's URI (`s3://bucket/prefix`, `file:///dir` or a path) and keys, which are relative POSIX
paths (`train_teacher/0123456789ab/.artifact.json`). Out: bytes and files.

Both back ends promise the same: a reader sees an object whole or not at all; what was put survives
a crash; of many processes that `create` one key, one wins. Locally that takes a synced temporary
file, renamed (put) or hard-linked (create) into place; on S3 one upload, and `If-None-Match: *`.

    keys.py     which keys are allowed
    local.py    a directory
    waiting.py  what is done while a server is away
    s3.py       a prefix of a bucket; loaded when one is opened, since boto3 takes half a second
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote
from uuid import uuid4

from ns_core.errors import NotFound, UserError
from ns_core.storage.keys import Stored
from ns_core.storage.local import LocalStorage

_RETRIES = 3
"""Of boto3, within seconds: for a connection that breaks off."""
PATIENCE_S = 120.0
"""A server that is restarted or moved to another machine is back within one or two minutes."""
_PROBE_RETRIES = 2
"""A mistyped endpoint is told within seconds."""


class Storage(Protocol):
    """Keys and their objects. Threads may share it; a forked process opens its own.

    A key that leaves the store, or is kept for temporary files, is a `ValueError` everywhere. On S3
    a mistake in credentials, bucket or endpoint is a `UserError`, any other failure an `OSError`. A server
    that is away is waited for, which a line of the log says, and is a `StageFailed` after `PATIENCE_S`.
    """

    uri: str
    """Canonical, `/absolute/dir` or `s3://bucket/prefix`; `open_storage` takes it back."""

    def put_file(self, key: str, path: Path) -> None:
        """Copy a local file to `key`, atomically and durably, over what is there."""

    def take_file(self, key: str, path: Path) -> None:
        """As `put_file`, and the file is gone afterwards: a rename where both lie on one file system."""

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store `data` under `key`, atomically and durably, over what is there."""

    def create(self, key: str, data: bytes) -> bool:
        """Store `data` if `key` is absent; whether this call did. Of many that race, one gets True.

        False can also follow a try of this very call that went through and whose reply was lost:
        read what is there before taking it for another's.
        """

    def read(self, key: str) -> bytes:
        """The whole object, or `NotFound`."""

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`, or `NotFound`; `OSError` if it is too short."""

    def fetch(self, key: str, path: Path) -> None:
        """Copy the object to a local file, atomically, over what is there; or `NotFound`."""

    def size(self, key: str) -> int | None:
        """Bytes, or None when absent."""

    def version(self, key: str) -> tuple[int, str] | None:
        """Bytes, and a mark that changes with the content (S3's ETag, a file's time of change); None when absent."""

    def list(self, prefix: str) -> Iterator[str]:
        """The keys that start with `prefix` ("" for all), sorted; never a temporary file."""

    def objects(self, prefix: str) -> Iterator[Stored]:
        """What `list` names, in no order, with sizes and times; taken as it is read, for stores of any size."""

    def copy(self, source: str, target: str) -> None:
        """Store what `source` holds under `target` too, atomically; or `NotFound`. Moves no bytes through this
        process: a hard link locally where the file system has them, a server-side copy on S3."""

    def move(self, source: str, target: str) -> None:
        """Rename, over what is there; or `NotFound`. On S3 a copy, then a delete: not atomic."""

    def delete(self, key: str) -> None:
        """Remove the object if there is one."""

    def delete_tree(self, prefix: str) -> None:
        """Remove the folder `prefix` ("a/b/"); what cannot be removed stays."""

    def local_path(self, key: str) -> Path | None:
        """The file in a local directory, whether or not it exists; None on S3."""


def open_storage(uri: str, *, retries: int | None = None) -> Storage:
    """The store at `s3://bucket[/prefix]`, `file:///dir` or a path (`~` expanded, made absolute).

    Touches neither disk nor network. S3 settings come from the usual AWS environment; with `retries`, a
    failed request to S3 is sent again so often within seconds, and no server that is away is waited for: it is
    `Unreachable`, a `UserError`. `UserError` for a URI that names no store.
    """
    if uri.startswith("s3://"):
        from ns_core.storage.s3 import S3Storage

        bucket, _, prefix = uri.removeprefix("s3://").rstrip("/").partition("/")
        if not bucket or not {"", ".", ".."}.isdisjoint(prefix.split("/") if prefix else ()):
            raise UserError(f"store {uri!r}: write it as s3://bucket or s3://bucket/prefix")
        return (
            S3Storage(bucket, prefix, _RETRIES, PATIENCE_S) if retries is None else S3Storage(bucket, prefix, retries)
        )
    if uri.startswith("file:///"):
        path = unquote(uri.removeprefix("file://"))
    elif not uri or "://" in uri or uri.startswith(("s3:", "file:")):
        raise UserError(f"store {uri!r}: write it as s3://bucket/prefix, file:///dir or a path")
    else:
        path = os.path.expanduser(uri)
    return LocalStorage(Path(os.path.abspath(path)))


def probe(storage: Storage) -> None:
    """Write, create twice, read and delete a scratch key: does the store keep what it promises?

    `UserError` with the store and the remedy when it cannot be reached or written, or lets a second
    `create` through, as some S3 servers do that ignore `If-None-Match` without a word (rclone, the
    JuiceFS gateway). Racing calls are not tried.
    """
    impatient = open_storage(storage.uri, retries=_PROBE_RETRIES)
    folder = f".probe-{uuid4().hex}/"
    key = f"{folder}scratch"
    try:
        # A put would not tell: SeaweedFS makes a missing bucket for an administrator who puts.
        impatient.list(folder)
        created = impatient.create(key, b"first"), impatient.create(key, b"second")
        kept = impatient.read(key)
        impatient.put_bytes(key, b"third")
        replaced = impatient.read(key)
        impatient.delete(key)
        impatient.delete_tree(folder)
    except (OSError, NotFound) as error:
        raise UserError(
            f"store {storage.uri} is not writable ({_reason(error)}); mend its permissions or choose another store"
        ) from error
    if created != (True, False) or kept != b"first":
        raise UserError(
            f"store {storage.uri} lets two writers create one key (it ignores If-None-Match); "
            "choose a server that honours conditional writes, such as AWS S3 or SeaweedFS 4.48"
        )
    if replaced != b"third":
        raise UserError(f"store {storage.uri} gave back old bytes; choose a consistent store")


def _reason(error: OSError | NotFound) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror}: {error.filename}"
    return str(error)
