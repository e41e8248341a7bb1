"""What each official set looks like on disk, and what to tell a person whose folder does not.

In: the name of a set and a folder. Out: where its corruptions, perturbations or arrays lie, or a `UserError` of one
line that says what was expected and what was found. Opens no file.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from ns_core.config.evaluation import CORRUPTIONS, PERTURBATIONS
from ns_core.data.folders import printable, told
from ns_core.errors import UserError

ALL_CORRUPTIONS: tuple[str, ...] = get_args(CORRUPTIONS)
ALL_PERTURBATIONS: tuple[str, ...] = get_args(PERTURBATIONS)
NOISES = tuple(name for name in ALL_PERTURBATIONS if "noise" in name)
"""Perturbations whose frames are compared with the first (hendrycks/robustness, ImageNet-P/test.py: `'noise' in name`),
and whose difficulties are sequences of their own."""
SEVERITIES = ("1", "2", "3", "4", "5")
CLIP_FOLDERS = {name: (name, "1") for name in ALL_PERTURBATIONS} | {
    f"{name}_{level}": (name, level) for name in NOISES for level in ("2", "3")
}
"""Folder of ImageNet-P, or array of CIFAR-10-P -> (perturbation, difficulty)."""

_SYNSET = re.compile(r"n\d{8}")
_NUMBER = re.compile(r"[0-9]{1,3}")
_EXPECTED = {
    "images": "class folders with images",
    "imagenet_v2": "class folders '0' to '999'",
    "imagenet_c": "folders of corruptions and severities such as 'fog/3' or 'weather/fog/3'",
    "imagenet_p": "folders of perturbations with class folders such as 'tilt/n01440764'",
    "cifar10_c": "'labels.npy' and arrays of corruptions such as 'fog.npy'",
    "cifar10_p": "arrays of perturbations such as 'tilt.npy'",
}
_SYNSET_FOLDERS = "class folders such as 'n01440764'"


def setting(name: str) -> str:
    """The setting that gives the folder of a set."""
    return f"evaluate.official.{name}"


def folder_of(name: str, folder: str) -> Path:
    """The folder, which is there; else `UserError`."""
    root = Path(folder).expanduser()
    if not root.exists():
        raise UserError(f"{setting(name)}: {root} does not exist (seen from {Path.cwd()}): correct the path")
    if not root.is_dir():
        raise UserError(f"{setting(name)}: {root} is a file: give the folder that it was unpacked to")
    return root


def check(name: str, folder: str) -> None:
    """Raises `UserError` in one line unless `folder` is there and looks like the set; it may still lack parts."""
    root = folder_of(name, folder)
    if _is_like(name, root):
        return
    inside = [one for one in folders_in(root) if _is_like(name, root / one)]
    remedy = f"give {root / inside[0]}" if inside else "give the folder that holds them"
    expected = _EXPECTED.get(name, _SYNSET_FOLDERS)
    raise UserError(f"{setting(name)}: {root} has no {expected} (found {_found(root)}): {remedy}")


def folders_in(root: Path) -> list[str]:
    """Names of the visible folders, sorted."""
    with told(root), os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def named_folders(name: str, root: Path, names: Iterable[str]) -> dict[str, Path]:
    """Which of the folders `names` there are, in `root` or one level below (the groups in which ImageNet-C and -P are
    handed out). `UserError` when one is there twice."""
    top = folders_in(root)
    wanted = set(names)
    places = [root / one for one in top if one in wanted]
    for group in top:
        if group not in wanted:
            places += [root / group / one for one in folders_in(root / group) if one in wanted]
    found: dict[str, Path] = {}
    for place in places:
        if place.name in found:
            twice = f"{found[place.name]} and {place}"
            raise UserError(f"{setting(name)}: '{place.name}' is there twice, {twice}: give the folder of one of them")
        found[place.name] = place
    return {one: found[one] for one in names if one in found}


def is_number(folder: str) -> bool:
    """Whether it names a class of ImageNet-V2, 0 to 999."""
    return bool(_NUMBER.fullmatch(folder))


def _is_like(name: str, root: Path) -> bool:
    match name:
        case "images":
            return bool(folders_in(root))
        case "imagenet_v2":
            return any(map(is_number, folders_in(root)))
        case "imagenet_c":
            places = named_folders(name, root, ALL_CORRUPTIONS).values()
            return any(level in SEVERITIES for place in places for level in folders_in(place))
        case "imagenet_p":
            return any(folders_in(place) for place in named_folders(name, root, CLIP_FOLDERS).values())
        case "cifar10_c":
            return (root / "labels.npy").is_file() and any((root / f"{one}.npy").is_file() for one in ALL_CORRUPTIONS)
        case "cifar10_p":
            return any((root / f"{one}.npy").is_file() for one in CLIP_FOLDERS)
        case _:
            return any(map(_SYNSET.fullmatch, folders_in(root)))


def _found(root: Path) -> str:
    """The first few names in a folder."""
    with told(root):
        names = sorted(name for name in os.listdir(root) if not name.startswith("."))
    if not names:
        return "nothing"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{printable(name)}'" for name in names[:3]) + more
