"""prepare-dataset: a person's images become a dataset artifact.

In: what `data.sources` finds. Out, in `context.output`: the shards of each split, `index.parquet`,
`classes.json`, and what was left out and why: `corrupt.parquet` and `dropped.parquet`
(both: split, key, path, reason). The same images and settings give the same bytes.

Each image is decoded once, to the last pixel, so that no later stage meets one that cannot be. Leak guard:
an image whose bytes are also in the test split is kept there only, and one of the holdout only there; the
totals of kept, corrupt and leaked images add up to what came in. Nothing is resumed: a killed attempt
starts again.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import JsonValue

from ns_core.config import DataConfig
from ns_core.data.images import CorruptImage, inspect
from ns_core.data.index import (
    CLASSES,
    INDEX,
    SPLITS,
    IndexRow,
    Split,
    write_classes,
    write_index,
)
from ns_core.data.shards import ShardImage, ShardWriter
from ns_core.data.sources import RawSample, Source, in_order, open_source
from ns_core.errors import UserError
from ns_core.stage import StageContext, Stopped

CORRUPT, DROPPED = "corrupt.parquet", "dropped.parquet"
_LEFT_OUT: pa.Schema = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("split", "key", "path", "reason")]
)
LEAK = "leak"
"""Why an image is in `dropped.parquet`: its bytes are also in the holdout or the test split."""

_ORDER: tuple[Split, ...] = ("test", "holdout", "labeled", "pool")
"""What is judged on comes first: whatever equals it is then dropped from the splits that follow."""
_JUDGED: tuple[Split, ...] = ("test", "holdout")
_CLASS_NAMES = 1000
"""Names in the result document, which goes into every record and log; all are in `classes.json`."""


def run(config: DataConfig, context: StageContext) -> dict[str, JsonValue]:
    """Writes the dataset and returns its totals.

    Raises `UserError` for a mistake in folders or settings, for more corrupt images than
    `max_corrupt_fraction`, and for a class or split that has no image left; `Stopped` after SIGTERM.
    """
    source = open_source(config)
    ledger = _Ledger(config, source)
    write_index(context.output / INDEX, _rows(ledger, context))
    _check_corrupt(ledger)
    write_classes(context.output / CLASSES, source.class_names)
    _write_left_out(context.output / CORRUPT, ledger.corrupt)
    _write_left_out(context.output / DROPPED, ledger.dropped)
    kept, leaks, corrupt = sum(ledger.kept.values()), len(ledger.dropped), len(ledger.corrupt)
    assert kept + corrupt + leaks == ledger.total, (kept, corrupt, leaks, ledger.total)
    assert _keys_are_unique(context.output / INDEX)
    return {
        "classes": len(source.class_names),
        "class_names": list(source.class_names[:_CLASS_NAMES]),
        **{split: ledger.kept[split] for split in SPLITS},
        "corrupt": corrupt,
        "leaks": leaks,
        "images": ledger.total,
        "shards": ledger.shards,
    }


@dataclass(frozen=True)
class _LeftOut:
    sample: RawSample
    reason: str


@dataclass
class _Ledger:
    """Where every image of the source went."""

    config: DataConfig
    source: Source
    kept: Counter[Split] = field(default_factory=Counter)
    labelled: Counter[int] = field(default_factory=Counter)
    """Labelled images kept of each class index."""
    corrupt: list[_LeftOut] = field(default_factory=list)
    dropped: list[_LeftOut] = field(default_factory=list)
    judged: dict[str, Split] = field(default_factory=dict)
    """sha256 of each test and holdout image -> its split."""
    shards: int = 0

    @property
    def total(self) -> int:
        return sum(self.source.counts.values())

    @property
    def seen(self) -> int:
        return sum(self.kept.values()) + len(self.corrupt) + len(self.dropped)


@dataclass(frozen=True)
class _Examined:
    """A sample and either its image or why there is none."""

    sample: RawSample
    image: ShardImage | None
    reason: str = ""


def _rows(ledger: _Ledger, context: StageContext) -> Iterator[IndexRow]:
    """Writes all shards; the rows of the index as they come about."""
    threads = context.compute.threads or os.cpu_count() or 1
    for split in _ORDER:
        with ShardWriter(context.output, split, ledger.config.shard_images) as writer:
            for examined in in_order(_examine, ledger.source.samples(split), threads):
                if context.stopping():
                    raise Stopped
                if (image := _admit(examined, ledger)) is not None:
                    yield writer.add(image)
                context.progress(ledger.seen, ledger.total, split)
        ledger.shards += writer.shards
        _check_left(split, ledger)


def _examine(sample: RawSample) -> _Examined:
    """Reads and decodes one sample; runs on many threads."""
    data = sample.read()
    try:
        info = inspect(data)
    except CorruptImage as error:
        return _Examined(sample, None, str(error))
    image = ShardImage(
        key=sample.key,
        suffix=sample.suffix,
        data=data,
        label=sample.label,
        width=info.width,
        height=info.height,
        sha256=hashlib.sha256(data).hexdigest(),
        path=sample.path,
    )
    return _Examined(sample, image)


def _admit(examined: _Examined, ledger: _Ledger) -> ShardImage | None:
    """The image if it is to be kept; the ledger says where it went in any case."""
    sample, image = examined.sample, examined.image
    if image is None:
        ledger.corrupt.append(_LeftOut(sample, examined.reason))
        return None
    if ledger.judged.get(image.sha256, sample.split) != sample.split:
        ledger.dropped.append(_LeftOut(sample, LEAK))
        return None
    if sample.split in _JUDGED:
        ledger.judged[image.sha256] = sample.split
    ledger.kept[sample.split] += 1
    if sample.split == "labeled" and sample.label is not None:
        ledger.labelled[sample.label] += 1
    return image


def _check_left(split: Split, ledger: _Ledger) -> None:
    """A finished split still has images, and the labelled one some of each class."""
    left_out = [out for out in ledger.corrupt + ledger.dropped if out.sample.split == split]
    if not ledger.kept[split]:
        raise UserError(f"the {split} split has no image left: {_examples(left_out)}; add other images")
    if split == "labeled":
        for label, name in enumerate(ledger.source.class_names):
            if not ledger.labelled[label]:
                of_class = [out for out in left_out if out.sample.label == label]
                raise UserError(f"class '{name}' has no labelled image left: {_examples(of_class)}; add other images")


def _check_corrupt(ledger: _Ledger) -> None:
    share, limit = len(ledger.corrupt) / ledger.total, ledger.config.max_corrupt_fraction
    if share > limit:
        raise UserError(
            f"{len(ledger.corrupt)} of {ledger.total} images ({share:.2%}) cannot be decoded: "
            f"{_examples(ledger.corrupt)}; mend or remove them, or raise data.max_corrupt_fraction "
            f"(now {limit:g})"
        )


def _examples(left_out: list[_LeftOut]) -> str:
    """For a person: the first three with their reasons, and how many more."""
    words = {LEAK: "the same bytes as a holdout or test image"}
    first = ", ".join(f"{out.sample.path} ({words.get(out.reason, out.reason)})" for out in left_out[:3])
    return f"{first} and {len(left_out) - 3} more" if len(left_out) > 3 else first


def _write_left_out(path: Path, left_out: list[_LeftOut]) -> None:
    rows = [
        {"split": out.sample.split, "key": out.sample.key, "path": out.sample.path, "reason": out.reason}
        for out in left_out
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=_LEFT_OUT), path, compression="zstd")


def _keys_are_unique(index: Path) -> bool:
    """Over all splits; a `ShardWriter` sees to it within one."""
    keys = pq.read_table(index, columns=["key"])["key"]
    return bool(pc.count_distinct(keys).as_py() == len(keys))
