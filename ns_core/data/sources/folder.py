"""Source `folder`: folders of images, `labeled/<class>/**` and `unlabeled/**`; `holdout`, `test` like `labeled`.

In: the four fields of `DataConfig`. Out: a `Source`. A split without a folder of its own takes its fraction of
each labelled class, at least one image of each, and leaves at least one.
"""

from collections.abc import Iterator

from ns_core.config import DataConfig
from ns_core.data.folders import printable, scan
from ns_core.data.index import Split
from ns_core.data.source import Source
from ns_core.data.sources.digests import file_digests, tree_digest
from ns_core.data.sources.kind import Kind
from ns_core.data.sources.parts import Files, file_parts, files
from ns_core.data.sources.splits import by_fraction, labelled

_GIVEN: tuple[Split, ...] = ("holdout", "test")


def folder(config: DataConfig) -> Source:
    """The images of the folders, in parts.

    Hidden files and folders are passed over, links are followed. Raises `UserError` for whatever is wrong with
    the folders, in one line.
    """
    tree = scan(config)
    names = tuple(map(printable, tree.classes))
    plan: dict[Split, list[Files]] = {"pool": [files("unlabeled", tree.roots["unlabeled"], tree.pool)]}
    for split in _GIVEN:
        if split in tree.by_class:
            images = labelled(list(tree.by_class[split].values()))
            plan[split] = [files(split, tree.roots[split], *images)]
    for split, images in by_fraction(list(tree.by_class["labeled"].values()), names, config, plan).items():
        plan[split] = [files("labeled", tree.roots["labeled"], *images)]
    return Source(names, file_parts(plan, config.shard_images))


def digest(config: DataConfig) -> str:
    """sha256 over the sorted (field, path below it, sha256 of the bytes) of all images: a moved folder keeps it,
    one changed byte does not."""
    return tree_digest("folder", _entries(config))


def _entries(config: DataConfig) -> Iterator[tuple[str, bytes]]:
    tree = scan(config)
    digests = file_digests(f"{tree.roots[field]}/{path}" for field, path in tree.files())
    for (field, path), content in zip(tree.files(), digests, strict=True):
        yield f"{field}/{path}", content


FOLDER = Kind(folder, digest, folder)
