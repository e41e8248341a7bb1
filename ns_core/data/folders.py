"""What the folders of a `DataConfig` hold, and what is wrong with them.

In: the fields `labeled`, `unlabeled`, `holdout` and `test`. Out: an `ImageTree`: the image paths of each
class and of the pool, sorted, none opened. Each mistake a person can make with folders is one `UserError`
that names the field, the place and the remedy.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ns_core.config import DataConfig
from ns_core.errors import UserError, nearest

SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
"""Endings by which images are known, in either case."""
_LABELLED = ("labeled", "holdout", "test")


@dataclass(frozen=True)
class ImageTree:
    """Paths are relative to the folder of their field, with `/`."""

    roots: dict[str, Path]
    """Field of `DataConfig` -> folder; only fields that are set."""
    by_class: dict[str, dict[str, list[str]]]
    """`labeled`, and `holdout` and `test` where set -> class -> its paths, which begin with the class."""
    pool: list[str]

    @property
    def classes(self) -> list[str]:
        """Names as the file system gives them, sorted; position is class index."""
        return list(self.by_class["labeled"])

    def files(self) -> list[tuple[str, str]]:
        """(field, path) of all images, sorted."""
        labelled = (
            (field, path) for field, classes in self.by_class.items() for paths in classes.values() for path in paths
        )
        pool = (("unlabeled", path) for path in self.pool)
        return sorted([*labelled, *pool], key=lambda file: (file[0], os.fsencode(file[1])))


def scan(config: DataConfig) -> ImageTree:
    """Lists all folders and checks them against each other; raises `UserError`."""
    fields = ("labeled", "unlabeled", "holdout", "test")
    for field in fields[:2]:
        if not getattr(config, field):
            raise UserError(f"data.{field} is not set: give the folder, --set data.{field}=FOLDER")
    roots = {field: Path(text).expanduser() for field in fields if (text := getattr(config, field))}
    for field, root in roots.items():
        _check_folder(field, root)
    by_class = {field: _by_class(field, roots[field]) for field in _LABELLED if field in roots}
    labeled = by_class["labeled"]
    if len(labeled) < 2:
        raise UserError(
            f"data.labeled: {roots['labeled']} has one class, '{printable(*labeled)}': a classifier needs "
            "two or more class folders"
        )
    for field in by_class:
        _check_classes(field, roots[field], by_class[field], labeled)
    pool = _images(roots["unlabeled"])
    if not pool:
        raise UserError(
            f"data.unlabeled: {roots['unlabeled']} holds no image ({_endings()}): put the unlabelled images "
            "there, at any depth, or correct the path"
        )
    return ImageTree(roots, by_class, pool)


def read_file(path: Path) -> bytes:
    """The bytes; `UserError` when the file is gone or may not be read, `OSError` when the disk fails."""
    with _told(path):
        return path.read_bytes()


def file_digest(path: Path) -> bytes:
    """sha256 of the bytes, 32 bytes, without holding the file in memory; errors as `read_file`."""
    with _told(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def suffix(path: str) -> str:
    """Ending of a file name in lower case, without the dot; empty when it has none."""
    return os.path.splitext(path)[1][1:].lower()


def printable(path: str) -> str:
    """`path` as valid UTF-8; bytes of a name that are not become `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _check_folder(field: str, root: Path) -> None:
    if not root.exists():
        raise UserError(f"data.{field}: {root} does not exist (seen from {Path.cwd()}): correct the path, or create it")
    if not root.is_dir():
        raise UserError(f"data.{field}: {root} is a file: give the folder that holds the images")


def _by_class(field: str, root: Path) -> dict[str, list[str]]:
    """Class -> its image paths; both sorted."""
    entries = _entries(root)
    loose = [entry.name for entry in entries if not entry.is_dir() and suffix(entry.name) in SUFFIXES]
    if loose:
        raise UserError(
            f"data.{field}: {root} has {len(loose)} image(s) outside the class folders, such as "
            f"{printable(loose[0])}: move each into the folder of its class"
        )
    names = [entry.name for entry in entries if entry.is_dir()]
    if not names:
        raise UserError(f"data.{field}: {root} has no class folders: make one folder a class and put its images there")
    return {name: _images(root, name) for name in names}


def _check_classes(field: str, root: Path, classes: dict[str, list[str]], labeled: dict[str, list[str]]) -> None:
    """The same classes as in `labeled`, none of them empty."""
    if odd := [name for name in classes if name not in labeled]:
        names = ", ".join(f"'{printable(name)}'" for name in odd[:5])
        raise UserError(
            f"data.{field}: {root} has class folders that data.labeled has not: {names}"
            f"{nearest(odd[0], labeled)}: rename or remove them"
        )
    if missing := [name for name in labeled if name not in classes]:
        names = ", ".join(f"'{printable(name)}'" for name in missing[:5])
        raise UserError(
            f"data.{field}: {root} lacks class folders that data.labeled has: {names}: add them with images"
        )
    for name, paths in classes.items():
        if not paths:
            raise UserError(
                f"data.{field}: class '{printable(name)}' has no image ({_endings()}) in {root / name}: add "
                "some, or remove the folder"
            )


def _endings() -> str:
    return ", ".join(SUFFIXES)


def _images(root: Path, below: str = "") -> list[str]:
    """Paths of the images below `root / below`, relative to `root`, sorted by their bytes."""
    return sorted(_walk(root, below, ()), key=os.fsencode)


def _walk(root: Path, below: str, above: tuple[str, ...]) -> Iterator[str]:
    """`above`: the real paths of the folders on the way here."""
    real = os.path.realpath(root / below)
    if real in above:
        raise UserError(f"{root / below}: a link to a folder that holds it: remove the link")
    for entry in _entries(root / below):
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir():
            yield from _walk(root, path, (*above, real))
        elif suffix(entry.name) in SUFFIXES:
            yield path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, sorted."""
    with _told(folder), os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(visible, key=lambda entry: os.fsencode(entry.name))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns the failures that a person can mend into one line."""
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        gone = isinstance(error, FileNotFoundError)
        reason = "is gone, or a link to nothing" if gone else "may not be read by this user"
        raise UserError(f"{path}: {reason}: make it readable, or remove it") from None
