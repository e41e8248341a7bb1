"""Pictures for the galleries of an evaluation's report: fixed, broken, and failing under the worst corruptions.

In: the tables of an evaluation and of its baseline, and what they looked at. Out: thumbnails in one small Parquet
file, made where the images are, so that whoever writes a report needs neither the dataset nor the network. Loads no
torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ns_core.data.images import CorruptImage
from ns_core.evaluation.reports.gallery import shrunk
from ns_core.evaluation.results import Corruptions, RobustnessReport
from ns_core.evaluation.samples import Samples
from ns_core.evaluation.tables import Predictions, Scene, Tables

EXAMPLES = "examples.parquet"
"""The file's name in the artifact."""
CHANGED = 24
"""Examples of fixed images at most, and of broken ones."""
WORST_CORRUPTIONS, OF_CORRUPTION = 3, 8
"""Corruptions with examples, and examples of each at most."""

CLEAN = (Scene("clean", "images"), Scene("clean", "test"))
"""Where fixed and broken images are looked for: the first that is there."""

Kind = Literal["fixed", "broken", "worst"]


@dataclass(frozen=True)
class Example:
    """One image of a gallery."""

    scene: Scene
    key: str
    kind: Kind
    """`fixed`: the baseline was wrong and this checkpoint is right; `broken`: the other way round. `worst`: wrong
    under one of the worst corruptions, and right without it where that is known."""
    label: int
    top1: int
    """What this checkpoint says."""
    confidence: float
    baseline_top1: int
    """What the baseline says of the same picture; -1 when that is not known."""
    image: bytes
    """A small PNG or JPEG file (`gallery.shrunk`)."""
    clean: bytes = b""
    """Of a `worst` one the same image uncorrupted; empty when it is not at hand."""


def collect(
    report: RobustnessReport, tables: Tables, baseline: Tables | None, samples: Mapping[Scene, Samples]
) -> list[Example]:
    """Examples of every kind, in the order in which a page shows them; the surest of each first.

    Args:
        report: whose means say which corruptions are the worst.
        tables: predictions of the same evaluation.
        baseline: those of the baseline; without it nothing is fixed or broken.
        samples: what the scenes look at; a scene that is not among them gives no examples, and neither does an image
            that cannot be read.
    """
    return [*_changed(tables, baseline, samples), *_worst(report, tables, baseline, samples)]


def write_examples(examples: list[Example], path: Path) -> None:
    """One Parquet file; the same examples give the same bytes."""
    rows = [{**asdict(one), **one.scene._asdict()} for one in examples]
    columns = [pa.array([row[field.name] for row in rows], field.type) for field in _SCHEMA]
    # Pictures are compressed already.
    pq.write_table(pa.table(columns, schema=_SCHEMA), path, compression="none")


def read_examples(source: Path | BinaryIO) -> list[Example]:
    """What `write_examples` wrote; from an open file too, to be read and sought."""
    table = pq.read_table(source)
    rows = table.to_pylist()
    return [Example(Scene(row.pop("suite"), row.pop("name"), row.pop("level")), **row) for row in rows]


_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("suite", "name", "level", "key", "kind")),
        *((name, pa.int32()) for name in ("label", "top1")),
        ("confidence", pa.float32()),
        ("baseline_top1", pa.int32()),
        *((name, pa.binary()) for name in ("image", "clean")),
    ]
)


def _changed(tables: Tables, baseline: Tables | None, samples: Mapping[Scene, Samples]) -> Iterator[Example]:
    """Fixed images, then broken ones, of the clean scene."""
    if baseline is None:
        return
    scene = next((one for one in CLEAN if one in tables and one in baseline), None)
    if scene is None or scene not in samples:
        return
    look, mine = _Look(scene, samples[scene], baseline), tables.predictions(scene).readable()
    before = _right(baseline, scene)
    kinds: tuple[Kind, ...] = ("fixed", "broken")
    for kind in kinds:
        wanted = kind == "fixed"  # right now, and not before
        now = enumerate(zip(mine.key, mine.right, strict=True))
        rows = [row for row, (key, right) in now if right == wanted and before.get(key, wanted) != wanted]
        yield from look.examples(kind, mine, rows, CHANGED)


