"""The robustness benchmarks' own files, as their authors pack them: ImageNet-A, -R, -O, -V2, -Sketch, -C and -P,
CIFAR-10-C and -P, and any folder of labelled images (`OfficialSets` of the configuration).

In: a folder. Out: what an evaluation looks at, scene by scene, and the gaps: what should be there and is not. A missing
corruption, a class folder that nobody knows, a corruption that lacks images: each is named, and the rest is measured.

    layout.py          what each set looks like on disk
    identity.py        digests of what lies there
    imagenet_index.py  the lists of ImageNet's classes that timm ships
    class_folders.py   images in class folders, and whose classes they are
    natural.py         the sets of natural images
    parallel.py        many scenes of the same source images
    imagenet_c.py      corruptions
    imagenet_p.py      clips
    cifar10.py         CIFAR-10-C and -P

`check` and `digest` are for orchestrators, which have neither torch nor timm nor OpenCV.
"""

from collections.abc import Sequence

from ns_core.config.evaluation import OfficialSets
from ns_core.evaluation.samples import Opened, Samples
from ns_core.evaluation.sets.identity import digest
from ns_core.evaluation.sets.layout import check, folder_of

__all__ = ["NAMES", "check", "digest", "open_set"]

NAMES: tuple[str, ...] = tuple(OfficialSets.model_fields)
"""Of the sets."""


def open_set(
    name: str, folder: str, class_names: Sequence[str], images: Samples | None, budget: int, seed: int
) -> Opened:
    """The scenes of a set, its images listed and none decoded but a few that tell its size.

    `class_names`: the checkpoint's classes, to which all labels refer. `images`: clean images, of which those of the
    same classes are measured beside ImageNet-A, -R, -O, -V2 and -Sketch. `budget`: images or clips of each scene, a
    stratified draw by `seed` that is the same for all scenes of a set; 0: all. Raises `UserError`, as `check` does, and
    when no class of the set is one of the checkpoint's.
    """
    check(name, folder)
    # OpenCV and timm's files are only where workers are.
    from ns_core.evaluation.sets import cifar10, imagenet_c, imagenet_p, natural

    root, draw = folder_of(name, folder), (budget, seed)
    match name:
        case "imagenet_c":
            return imagenet_c.open_set(root, class_names, *draw)
        case "imagenet_p":
            return imagenet_p.open_set(root, class_names, *draw)
        case "cifar10_c":
            return cifar10.open_corruptions(root, class_names, *draw)
        case "cifar10_p":
            return cifar10.open_perturbations(root, class_names, *draw)
        case _:
            return natural.open_set(name, root, class_names, images, *draw)
