"""Which keys a store takes: relative POSIX paths with no empty, `.` or `..` part.

A last part that starts with `.tmp-` is kept for files that are still being written.
"""

from typing import NamedTuple

TEMPORARY = ".tmp-"


class Stored(NamedTuple):
    """An object as a listing shows it."""

    key: str
    size: int
    """Bytes."""
    modified: float
    """When it was last written, in Unix seconds by the clock of the store."""


def checked_key(key: str) -> str:
    """`key` itself. `ValueError` when it could leave the store or be taken for a temporary file."""
    parts = key.split("/")
    if not {"", ".", ".."}.isdisjoint(parts) or parts[-1].startswith(TEMPORARY):
        raise ValueError(f"{key!r} is no key: give a relative path like 'stage/0123/file'")
    return key


def checked_prefix(prefix: str) -> str:
    """`prefix` itself: the start of a key, and so "" or one that ends in the middle of a name."""
    if prefix.startswith("/") or ".." in prefix.split("/"):
        raise ValueError(f"{prefix!r} is no prefix of a key")
    return prefix


def checked_folder(prefix: str) -> str:
    """`prefix` itself: a folder below the store's root, with its closing slash."""
    if not prefix.endswith("/"):
        raise ValueError(f"{prefix!r} is no folder: end it with '/'")
    return f"{checked_key(prefix[:-1])}/"