def _worst(
    report: RobustnessReport, tables: Tables, baseline: Tables | None, samples: Mapping[Scene, Samples]
) -> Iterator[Example]:
    """Mistakes at the highest severity of the corruptions with the highest mean error.

    Of one suite: of official files rather than of the same corruptions made on the fly.
    """
    suites = {"imagenet_c": report.imagenet_c, "cifar10_c": report.cifar10_c, "corruptions": report.corruptions}
    for suite, measured in suites.items():
        if measured is None:
            continue
        scenes = [_hardest(suite, name, measured) for name in measured.means]
        order = sorted(scenes, key=lambda one: (-measured.means[one.name], one.name))
        at_hand = [scene for scene in order if scene in tables and scene in samples]
        for scene in at_hand[:WORST_CORRUPTIONS]:
            mine = tables.predictions(scene).readable()
            clean = _clean_of(mine, tables)
            right = _right(tables, clean) if clean else {}
            look = _Look(scene, samples[scene], baseline, samples.get(clean) if clean else None)
            rows = [row for row, key in enumerate(mine.key) if not mine.right[row] and right.get(key, not clean)]
            yield from look.examples("worst", mine, rows, OF_CORRUPTION)
        return


def _hardest(suite: str, name: str, measured: Corruptions) -> Scene:
    return Scene(suite, name, max(measured.errors[name], key=float))


def _clean_of(mine: Predictions, tables: Tables) -> Scene | None:
    """The clean scene with the same source images; None where no image is in any."""
    for scene in CLEAN:
        if scene in tables and np.isin(mine.key, tables.predictions(scene).key).any():
            return scene
    return None


def _right(tables: Tables, scene: Scene) -> dict[str, bool]:
    """Key -> whether the prediction is right, of the images that could be read."""
    said = tables.predictions(scene).readable()
    return dict(zip(said.key.tolist(), said.right.tolist(), strict=True))


class _Look:
    """Reads the pictures of one scene."""

    def __init__(self, scene: Scene, samples: Samples, baseline: Tables | None, clean: Samples | None = None) -> None:
        """`clean`: where the same images are uncorrupted."""
        self._scene, self._samples, self._clean = scene, samples, clean
        self._numbers = {key: number for number, key in enumerate(samples.keys)}
        self._clean_numbers = {key: number for number, key in enumerate(clean.keys)} if clean else {}
        before = baseline.predictions(scene).readable() if baseline is not None and scene in baseline else None
        self._before = dict(zip(before.key.tolist(), before.top1.tolist(), strict=True)) if before else {}

    def examples(self, kind: Kind, mine: Predictions, rows: Sequence[int], limit: int) -> Iterator[Example]:
        """The surest of `rows` whose pictures can be read, at most `limit`."""
        order = sorted(rows, key=lambda row: (-mine.confidence[row], mine.key[row]))
        return islice(filter(None, (self._example(kind, mine, row) for row in order)), limit)

    def _example(self, kind: Kind, mine: Predictions, row: int) -> Example | None:
        key = str(mine.key[row])
        image = _picture(self._samples, self._numbers.get(key))
        if not image:
            return None
        return Example(
            scene=self._scene,
            key=key,
            kind=kind,
            label=int(mine.label[row]),
            top1=int(mine.top1[row]),
            confidence=float(mine.confidence[row]),
            baseline_top1=self._before.get(key, -1),
            image=image,
            clean=_picture(self._clean, self._clean_numbers.get(key)) if self._clean else b"",
        )


def _picture(samples: Samples, number: int | None) -> bytes:
    """A thumbnail; empty where there is no such picture, or none that can be read."""
    try:
        return shrunk(samples.image(number)) if number is not None else b""
    except CorruptImage:
        return b""
