"""The identity of what lies in the folder of an official set, wherever that is.

In: the name of a set and its folder. Out: one string, which goes into the fingerprint of an evaluation.

Of folders: every path below and the size of every file, bytes unread: ImageNet-C has 4.75 million JPEGs. Where the file
system has its folders in memory, that is 4 s a million. Of what has one size whatever it shows, their bytes: pictures
that are not compressed, and arrays; an array that has not changed is read once in its life (`data.sources.digests`).
"""

import hashlib
import os
from pathlib import Path

from ns_core.data.folders import file_digest, suffix, told
from ns_core.data.sources.digests import file_digests, tree_digest
from ns_core.errors import UserError
from ns_core.evaluation.sets.layout import folder_of

_ARRAYS = ("cifar10_c", "cifar10_p")
_SIZED_ALIKE = frozenset({"bmp", "pbm", "pgm", "ppm", "tif", "tiff"})
"""Endings of pictures whose size does not tell one from another."""


def digest(name: str, folder: str) -> str:
    """`{name}-` and a sha256 over what lies in `folder`; hidden files do not count. `UserError` when it is not there,
    or something in it may not be read."""
    root = folder_of(name, folder)
    if name in _ARRAYS:
        paths = sorted(path for path in root.glob("*.npy") if not path.name.startswith("."))
        return tree_digest(name, zip((path.name for path in paths), file_digests(map(str, paths)), strict=True))
    return tree_digest(name, [("", _tree(str(root), ()))])


def _tree(folder: str, above: tuple[tuple[int, int], ...]) -> bytes:
    """sha256 over the names in a folder, sorted, each with its size or, of a folder, its own digest.

    `above`: device and inode of the folders on the way here.
    """
    with told(Path(folder)):
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise UserError(f"{folder}: a link to a folder that holds it: remove the link")
        lines = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                inside = _tree(entry.path, (*above, here)) if entry.is_dir() else _size(entry)
                lines.append(os.fsencode(entry.name) + b"\0" + inside)
    lines.sort()
    total = hashlib.sha256()
    for line in lines:
        total.update(b"%d:" % len(line) + line)
    return total.digest()


def _size(entry: os.DirEntry[str]) -> bytes:
    try:
        return file_digest(Path(entry.path)) if suffix(entry.name) in _SIZED_ALIKE else b"%d" % entry.stat().st_size
    except OSError:
        with told(Path(entry.path)):
            raise
