"""Local copies of artifacts: what a stage reads lies in a folder of this machine, a dataset's shards excepted.

In: a record. Out: the store's own folder when the store is a local directory, else a checked copy without
shards, which `data.shard_cache` fetches as they are needed; and what it must know of them.
"""

from pathlib import Path

from ns_core.artifacts import Dataset, FileEntry, Record, file_entry, new_attempt, set_aside
from ns_core.errors import StageFailed
from ns_core.storage import Storage

_SHARD = ".tar"


def localize(storage: Storage, record: Record, cache: Path) -> Path:
    """A local folder with the files of an artifact: the store's own folder, or a copy that was checked.

    The copy of a dataset has no shards.
    """
    own = storage.local_path(record.prefix)
    if own is not None:
        return own
    folder = cache / record.paths.folder / record.attempt
    shards = remote_shards(storage, record)
    for name, entry in record.files.items():
        target = folder / name
        if name in shards or (target.exists() and target.stat().st_size == entry.size):
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


def remote_shards(storage: Storage, record: Record) -> dict[str, FileEntry]:
    """The shards of a dataset that stay in a remote store; of any other artifact none."""
    if record.stage != Dataset.stage or storage.local_path(record.prefix) is not None:
        return {}
    return {name: entry for name, entry in record.files.items() if name.endswith(_SHARD)}
