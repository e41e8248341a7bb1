"""Parts of images that are files.

In: for each split, runs of paths below a folder. Out: `Part`s that read them, at most so many images each. A
million paths of 30 characters take about 100 MB: nothing but the strings is held, and a list of pointers to them.
"""

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from ns_core.data.folders import printable, read_file, suffix
from ns_core.data.index import SPLITS, Split
from ns_core.data.source import Part, RawSample


@dataclass(frozen=True)
class Files:
    """Images of one split below one folder, by the bytes of their paths."""

    field: str
    """Of `DataConfig`, which names the folder."""
    root: Path
    paths: list[str]
    """Relative to the folder, with `/`."""
    labels: "array[int] | None" = None
    """Class index of each; None in the pool."""


def files(field: str, root: Path, paths: list[str], labels: "array[int] | None" = None) -> Files:
    """Sorted, if they are not yet."""
    if not all(os.fsencode(before) <= os.fsencode(after) for before, after in pairwise(paths)):
        order = sorted(range(len(paths)), key=lambda n: os.fsencode(paths[n]))
        paths = [paths[n] for n in order]
        labels = None if labels is None else array("i", (labels[n] for n in order))
    return Files(field, root, paths, labels)


def file_parts(plan: Mapping[Split, Sequence[Files]], shard_images: int) -> dict[Split, list[Part]]:
    """The parts of all splits; no part has images of two runs."""
    return {split: list(_parts(split, plan.get(split, ()), shard_images)) for split in SPLITS}


def _parts(split: Split, runs: Iterable[Files], shard_images: int) -> Iterator[Part]:
    number = before = 0
    for run in runs:
        for start in range(0, len(run.paths), shard_images):
            rows = range(start, min(start + shard_images, len(run.paths)))
            yield Part(split, number, len(rows), partial(_samples, split, run, rows, before))
            number += 1
        before += len(run.paths)


def _samples(split: Split, run: Files, rows: range, before: int) -> Iterator[RawSample]:
    """`before`: images of the split in the runs above this one."""
    for row in rows:
        path = run.paths[row]
        yield RawSample(
            split=split,
            key=f"{split}-{before + row:09d}",
            label=None if run.labels is None else run.labels[row],
            suffix=suffix(path),
            path=printable(f"{run.field}/{path.lstrip('/')}"),
            read=partial(read_file, run.root / path),
        )
