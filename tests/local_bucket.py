"""A store in a folder that is to its users as one in S3, for tests of what is left there, and of how much is read."""

from pathlib import Path

from ns_core.storage.local import LocalStorage


class LocalBucket(LocalStorage):
    """Its files cannot be opened in place; counts what is asked of it."""

    fetched = 0
    """Objects copied as a whole."""
    ranges: list[int]
    """Bytes of each range that was read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ranges = []

    def local_path(self, key: str) -> Path | None:
        return None

    def fetch(self, key: str, path: Path) -> None:
        self.fetched += 1
        super().fetch(key, path)

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        self.ranges.append(length)
        return super().read_range(key, offset, length)
