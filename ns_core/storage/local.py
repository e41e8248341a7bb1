"""A store in a local directory: keys are files below the root. The promises are those of `Storage`.

A file that is being written is called `.tmp-<random>` and stands beside its target, on the same
file system. A killed writer leaves it; no reader is shown it, and `delete_tree` takes it along.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from ns_core.errors import NotFound
from ns_core.storage.keys import TEMPORARY, Stored, checked_folder, checked_key, checked_prefix

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)
"""What `link` says where a file system has no hard links, or no more of them."""
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalStorage:
    """The directory `root`, made when first written to."""

    def __init__(self, root: Path) -> None:
        assert root.is_absolute(), root
        self._root = root
        self.uri = str(root)

    def put_file(self, key: str, path: Path) -> None:
        with staged(self._file(key)) as copy, path.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)

    def take_file(self, key: str, path: Path) -> None:
        target = self._file(key)
        _make_folder(target.parent)
        try:
            _sync(path)
            path.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self.put_file(key, path)
            path.unlink()
        else:
            _sync(target.parent)

    def put_bytes(self, key: str, data: bytes) -> None:
        with staged(self._file(key)) as copy:
            copy.write_bytes(data)

    def create(self, key: str, data: bytes) -> bool:
        try:
            with staged(self._file(key), os.link) as copy:
                copy.write_bytes(data)
        except FileExistsError:
            return False
        return True

    def read(self, key: str) -> bytes:
        with self._found(key) as file:
            return file.read_bytes()

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        with self._found(key) as file, file.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(length)
        if len(data) != length:
            raise OSError(f"{file}: {len(data)} bytes at {offset}, where {length} were asked for")
        return data

    def fetch(self, key: str, path: Path) -> None:
        with arriving(path) as copy, self._found(key) as file:
            shutil.copyfile(file, copy)

    def size(self, key: str) -> int | None:
        version = self.version(key)
        return None if version is None else version[0]

    def version(self, key: str) -> tuple[int, str] | None:
        with suppress(*_ABSENT):
            status = self._file(key).stat()
            if stat.S_ISREG(status.st_mode):
                return status.st_size, f"{status.st_ino}-{status.st_mtime_ns}"
        return None

    def list(self, prefix: str) -> Iterator[str]:
        return iter(sorted(key for key, _ in self._walk(checked_prefix(prefix))))

    def objects(self, prefix: str) -> Iterator[Stored]:
        for key, file in self._walk(checked_prefix(prefix)):
            with suppress(*_ABSENT):  # removed since
                status = file.stat()
                yield Stored(key, status.st_size, status.st_mtime)

    def copy(self, source: str, target: str) -> None:
        renamed = self._file(target)
        _make_folder(renamed.parent)
        with self._found(source) as file:
            try:
                _link(file, renamed)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self.put_file(target, file)

    def move(self, source: str, target: str) -> None:
        file, renamed = self._file(source), self._file(target)
        if not file.is_file():
            raise NotFound(str(file))
        _make_folder(renamed.parent)
        with self._found(source):
            file.replace(renamed)
        _sync(renamed.parent)
        _sync(file.parent)

    def delete(self, key: str) -> None:
        with suppress(*_ABSENT):
            self._file(key).unlink()

    def delete_tree(self, prefix: str) -> None:
        shutil.rmtree(self._root / checked_folder(prefix), ignore_errors=True)

    def local_path(self, key: str) -> Path | None:
        return self._file(key)

    def _walk(self, prefix: str) -> Iterator[tuple[str, Path]]:
        """The keys that start with `prefix`, in no order, and their files."""
        for folder, _, names in os.walk(self._root / prefix.rpartition("/")[0]):
            for file in (Path(folder, name) for name in names if not name.startswith(TEMPORARY)):
                key = file.relative_to(self._root).as_posix()
                if key.startswith(prefix):
                    yield key, file

    def _file(self, key: str) -> Path:
        return self._root / checked_key(key)

    @contextmanager
    def _found(self, key: str) -> Iterator[Path]:
        """The file of `key`; that it is absent, which shows on use, is told as `NotFound`."""
        file = self._file(key)
        try:
            yield file
        except _ABSENT:
            raise NotFound(str(file)) from None


@contextmanager
def arriving(target: Path) -> Iterator[Path]:
    """As `staged`, for a copy of what a store has: a crash of the machine may cost it, so no disk is waited for."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY}{uuid4().hex}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staged(target: Path, publish: Callable[[Path, Path], None] = os.replace) -> Iterator[Path]:
    """A path to write to; at the end of the block its file is made durable, then `target`.

    After an exception in the block `target` is as before. The file has the permissions that the
    umask leaves, as those of `tempfile`, 0600, would hide a shared store from the group.
    """
    _make_folder(target.parent)
    temporary = target.with_name(f"{TEMPORARY}{uuid4().hex}")
    try:
        yield temporary
        _sync(temporary)
        publish(temporary, target)
        _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _link(file: Path, target: Path) -> None:
    """`target` becomes another name of `file`, over what is there. Linking to an existing name fails, and
    renaming onto a name of the same file does nothing, hence the name in between."""
    temporary = target.with_name(f"{TEMPORARY}{uuid4().hex}")
    os.link(file, temporary)
    try:
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(target.parent)


def _make_folder(folder: Path) -> None:
    """`mkdir -p` that survives a crash: the entry of every new folder is synced too."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
        _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
