"""ImageNet-C: JPEGs of 15 + 4 corruptions at 5 severities, already cropped.

Layout: `<corruption>/<1..5>/<class>/*.JPEG`, or the same below the folders of the five archives (`weather/fog/3`).
Tiny-ImageNet-C, at 64 pixels, is laid out alike. In: the folder. Out: a scene for each corruption and severity, all of
the same source images; a gap for each that is not there.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ns_core.data.images import CorruptImage
from ns_core.evaluation.results import Gap
from ns_core.evaluation.samples import Opened
from ns_core.evaluation.sets.class_folders import IMAGES, FolderSamples, read_image
from ns_core.evaluation.sets.layout import ALL_CORRUPTIONS, SEVERITIES, folders_in, named_folders
from ns_core.evaluation.sets.parallel import Files, list_scenes, title
from ns_core.evaluation.tables import Scene

SUITE = "imagenet_c"


def open_set(root: Path, class_names: Sequence[str], budget: int, seed: int) -> Opened:
    """Arguments and errors as of `sets.open_set`. All images must have the size that most of a few have."""
    corruptions = named_folders(SUITE, root, ALL_CORRUPTIONS)
    gaps = [
        Gap(suite=SUITE, what=name, reason="the folder is not there")
        for name in ALL_CORRUPTIONS
        if name not in corruptions
    ]
    places: dict[Scene, Path] = {}
    for name, folder in corruptions.items():
        levels = folders_in(folder)
        for level in SEVERITIES:
            scene = Scene(SUITE, name, level)
            if level in levels:
                places[scene] = folder / level
            else:
                gaps.append(Gap(suite=SUITE, what=title(scene), reason="the folder is not there"))
    scenes, more = list_scenes(places, class_names, IMAGES, budget, seed)
    size = _usual_size(scenes.values())
    samples = {
        scene: FolderSamples(files.root, files.paths, files.keys, files.labels, view="whole", size=size)
        for scene, files in scenes.items()
    }
    return Opened(samples, gaps=gaps + more)


def _usual_size(scenes: Iterable[Files]) -> tuple[int, int] | None:
    """(height, width) of most of the first, middle and last images of the scenes; None when none can be read."""
    sizes: Counter[tuple[int, int]] = Counter()
    for files in scenes:
        for at in sorted({0, len(files.paths) // 2, len(files.paths) - 1}):
            try:
                height, width = read_image(files.root / files.paths[at]).shape[:2]
            except CorruptImage:
                continue
            sizes[height, width] += 1
    return max(sizes, key=lambda size: (sizes[size], size)) if sizes else None
