"""Source `imagenet`: ImageNet (ILSVRC 2012) as it is handed out, no file moved.

In: `labeled`, a root in one of two layouts, `unlabeled`, and perhaps `holdout`, a folder by class:

    train/<wnid>/*   val/<wnid>/*                   as most training scripts want it
    ILSVRC/Data/CLS-LOC/{train/<wnid>,val}/*        Kaggle's archive, unpacked, with or without the folder ILSVRC

Where `val` has no folders, `LOC_val_solution.csv` in the root says the classes of its images. Out: a `Source`:
`val` is the test split, the holdout is a fraction of `train` unless it is given, the classes are the wnids in
order, named as in `LOC_synset_mapping.txt` where the root has that.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ns_core.config import DataConfig
from ns_core.data.folders import (
    check_classes,
    folder_roots,
    images_by_class,
    in_path_order,
    pool_images,
    printable,
    read_file,
    walk,
)
from ns_core.data.index import Split
from ns_core.data.source import Source
from ns_core.data.sources.digests import file_digests, tree_digest
from ns_core.data.sources.kind import Kind
from ns_core.data.sources.parts import Files, file_parts, files
from ns_core.data.sources.splits import by_fraction, labelled
from ns_core.errors import UserError

SOLUTION, MAPPING = "LOC_val_solution.csv", "LOC_synset_mapping.txt"
_LAYOUTS = ("", "Data/CLS-LOC/", "ILSVRC/Data/CLS-LOC/")

Classes = dict[str, list[str]]
"""wnid -> image paths below the field's folder; both sorted."""


@dataclass(frozen=True)
class _Tree:
    roots: dict[str, Path]
    """Field -> folder."""
    train: Classes
    val: Classes
    holdout: Classes | None
    pool: list[str]


def imagenet(config: DataConfig) -> Source:
    """ImageNet, in parts. Raises `UserError` for whatever is wrong with the folders or lists, in one line."""
    tree = _scan(config)
    root = tree.roots["labeled"]
    names = _names(root, list(tree.train))
    plan: dict[Split, list[Files]] = {
        "test": [files("labeled", root, *labelled(_in_order(tree.val, tree.train)))],
        "pool": [files("unlabeled", tree.roots["unlabeled"], tree.pool)],
    }
    if tree.holdout is not None:
        images = labelled(_in_order(tree.holdout, tree.train))
        plan["holdout"] = [files("holdout", tree.roots["holdout"], *images)]
    for split, images in by_fraction(list(tree.train.values()), names, config, plan).items():
        plan[split] = [files("labeled", root, *images)]
    return Source(names, file_parts(plan, config.shard_images))


def digest(config: DataConfig) -> str:
    """sha256 over (field, path below it, sha256 of the bytes) of all images and of the lists that are used."""
    return tree_digest("imagenet", _entries(config))


def _entries(config: DataConfig) -> Iterator[tuple[str, bytes]]:
    tree = _scan(config)
    lists = [name for name in (SOLUTION, MAPPING) if (tree.roots["labeled"] / name).exists()]
    for field, paths in (
        ("labeled", lists),
        ("labeled", list(in_path_order(tree.train))),
        ("labeled", list(in_path_order(tree.val))),
        ("holdout", list(in_path_order(tree.holdout or {}))),
        ("unlabeled", tree.pool),
    ):
        digests = file_digests(f"{tree.roots[field]}/{path}" for path in paths)
        yield from ((f"{field}/{path}", content) for path, content in zip(paths, digests, strict=True))


def _in_order(classes: Classes, train: Classes) -> list[list[str]]:
    return [classes[wnid] for wnid in train]


def _scan(config: DataConfig) -> _Tree:
    """Lists all folders and checks them against each other."""
    if config.test:
        raise UserError("data.test is set: the source imagenet tests on its own val; unset data.test")
    roots = folder_roots(config)
    root = roots["labeled"]
    base = next((layout for layout in _LAYOUTS if (root / layout / "train").is_dir()), None)
    if base is None:
        raise UserError(
            f"data.labeled: {root} has neither train nor Data/CLS-LOC/train: give ImageNet's root, the folder that "
            "holds one of them"
        )
    train = images_by_class("labeled", root, f"{base}train")
    val = _val(root, f"{base}val")
    holdout = images_by_class("holdout", roots["holdout"]) if "holdout" in roots else None
    check_classes(f"data.labeled: {root / base / 'train'}", train, train)
    check_classes(f"data.labeled: {root / base / 'val'}", val, train)
    if holdout is not None:
        check_classes(f"data.holdout: {roots['holdout']}", holdout, train)
    return _Tree(roots, train, val, holdout, pool_images(roots["unlabeled"]))


def _val(root: Path, below: str) -> Classes:
    """The images of `root / below`, by the folder or by the list."""
    folder = root / below
    if not folder.is_dir():
        raise UserError(f"data.labeled: {folder} does not exist: put ImageNet's validation images there")
    if any(entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith(".")):
        return images_by_class("labeled", root, below)
    solution = root / SOLUTION
    if not solution.exists():
        raise UserError(
            f"data.labeled: {folder} has no class folders and {solution} does not exist: put Kaggle's {SOLUTION} "
            "there, or sort the images into folders"
        )
    answers = _answers(solution)
    classes: Classes = {}
    for path in walk(root, below):
        wnid = answers.get(Path(path).stem)
        if wnid is None:
            raise UserError(f"{solution} does not say the class of {printable(path)}: complete it, or remove the image")
        classes.setdefault(wnid, []).append(path)
    return {wnid: classes[wnid] for wnid in sorted(classes)}


def _answers(solution: Path) -> dict[str, str]:
    """Image -> wnid, from lines like `ILSVRC2012_val_00048981,n03995372 85 1 499 272`."""
    answers = {}
    lines = read_file(solution).decode("utf-8-sig", "replace").splitlines()
    for number, row in enumerate(csv.reader(lines), start=1):
        if number == 1 or not row:
            continue
        if len(row) < 2 or not row[1].split():
            raise UserError(
                f"{solution}, line {number}: no class; lines are like 'ILSVRC2012_val_00000001,n01440764 ...'"
            )
        answers[row[0]] = row[1].split()[0]
    return answers


def _names(root: Path, wnids: list[str]) -> tuple[str, ...]:
    """Of the classes: those of the mapping, with the wnid behind where two share one (crane, maillot)."""
    mapping = root / MAPPING
    if not mapping.exists():
        return tuple(map(printable, wnids))
    lines = read_file(mapping).decode("utf-8-sig", "replace").splitlines()
    known = {wnid: name.strip() for wnid, _, name in (line.partition(" ") for line in lines)}
    if missing := [wnid for wnid in wnids if not known.get(wnid)]:
        raise UserError(f"{mapping} has no name for class {printable(missing[0])}: complete it, or remove it")
    often = Counter(known[wnid] for wnid in wnids)
    return tuple(known[wnid] if often[known[wnid]] == 1 else f"{known[wnid]} ({wnid})" for wnid in wnids)


IMAGENET = Kind(imagenet, digest, imagenet)
