"""Files of artifacts, read where they lie: of one in S3 only what is read travels.

In: the store and references to artifacts that are in it. Out: their records, open files, and an evaluation's tables.
"""

from functools import partial
from typing import BinaryIO

from ns_core.artifacts import Artifact, Record, load
from ns_core.evaluation.tables import Tables
from ns_core.storage import Storage
from ns_core.storage.ranged import RemoteFiles


class ArtifactFiles:
    """The files of a few artifacts."""

    def __init__(self, storage: Storage, *artifacts: Artifact) -> None:
        self._storage = storage
        self._records = {one.fingerprint: self._found(one) for one in artifacts}

    def record(self, artifact: Artifact) -> Record:
        return self._records[artifact.fingerprint]

    def open(self, artifact: Artifact, name: str) -> BinaryIO:
        """A file of an artifact, to be read and sought."""
        record = self.record(artifact)
        local = self._storage.local_path(f"{record.prefix}/{name}")
        if local is not None:
            return local.open("rb")
        sizes = {file: entry.size for file, entry in record.files.items()}
        return RemoteFiles(self._storage, record.prefix, sizes).open(name)

    def read(self, artifact: Artifact, name: str) -> bytes:
        """A small file, whole."""
        with self.open(artifact, name) as file:
            return file.read()

    def tables(self, artifact: Artifact) -> Tables:
        """The predictions of an evaluation."""
        return Tables(self.record(artifact).files, partial(self.open, artifact))

    def _found(self, artifact: Artifact) -> Record:
        record = load(self._storage, artifact.paths)
        assert record is not None, f"{artifact.paths.folder} was in the store a moment ago"
        return record
