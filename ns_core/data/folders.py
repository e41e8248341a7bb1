"""What the folders of a `DataConfig` hold, and what is wrong with them.

In: the fields `labeled`, `unlabeled`, `holdout` and `test`. Out: an `ImageTree`: the image paths of each
class and of the pool, sorted, none opened. Each mistake a person can make with folders is one `UserError`
that names the field, the place and the remedy.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ns_core.config import DataConfig
from ns_core.errors import UserError, nearest

SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
"""Endings by which images are known, in either case."""
Algorithm = Literal["sha256", "md5"]
_BLOCK = 1 << 20
"""Bytes hashed at a time."""
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

    def files(self) -> Iterator[tuple[str, str]]:
        """(field, path) of all images, sorted."""
        for field in sorted([*self.by_class, "unlabeled"]):
            paths = self.pool if field == "unlabeled" else in_path_order(self.by_class[field])
            yield from ((field, path) for path in paths)


def in_path_order(classes: dict[str, list[str]]) -> Iterator[str]:
    """The paths of all classes, sorted: a path begins with its class and a slash, which sorts after a blank."""
    for name in sorted(classes, key=lambda name: os.fsencode(f"{name}/")):
        yield from classes[name]


def scan(config: DataConfig) -> ImageTree:
    """Lists all folders and checks them against each other; raises `UserError`."""
    roots = folder_roots(config)
    by_class = {field: images_by_class(field, roots[field]) for field in _LABELLED if field in roots}
    for field in by_class:
        check_classes(f"data.{field}: {roots[field]}", by_class[field], by_class["labeled"])
    return ImageTree(roots, by_class, pool_images(roots["unlabeled"]))


def folder_roots(config: DataConfig) -> dict[str, Path]:
    """Field -> its folder, which is there, of the fields that are set; `labeled` and `unlabeled` have to be."""
    fields = ("labeled", "unlabeled", "holdout", "test")
    for field in fields[:2]:
        if not getattr(config, field):
            raise UserError(f"data.{field} is not set: give the folder, --set data.{field}=FOLDER")
    roots = {field: Path(text).expanduser() for field in fields if (text := getattr(config, field))}
    for field, root in roots.items():
        check_folder(field, root)
    return roots


def check_folder(field: str, root: Path) -> None:
    """`root` is a folder; else `UserError`."""
    if not root.exists():
        raise UserError(f"data.{field}: {root} does not exist (seen from {Path.cwd()}): correct the path, or create it")
    if not root.is_dir():
        raise UserError(f"data.{field}: {root} is a file: give the folder that holds the images")


def images_by_class(field: str, root: Path, below: str = "") -> dict[str, list[str]]:
    """Class -> its image paths relative to `root`; both sorted. The class folders lie in `root / below`."""
    folder = root / below
    entries = _entries(folder)
    loose = [entry.name for entry in entries if not entry.is_dir() and suffix(entry.name) in SUFFIXES]
    if loose:
        raise UserError(
            f"data.{field}: {folder} has {len(loose)} image(s) outside the class folders, such as "
            f"{printable(loose[0])}: move each into the folder of its class"
        )
    names = [entry.name for entry in entries if entry.is_dir()]
    if not names:
        raise UserError(
            f"data.{field}: {folder} has no class folders: make one folder a class and put its images there"
        )
    return {name: walk(root, f"{below}/{name}" if below else name) for name in names}


def check_classes(where: str, classes: dict[str, list[str]], labeled: dict[str, list[str]]) -> None:
    """Two classes or more, the same as in `labeled`, none of them empty; else `UserError`, which `where` begins."""
    if len(labeled) < 2:
        raise UserError(f"{where} has one class, '{printable(*labeled)}': a classifier needs two or more class folders")
    if odd := [name for name in classes if name not in labeled]:
        names = ", ".join(f"'{printable(name)}'" for name in odd[:5])
        raise UserError(
            f"{where} has class folders that data.labeled has not: {names}"
            f"{nearest(odd[0], labeled)}: rename or remove them"
        )
    if missing := [name for name in labeled if name not in classes]:
        names = ", ".join(f"'{printable(name)}'" for name in missing[:5])
        raise UserError(f"{where} lacks class folders that data.labeled has: {names}: add them with images")
    for name, paths in classes.items():
        if not paths:
            raise UserError(
                f"{where}: class '{printable(name)}' has no image ({_endings()}): add some, or remove the folder"
            )


def pool_images(root: Path) -> list[str]:
    """The unlabelled images, sorted; one at least, else `UserError`."""
    pool = walk(root)
    if not pool:
        raise UserError(
            f"data.unlabeled: {root} holds no image ({_endings()}): put the unlabelled images "
            "there, at any depth, or correct the path"
        )
    return pool


def walk(root: Path, below: str = "", suffixes: Iterable[str] = SUFFIXES) -> list[str]:
    """Paths of the visible files with these endings below `root / below`, relative to `root`, sorted by their
    bytes. Links are followed; one in a circle is a `UserError`."""
    paths = list(_walk(root, below, (), frozenset(suffixes)))
    # Text sorts as its UTF-8 does; only bytes that are none, kept as surrogates, do not.
    paths.sort(key=None if all(map(str.isascii, paths)) else os.fsencode)
    return paths


def read_file(path: Path) -> bytes:
    """The bytes; `UserError` when the file is gone or may not be read, `OSError` when the disk fails."""
    with told(path):
        return path.read_bytes()


def file_digest(path: Path, algorithm: Algorithm = "sha256") -> bytes:
    """Of the bytes, without holding the file in memory; errors as `read_file`. md5 serves to compare with
    published ones."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with told(path), path.open("rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.digest()


def suffix(path: str) -> str:
    """Ending of a file name in lower case, without the dot; empty when it has none."""
    return os.path.splitext(path)[1][1:].lower()


def printable(path: str) -> str:
    """`path` as valid UTF-8; bytes of a name that are not become `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _endings() -> str:
    return ", ".join(SUFFIXES)


def _walk(root: Path, below: str, above: tuple[str, ...], suffixes: frozenset[str]) -> Iterator[str]:
    """`above`: the real paths of the folders on the way here."""
    real = os.path.realpath(root / below)
    if real in above:
        raise UserError(f"{root / below}: a link to a folder that holds it: remove the link")
    for entry in _entries(root / below):
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir():
            yield from _walk(root, path, (*above, real), suffixes)
        elif suffix(entry.name) in suffixes:
            yield path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, sorted."""
    with told(folder), os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(visible, key=lambda entry: os.fsencode(entry.name))


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turns the failures that a person can mend into one line."""
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        gone = isinstance(error, FileNotFoundError)
        reason = "is gone, or a link to nothing" if gone else "may not be read by this user"
        raise UserError(f"{path}: {reason}: make it readable, or remove it") from None
