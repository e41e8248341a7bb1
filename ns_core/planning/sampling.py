"""A sample of a person's images, as a folder that prepare-dataset takes.

In: the data settings of a recipe and a share. Out: settings that are quickly prepared, and how many images there are.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ns_core.config import DataConfig
from ns_core.data.source import Part, RawSample, Source
from ns_core.data.sources import open_source
from ns_core.errors import UserError

WHOLE = 3_000
"""Up to so many images all are taken, in the splits they have."""
POOL_SAMPLE = 1_000
LABELLED_SAMPLE, OF_A_CLASS, FEWEST = 1_000, 20, 8
"""Labelled images in all, of a class at most, and of one that is taken at least."""
_OF_A_PART = 50
"""Images that are read before the next part is: a part may hold one class alone."""


class Sample(NamedTuple):
    """What is prepared in place of the recipe's own images."""

    data: DataConfig
    totals: dict[str, int]
    """Split -> images of the whole."""
    classes: int
    whole: bool


def sample(config: DataConfig, share: float | None, folder: Path) -> Sample:
    """`share`: of the pool; None: `POOL_SAMPLE` images. Writes into `folder` what is not taken whole.

    Raises `UserError` as the source does, and for a share that leaves nothing to measure.
    """
    source = open_source(config)
    totals: dict[str, int] = {split: sum(part.images for part in parts) for split, parts in source.parts.items()}
    images = sum(totals.values())
    if share == 1.0 or (share is None and images <= WHOLE):
        return Sample(config, totals, len(source.class_names), whole=True)
    wanted = POOL_SAMPLE if share is None else round(share * totals["pool"])
    if totals["pool"] and wanted < 1:
        raise UserError(f"--sample {share:g} of {totals['pool']} images in the pool is none: give a larger share")
    _write_pool(source, wanted, folder / "pool")
    _write_labelled(source, folder / "labeled")
    own = {"source": "folder", "labeled": str(folder / "labeled"), "unlabeled": str(folder / "pool")}
    data = config.model_copy(update={**own, "holdout": "", "test": "", "holdout_fraction": 0.25, "test_fraction": 0.25})
    return Sample(data, totals, len(source.class_names), whole=False)


def _write_pool(source: Source, wanted: int, folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, one in enumerate(islice(_spread(source.parts["pool"], wanted), wanted)):
        (folder / f"{number:08d}.{one.suffix or 'img'}").write_bytes(one.read())


def _write_labelled(source: Source, folder: Path) -> None:
    """Classes with too few images to be split are left out."""
    taken, chosen = Counter[int](), list[RawSample]()
    for one in islice(_spread(source.parts["labeled"], LABELLED_SAMPLE), 5 * LABELLED_SAMPLE):
        if one.label is not None and taken[one.label] < OF_A_CLASS and len(chosen) < LABELLED_SAMPLE:
            taken[one.label] += 1
            chosen.append(one)
    chosen = [one for one in chosen if one.label is not None and taken[one.label] >= FEWEST]
    if len({one.label for one in chosen}) < 2:
        raise UserError("too few labelled images for a sample: give --sample 1, or --no-measure for assumptions alone")
    for number, one in enumerate(chosen):
        place = folder / f"{one.label:05d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:08d}.{one.suffix or 'img'}").write_bytes(one.read())


def _spread(parts: Sequence[Part], wanted: int) -> Iterator[RawSample]:
    """Images of as many parts as are needed, in turn, so that neither one class nor one corner of the pool is all."""
    if not parts:
        return
    each = max(_OF_A_PART, -(-wanted // len(parts)))
    step = max(1, len(parts) * each // max(wanted, 1))
    for part in parts[::step]:
        yield from islice(part.samples(), each)
