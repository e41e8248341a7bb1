"""Artifacts of a few small files, for tests that commit, damage and copy them."""

from pathlib import Path

from ns_core.artifacts import TYPES, Paths, Record, commit, new_attempt, timed_record
from ns_core.storage import Storage

PATHS = Paths("train-teacher", "0123456789ab" + "c" * 52)
FILES = {"model.json": b'{"model": "xs"}', "weights/model.safetensors": bytes(range(256)) * 40, "empty": b""}
"""The files of `committed`."""


def written(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    """`folder` with `files` in it."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def record(paths: Paths = PATHS) -> Record:
    """A record without files, of a new attempt."""
    document = {
        "type": TYPES[paths.stage].model_fields["type"].default,
        "stage": paths.stage,
        "version": 1,
        "fingerprint": paths.fingerprint,
        "attempt": new_attempt(),
        "science": {"lr": 0.1},
        "inputs": {"dataset": "d" * 64},
        "result": {"holdout_top1": 0.5},
        "provenance": {"git": None},
    }
    return timed_record(document, started=0.0)


def committed(storage: Storage, folder: Path, files: dict[str, bytes] = FILES) -> Record:
    """The record of an artifact that holds `files`, which are left in `folder` too."""
    return commit(storage, record(), written(folder, files))


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder, at any depth."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(file: Path) -> None:
    """One bit in the middle; a second flip mends it."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
