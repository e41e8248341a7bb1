"""The index of a dataset: which image lies where, and what is known of it.

On disk, in one folder: the shards (`data.shards`), `index.parquet` (one row an image, columns as in
`SCHEMA`) and `classes.json` (the class names; their order is the class index). Out: numpy columns a split.
A shard is a file of that folder, or `{field}/{path}`, one of the person's own that stays where it lies
(`data.reading` finds both).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal, Self, TypedDict, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

Split = Literal["labeled", "pool", "holdout", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

INDEX = "index.parquet"
CLASSES = "classes.json"
CORRUPT_FILE, DROPPED_FILE, DUPLICATES_FILE = "corrupt.parquet", "dropped.parquet", "duplicates.parquet"
NO_LABEL = -1
"""What a null label becomes in numpy."""

SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
    ]
)
"""`offset` and `size`: the image's bytes inside the shard. `label`: class index, null in the pool.
`sha256`: of those bytes, hex. `path`: where the image came from, to find it again."""

_ROW_GROUP = 1 << 16


class IndexRow(TypedDict):
    """One row of `SCHEMA`."""

    key: str
    split: Split
    shard: str
    offset: int
    size: int
    label: int | None
    width: int
    height: int
    sha256: str
    path: str


def write_index(path: Path, rows: Iterable[IndexRow]) -> None:
    """Writes the rows in their order, 65,536 a row group, taking them as they come.

    The same rows give the same bytes: fixed compression, and Parquet holds no time.
    """
    remaining = iter(rows)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while group := list(islice(remaining, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))


def write_classes(path: Path, class_names: Sequence[str]) -> None:
    """The class names as a JSON list; position is class index."""
    path.write_text(json.dumps(list(class_names), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


class SplitIndex:
    """The rows of one split, in the order of the index; every column has as many entries as rows.

    What every reader wants is there at once; the other columns are read from the file when first asked for.
    """

    def __init__(self, path: Path, name: Split) -> None:
        self.name, self._path = name, path
        table = pq.read_table(path, columns=["shard", "offset", "size"], filters=self._mine, read_dictionary=["shard"])
        self.shard_names, self.shard_codes = coded(table["shard"])
        """File names, sorted, and int32 codes that point into them."""
        self.offsets: NDArray[np.int64] = table["offset"].to_numpy()
        self.sizes: NDArray[np.int64] = table["size"].to_numpy()

    def __len__(self) -> int:
        return len(self.offsets)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Class index; `NO_LABEL` (-1) in the pool."""
        labels: NDArray[np.int32] = pc.fill_null(self._column("label"), NO_LABEL).to_numpy()
        return labels

    @cached_property
    def widths(self) -> NDArray[np.int32]:
        """Pixels."""
        widths: NDArray[np.int32] = self._column("width").to_numpy()
        return widths

    @cached_property
    def heights(self) -> NDArray[np.int32]:
        """Pixels."""
        heights: NDArray[np.int32] = self._column("height").to_numpy()
        return heights

    @cached_property
    def key_column(self) -> pa.Array:
        """The keys as one Arrow array, of which some can be taken without making strings of all."""
        return joined_text(self._column("key"))

    @cached_property
    def keys(self) -> NDArray[np.object_]:
        """str objects."""
        return _objects(self.key_column)

    @cached_property
    def sha256(self) -> NDArray[np.object_]:
        """str objects: 64 hex digits of each image's bytes."""
        return _objects(self._column("sha256"))

    @cached_property
    def paths(self) -> NDArray[np.object_]:
        """str objects: where each image came from."""
        return _objects(self._column("path"))

    def texts(self, shard: str) -> pa.Table:
        """Columns key and sha256 of one shard's rows, in their order.

        Reads the row groups that mention the shard and no others: labelling holds no text of the whole pool.
        """
        return pq.read_table(self._path, columns=["key", "sha256"], filters=self._mine & (pc.field("shard") == shard))

    def members(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Each shard with the numbers of its rows, ascending."""
        order = np.argsort(self.shard_codes, kind="stable")
        ends = np.cumsum(np.bincount(self.shard_codes, minlength=len(self.shard_names)))
        return zip(self.shard_names, np.split(order, ends[:-1]), strict=True)

    @property
    def _mine(self) -> pc.Expression:
        return pc.field("split") == self.name

    def _column(self, name: str) -> pa.ChunkedArray:
        return pq.read_table(self._path, columns=[name], filters=self._mine)[name]


class DatasetIndex:
    """A dataset folder's index and class names."""

    def __init__(self, path: Path, class_names: tuple[str, ...]) -> None:
        self._path, self.class_names = path, class_names
        self._splits: dict[Split, SplitIndex] = {}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Opens `index.parquet` and reads `classes.json`.

        Raises `FileNotFoundError` when one is missing, `ValueError` when the index has other columns.
        """
        if not pq.read_schema(folder / INDEX).equals(SCHEMA):
            raise ValueError(f"{folder / INDEX}: its columns are not those of a dataset index")
        return cls(folder / INDEX, tuple(json.loads((folder / CLASSES).read_text(encoding="utf-8"))))

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def split(self, name: Split) -> SplitIndex:
        """The rows of one split, read once; none when the dataset has none of it."""
        assert name in SPLITS, name
        if name not in self._splits:
            self._splits[name] = SplitIndex(self._path, name)
        return self._splits[name]


def coded(shards: pa.ChunkedArray) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """A column of shard names as (the names that occur, sorted; int32[N], which of them each row has)."""
    if not pa.types.is_dictionary(shards.type):
        shards = pc.dictionary_encode(shards)
    shards = shards.unify_dictionaries()
    if not len(shards):
        return (), np.empty(0, np.int32)
    codes = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in shards.chunks])
    found = shards.chunk(0).dictionary.to_pylist()
    used = np.flatnonzero(np.bincount(codes, minlength=len(found)))
    names = sorted(found[code] for code in used)
    rank = {name: number for number, name in enumerate(names)}
    recoded = np.array([rank.get(name, -1) for name in found], np.int32)
    return tuple(names), recoded[codes]


def joined_text(column: pa.ChunkedArray) -> pa.Array:
    """A text column as one array: taking from several chunks would join them each time. `large_string`,
    since the keys of a pool come to more than the 2 GiB that `string` can hold."""
    return pa.concat_arrays(column.cast(pa.large_string()).chunks) if len(column) else pa.array([], pa.large_string())


def _objects(column: pa.ChunkedArray | pa.Array) -> NDArray[np.object_]:
    values: NDArray[np.object_] = np.asarray(column.to_numpy(zero_copy_only=False), dtype=object)
    return values
