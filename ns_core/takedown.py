"""Which models saw given images: what a takedown asks.

In: words, each an image's key in a dataset or the sha256 of its bytes, and the lineage of a store. Out: a `Takedown`.

An image is found in the index of every dataset by its key or its bytes, and an image that was named by its key also by
its bytes, in datasets where it has another key. Then, by its split there:

    labeled   every checkpoint that was trained on the dataset saw it: teachers, students, finetuned
    pool      the students whose `selection.parquet` keeps it saw it; a network that labels it learns nothing of it
    holdout   no training saw it; it was used to choose: the gate, temperatures, the best state of a training
    test      no training saw it; reports were measured on it

A checkpoint that started from the weights of one that saw an image (a finetuned one, a student with
`student.start=teacher`) saw it, too. `indirect` are those that descend from one that saw it in any other way: their
pseudo-labels or their selection were made with it.

Tables are read in batches, of those in S3 only the columns that are asked for; memory holds the words, what was found
of them, and a batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ns_core.artifacts import Dataset, Finetuned, Imported, Paths, Record, Report, Selection, Student
from ns_core.data.index import CORRUPT_FILE, DROPPED_FILE, INDEX
from ns_core.errors import NotFound, StageFailed
from ns_core.lineage import CHECKPOINTS, Lineage
from ns_core.storage import Storage
from ns_core.storage.ranged import RemoteFiles

SELECTION = "selection.parquet"
_BATCH = 1 << 18
"""Rows at a time. Each batch makes a hash table of all words: an index of 2 million images and a selection of a million
took 1.0 CPU second for 100 words, and 10.8 with 1.2 GB at the peak for a million."""
_FOUND = pa.schema([(name, pa.large_string()) for name in ("key", "split", "sha256", "path")])


@dataclass(frozen=True)
class Hit:
    """The asked images in one dataset."""

    dataset: str
    images: pa.Table
    """Columns key, split, sha256, path."""
    left_out: int
    """Asked images that prepare-dataset left out, as corrupt or as leaks: no split holds them."""
    selected: Mapping[str, int]
    """Selection of this pool -> how many of the asked images it keeps."""

    def count(self, split: str) -> int:
        """Asked images in a split."""
        return int(pc.sum(pc.equal(self.images["split"], split)).as_py() or 0)


@dataclass(frozen=True)
class Takedown:
    """What was found; artifacts by folder, sorted."""

    hits: list[Hit]
    direct: dict[str, list[str]]
    """Checkpoint -> why it saw asked images, in words."""
    indirect: list[str]
    judged: dict[str, list[str]]
    """Report -> the judged splits, holdout or test, with asked images that it rests on."""
    untold: dict[str, str]
    """Checkpoint -> why it cannot be told what it saw; none that is affected anyway."""
    unknown: list[str]
    """Words that are in no dataset."""

    @property
    def affected(self) -> set[str]:
        """All checkpoints that saw asked images, or descend from such."""
        return {*self.direct, *self.indirect}


def take_down(
    storage: Storage, lineage: Lineage, words: Sequence[str], within: frozenset[str] | None = None
) -> Takedown:
    """Follows the images that `words` name; `within`: through these artifacts only.

    Raises `StageFailed` for a dataset or selection whose table is gone.
    """
    names = [name for name in sorted(lineage.made) if within is None or name in within]
    asked = pc.unique(pa.array(words, pa.large_string()))
    hits, known = _hits(storage, lineage, names, asked)
    direct = _direct(lineage, hits, frozenset(names))
    reached = lineage.descendants(direct) & set(names)
    checkpoints = {name for name in names if lineage.made[name].stage in CHECKPOINTS}
    affected = checkpoints & reached
    untold = {name: _untold(lineage, name) for name in sorted(checkpoints - affected)}
    return Takedown(
        hits=hits,
        direct=dict(sorted(direct.items())),
        indirect=sorted(affected - direct.keys()),
        judged=_judged(lineage, hits, names),
        untold={name: why for name, why in untold.items() if why},
        unknown=asked.filter(pc.invert(pc.is_in(asked, known))).to_pylist(),
    )


def _hits(storage: Storage, lineage: Lineage, names: Sequence[str], asked: pa.Array) -> tuple[list[Hit], pa.Array]:
    """The asked images by dataset, and the words that were found."""
    tables = {name: _Tables(storage, lineage, name) for name in names if lineage.made[name].stage == Dataset.stage}
    found = {name: table.images(asked, asked) for name, table in tables.items()}
    bytes_of = pc.unique(pa.concat_arrays([_column(table, "sha256") for table in found.values()] or [asked[:0]]))
    others = bytes_of.filter(pc.invert(pc.is_in(bytes_of, asked)))
    if len(others):  # images named by key: the same bytes under other keys
        found = {name: table.images(asked, pa.concat_arrays([asked, others])) for name, table in tables.items()}
    known, hits = [asked[:0]], []
    for name, images in found.items():
        left_out = tables[name].left_out(asked)
        known += [_column(images, "key"), _column(images, "sha256"), left_out]
        if images.num_rows or len(left_out):
            pool = _column(images.filter(pc.equal(images["split"], "pool")), "key")
            selections = [user for role, user in lineage.uses(name) if role == "dataset" and user in names]
            kept = {
                user: _Tables(storage, lineage, user).selected(pool)
                for user in selections
                if len(pool) and lineage.made[user].stage == Selection.stage
            }
            hits.append(Hit(name, images, len(left_out), {user: count for user, count in kept.items() if count}))
    return hits, pa.concat_arrays(known)


def _direct(lineage: Lineage, hits: Sequence[Hit], names: frozenset[str]) -> dict[str, list[str]]:
    """Checkpoint -> why it saw asked images."""
    direct: dict[str, list[str]] = {}
    for hit in hits:
        labeled = hit.count("labeled")
        for role, user in lineage.uses(hit.dataset):
            if labeled and role == "dataset" and user in names and lineage.made[user].stage in CHECKPOINTS:
                direct.setdefault(user, []).append(f"trained on {labeled} labelled in {hit.dataset}")
        for selection, count in hit.selected.items():
            for role, user in lineage.uses(selection):
                if role == "selection" and user in names and lineage.made[user].stage == Student.stage:
                    direct.setdefault(user, []).append(f"trained on {count} pseudo-labelled of {selection}")
    waiting = list(direct)
    while waiting:
        saw = waiting.pop()
        for role, user in lineage.uses(saw):
            if user in names and user not in direct and _starts_from(lineage.made[user].stage, role):
                direct[user] = [f"started from the weights of {saw}"]
                waiting.append(user)
    return direct


def _starts_from(stage: str, role: str) -> bool:
    """Whether an artifact continues the weights of its input; a student has its teacher as input for nothing else."""
    return (stage, role) in {(Finetuned.stage, "student"), (Student.stage, "teacher")}


def _untold(lineage: Lineage, name: str) -> str:
    """Why it cannot be told what a checkpoint saw, looking back as far as the store goes; empty if it can."""
    before = lineage.ancestors([name])
    if elsewhere := sorted(one for one in before if lineage.made[one].stage == Imported.stage):
        return f"{elsewhere[0]} was made elsewhere"
    if lost := sorted(one.name for each in before for one in lineage.inputs(each) if one.kind == "missing"):
        return f"{lost[0]} is not in this store"
    return ""


def _judged(lineage: Lineage, hits: Sequence[Hit], names: Sequence[str]) -> dict[str, list[str]]:
    judged: dict[str, list[str]] = {}
    for hit in hits:
        splits = [f"{split} ({hit.count(split)})" for split in ("holdout", "test") if hit.count(split)]
        for role, user in lineage.uses(hit.dataset):
            if splits and role == "dataset" and user in names and lineage.made[user].stage == Report.stage:
                judged.setdefault(user, []).extend(splits)
    return dict(sorted(judged.items()))


class _Tables:
    """The tables of one artifact, read where they lie."""

    def __init__(self, storage: Storage, lineage: Lineage, name: str) -> None:
        self._name, self._uri = name, storage.uri
        made = lineage.made[name]
        try:
            record = Record.model_validate_json(storage.read(Paths(made.stage, made.fingerprint).record))
        except NotFound:
            raise StageFailed(f"{storage.uri}/{name} was removed meanwhile: run the same command again") from None
        self._files = RemoteFiles(storage, record.prefix, {file: entry.size for file, entry in record.files.items()})

    def images(self, keys: pa.Array, digests: pa.Array) -> pa.Table:
        """Rows of the index whose key or content hash is one of these; columns of `_FOUND`."""
        found = [_FOUND.empty_table()]
        for batch in self._batches(INDEX, ["key", "split", "sha256", "path"]):
            mine = pc.or_(_is_in(batch["key"], keys), _is_in(batch["sha256"], digests))
            found.append(batch.filter(mine).cast(_FOUND))
        return pa.concat_tables(found)

    def left_out(self, keys: pa.Array) -> pa.Array:
        """Keys among these that were left out of the dataset."""
        found = [keys[:0]]
        for file in (CORRUPT_FILE, DROPPED_FILE):
            if file in self._files.sizes:
                for batch in self._batches(file, ["key"]):
                    found.append(_column(batch.filter(_is_in(batch["key"], keys)), "key"))
        return pa.concat_arrays(found)

    def selected(self, keys: pa.Array) -> int:
        """How many of these keys a selection keeps."""
        return sum(int(pc.sum(_is_in(batch["key"], keys)).as_py() or 0) for batch in self._batches(SELECTION, ["key"]))

    def _batches(self, file: str, columns: list[str]) -> Iterator[pa.Table]:
        """Row groups, a few at a time: asked for all at once, pyarrow holds the bytes of each until the end."""
        if file not in self._files.sizes:
            raise StageFailed(f"{self._uri}/{self._name} has no {file}: run its recipe again to make it anew")
        with self._files.open(file) as stream, pq.ParquetFile(stream) as table:
            groups, rows = list[int](), 0
            for group in range(table.num_row_groups):
                groups.append(group)
                rows += table.metadata.row_group(group).num_rows
                if rows >= _BATCH or group == table.num_row_groups - 1:
                    yield table.read_row_groups(groups, columns=columns, use_threads=False)
                    groups, rows = [], 0


def _is_in(column: pa.ChunkedArray, values: pa.Array) -> pa.ChunkedArray:
    return pc.is_in(column.cast(pa.large_string()), value_set=values)


def _column(table: pa.Table, name: str) -> pa.Array:
    """One column as one array."""
    column = table[name].cast(pa.large_string())
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.large_string())
