"""A shard that lies in a store: fetched whole and checked, or read in ranges. A server that is away is waited for."""

from dataclasses import dataclass
from pathlib import Path

from ns_core.artifacts import file_entry
from ns_core.data.patience import Patience
from ns_core.errors import NotFound, StageFailed, UserError
from ns_core.storage import Storage


class ShortShard(OSError):
    """A shard ends before the bytes that the index promises."""


@dataclass(frozen=True)
class RemoteShard:
    """Where a shard lies and what is known of it. Every method raises `UserError` when it is gone."""

    storage: Storage
    key: str
    name: str
    """Of its copy in a cache: no other shard, and no other version of this one, has it."""
    size: int
    """Bytes; where `sha256` is empty, as many at least as the index points to."""
    sha256: str = ""
    """As recorded; empty for a person's own shard."""

    @property
    def uri(self) -> str:
        return f"{self.storage.uri}/{self.key}"

    def fits(self, size: int) -> bool:
        """Whether a copy of so many bytes can be whole."""
        return size == self.size if self.sha256 else size >= self.size

    def bytes_now(self, patience: Patience) -> int:
        """Its size: as recorded, or asked for."""
        if self.sha256:
            return self.size
        size = patience(lambda: self.storage.size(self.key))
        if size is None:
            raise self._gone()
        return size

    def fetch(self, path: Path, size: int, patience: Patience) -> None:
        """A copy at `path`. Raises `StageFailed` when it has another size, or another sha256 than recorded."""
        try:
            patience(lambda: self.storage.fetch(self.key, path))
        except NotFound:
            raise self._gone() from None
        if path.stat().st_size != size or (self.sha256 and file_entry(path).sha256 != self.sha256):
            folder = self.uri.rpartition("/")[0]
            raise StageFailed(
                f"{self.uri} holds other bytes than recorded: delete {folder} and run the same command again"
            )

    def read(self, offset: int, size: int, patience: Patience) -> bytes:
        """Exactly `size` bytes from `offset`, which the shard is known to have."""
        try:
            return patience(lambda: self.storage.read_range(self.key, offset, size))
        except NotFound:
            raise self._gone() from None

    def _gone(self) -> UserError:
        return UserError(f"{self.uri} is gone: put it back, or prepare the dataset again")
