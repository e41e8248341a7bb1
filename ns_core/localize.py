"""Local copies of artifacts: what a stage reads lies in a folder of this machine, a dataset's shards excepted.

In: a record. Out: the store's own folder when the store is a local directory, else a checked copy without
what is too large to be copied as a whole: shards, which `data.shard_cache` fetches as they are needed, and
pseudo-labels, of which `storage.ranged` reads columns.
"""

from fnmatch import fnmatch
from pathlib import Path

from ns_core.artifacts import Dataset, FileEntry, PseudoLabels, Record, Selection, file_entry, new_attempt, set_aside
from ns_core.errors import StageFailed
from ns_core.storage import Storage

SHARDS = "*.tar"
_LARGE = {Dataset.stage: SHARDS, Selection.stage: SHARDS, PseudoLabels.stage: "labels-*.parquet"}
"""Stage -> names of its files that stay in a remote store."""


def localize(storage: Storage, record: Record, cache: Path) -> Path:
    """A local folder with the files of an artifact: the store's own folder, or a copy that was checked.

    The copy has nothing of `left_in_store`.
    """
    own = storage.local_path(record.prefix)
    if own is not None:
        return own
    folder = cache / record.paths.folder / record.attempt
    left = left_in_store(storage, record)
    for name, entry in record.files.items():
        target = folder / name
        if name in left or (target.exists() and target.stat().st_size == entry.size):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        arrived = target.with_name(f".{target.name}-{new_attempt()}")
        storage.fetch(f"{record.prefix}/{name}", arrived)
        if file_entry(arrived).sha256 != entry.sha256:
            arrived.unlink()
            set_aside(storage, record.paths, f"{name} arrived with another sha256 than recorded")
            raise StageFailed(f"{storage.uri}/{record.prefix} is damaged: run the same command again to repair it")
        arrived.replace(target)
    return folder


def left_in_store(storage: Storage, record: Record) -> dict[str, FileEntry]:
    """The files of an artifact that are read where they lie; of a local store none."""
    if record.stage not in _LARGE or storage.local_path(record.prefix) is not None:
        return {}
    return {name: entry for name, entry in record.files.items() if fnmatch(name, _LARGE[record.stage])}
