"""What is still good of an artifact that was set aside as damaged: nothing of that is computed again.

In: the store and the artifact's paths. Out: its whole files, by name, for a stage that can go on from them.
"""

from ns_core.artifacts import Paths, Record, file_entry
from ns_core.resume import Adopted
from ns_core.storage import Storage


def whole_files(storage: Storage, paths: Paths) -> dict[str, Adopted]:
    """The files whose record was set aside and which are what it says: by their digest in a local store, by their
    size in S3, which checks its own bytes."""
    found: dict[str, Adopted] = {}
    for key in storage.list(f"{paths.record}.damaged-"):
        try:
            record = Record.model_validate_json(storage.read(key))
        except ValueError:  # a record that could not be read names no files
            continue
        if record.fingerprint != paths.fingerprint:
            continue
        for name, entry in record.files.items():
            file = f"{record.prefix}/{name}"
            local = storage.local_path(file)
            if name in found or storage.size(file) != entry.size:
                continue
            if local is None or file_entry(local) == entry:
                folder = record.prefix.removeprefix(f"{paths.folder}/")
                found[name] = Adopted(name, entry.size, entry.sha256, folder)
    return found
