"""A dataset as every stage opens it: its index, and its pictures wherever the shards lie."""

from dataclasses import dataclass
from typing import Self

from ns_core.data.image_source import CACHE_BYTES, ImageSource
from ns_core.data.index import DatasetIndex
from ns_core.data.patience import Patience
from ns_core.data.reading import ShardReader
from ns_core.data.shard_cache import ShardCache
from ns_core.stage import StageContext


@dataclass(frozen=True)
class Images:
    """The index of the stage's input `dataset`, and its images."""

    index: DatasetIndex
    source: ImageSource

    @classmethod
    def open(cls, context: StageContext, pixels: int = CACHE_BYTES) -> Self:
        """`pixels`: bytes of decoded images kept in memory."""
        limit = int(context.compute.cache_gigabytes * (1 << 30))
        cache = ShardCache(context.cache / "shards", limit, Patience(lambda: context.stopping()))
        folder = context.inputs["dataset"]
        reader = ShardReader(folder, context.places, cache, context.shards)
        return cls(DatasetIndex.load(folder), ImageSource(reader, pixels))
