"""Unfinished work: what an attempt at an artifact saves, and the next one finds.

In: local files. Out: files in the folder `resume` of the artifact, whole or not there; those that are finished go into
the artifact as they are (`Adopted`), without moving a byte.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ns_core.errors import NotFound
from ns_core.storage import Storage
from ns_core.storage.ranged import RemoteFiles

RESUME = "resume"
"""Where unfinished work lies, in the artifact's folder."""
log = logging.getLogger("noisy_student")


@dataclass(frozen=True)
class Adopted:
    """A file that lies in the artifact's folder already and goes into the artifact as it is."""

    saved: str
    """Its name there."""
    size: int
    sha256: str
    folder: str = RESUME
    """The resume folder, or that of an attempt whose record was set aside."""


class ResumeFolder:
    """Where unfinished work waits for the next attempt at the same fingerprint.

    Each file appears whole or not at all. All attempts at one fingerprint share the folder: stages are
    deterministic, so any attempt's saved state leads to the same artifact, and the last writer may win.
    """

    def __init__(self, storage: Storage, prefix: str, scratch: Path) -> None:
        self._storage, self._prefix, self._scratch = storage, prefix.rstrip("/"), scratch

    def save(self, name: str, write: Callable[[Path], object]) -> None:
        """Calls `write(path)` on a scratch file, then publishes it under `name`."""
        path = self._scratch / f"saving-{name}"
        write(path)
        self._storage.take_file(f"{self._prefix}/{name}", path)

    def take(self, name: str, path: Path) -> None:
        """Publishes a local file under `name`; the file is gone afterwards."""
        self._storage.take_file(f"{self._prefix}/{name}", path)

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes of a saved file, or `NotFound`."""
        return self._storage.read_range(f"{self._prefix}/{name}", offset, size)

    def finish(self, name: str, path: Path) -> Adopted:
        """Publishes a finished file of the artifact, under its name with the digest of its bytes: the next attempt can
        tell whether it is whole. The local file is gone afterwards."""
        digest = _digest(path)
        stem, suffix = os.path.splitext(name)
        finished = Adopted(f"{stem}.{digest}{suffix}", path.stat().st_size, digest)
        self.take(finished.saved, path)
        return finished

    def finished(self) -> dict[str, list[tuple[str, str]]]:
        """What attempts have finished: name in the artifact -> (name here, digest) of each file, in order."""
        found: dict[str, list[tuple[str, str]]] = {}
        for saved in sorted(self.names()):
            stem, suffix = os.path.splitext(saved)
            stem, _, digest = stem.rpartition(".")
            if stem:
                found.setdefault(f"{stem}{suffix}", []).append((saved, digest))
        return found

    def whole(self, saved: str, digest: str) -> Adopted | None:
        """A finished file. One that is damaged is deleted, said so, and None; S3 checks its own bytes.

        Raises `NotFound` when it is gone: a rival that has committed clears what both had saved.
        """
        key = f"{self._prefix}/{saved}"
        size, local = self._storage.size(key), self._storage.local_path(key)
        if size is None:
            raise NotFound(saved)
        if size and (local is None or _digest(local) == digest):
            return Adopted(saved, size, digest)
        log.warning("%s is damaged: its bytes are not those of its name; made again", saved)
        self.delete(saved)
        return None

    def open(self, file: Adopted) -> BinaryIO:
        """A file of the artifact's folder, to be read and sought where it lies."""
        folder = self._prefix.removesuffix(RESUME) + file.folder
        return RemoteFiles(self._storage, folder, {file.saved: file.size}).open(file.saved)

    def load(self, name: str) -> Path | None:
        """A private copy of the saved file, or None when there is none."""
        path = self._scratch / f"loaded-{name}"
        try:
            self._storage.fetch(f"{self._prefix}/{name}", path)
        except NotFound:
            return None
        return path

    def delete(self, name: str) -> None:
        """Forgets one saved file, if there is one."""
        self._storage.delete(f"{self._prefix}/{name}")

    def names(self) -> set[str]:
        """What was saved so far."""
        return {key[len(self._prefix) + 1 :] for key in self._storage.list(self._prefix + "/")}

    def clear(self) -> None:
        """Forgets everything; called once the artifact is committed."""
        self._storage.delete_tree(self._prefix + "/")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
