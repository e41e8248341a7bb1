"""What runs inside a worker process or pod: `python -m ns_core.worker SPEC.json`.

Reads one `WorkerSpec`, fetches the inputs, runs the stage, commits its artifact, and ends with
0 committed, 2 a person's mistake, 143 stopped by SIGTERM after saving, 1 anything else.
Imports a stage's module only once it is known which, so that selection never pays for torch.

Under torchrun, on one machine or several, as many of these run one stage together, by the environment that
torchrun sets. Rank 0 speaks and commits; the others warn, and write what a stage leaves where it is thrown away.
"""

import atexit
import gc
import importlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import psutil

from ns_core import artifacts
from ns_core.config import (
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    ImportConfig,
    InferConfig,
    SelectConfig,
    StudentConfig,
    TeacherConfig,
)
from ns_core.data.reading import SELECTED
from ns_core.errors import StageFailed, UserError
from ns_core.fingerprint import stage_fingerprint
from ns_core.launch.local import LAUNCHER, die_with_parent
from ns_core.launch.spec import WorkerSpec
from ns_core.localize import SHARDS, left_in_store, localize
from ns_core.provenance import collect
from ns_core.resume import ResumeFolder
from ns_core.salvage import whole_files
from ns_core.settings import StageConfig
from ns_core.stage import StageContext, StageFunction, Stopped, cache_folder, emit, on_terminate, rank
from ns_core.storage import Storage, open_storage
from ns_core.storage.ranged import RemoteFiles

STAGES: dict[str, tuple[type[StageConfig], str]] = {
    "prepare-dataset": (DataConfig, "ns_core.data.prepare"),
    "train-teacher": (TeacherConfig, "ns_core.training.train_teacher"),
    "infer-unlabeled": (InferConfig, "ns_core.inference.infer_unlabeled"),
    "filter-and-balance": (SelectConfig, "ns_core.selection.filter_and_balance"),
    "train-noisy-student": (StudentConfig, "ns_core.training.train_noisy_student"),
    "finetune-at-test-resolution": (FinetuneConfig, "ns_core.training.finetune_at_test_resolution"),
    "import-checkpoint": (ImportConfig, "ns_core.models.import_checkpoint"),
    "evaluate-robustness": (EvaluateConfig, "ns_core.evaluation.evaluate_robustness"),
}

SHARD_FIELDS = {artifacts.Dataset.stage: "", artifacts.Selection.stage: SELECTED}
"""Stage -> what `data.reading` calls the place of its shards."""
EXIT_USER, EXIT_FAILED, EXIT_STOPPED = 2, 1, 143


def main(spec_file: str) -> int:
    """Runs the stage of a spec file and turns what happens into an exit status."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _belong_to_torchrun()
    told = f"rank {rank()}: %(message)s" if rank() else "%(message)s"
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING if rank() else logging.INFO, format=told)
    stopping = on_terminate()
    spec = WorkerSpec.model_validate_json(Path(spec_file).read_text(encoding="utf-8"))
    try:
        run(spec, stopping)
    except UserError as error:
        emit({"event": "failure", "kind": "user", "message": str(error)})
        return EXIT_USER
    except Stopped:
        return EXIT_STOPPED
    except Exception as error:  # the process's last stop: whatever it is has to be told in words
        sys.stdout.write(traceback.format_exc())  # at once: other ranks may write too
        message = str(error) if isinstance(error, StageFailed) else f"{type(error).__name__}: {error}"
        emit({"event": "failure", "kind": "stage", "message": message})
        return EXIT_FAILED
    return 0


def run(spec: WorkerSpec, stopping: Callable[[], bool]) -> artifacts.Record | None:
    """The stage from inputs to committed record; None where another process commits: of the group, or after a part."""
    started = time.monotonic()
    config_type, module = STAGES[spec.stage]
    config = config_type.model_validate(spec.config)
    if stage_fingerprint(config, spec.inputs_by_fingerprint()) != spec.fingerprint:
        raise UserError(
            f"{spec.stage}: this worker's code gives its settings another fingerprint than the orchestrator's: "
            "run both from the same version"
        )
    storage = open_storage(spec.store)
    paths = artifacts.Paths(spec.stage, spec.fingerprint)
    attempt = artifacts.new_attempt()
    with tempfile.TemporaryDirectory(prefix="ns-") as scratch:
        in_store = None if rank() or spec.part else storage.local_path(paths.attempt(attempt))
        output = in_store or Path(scratch) / "output"
        context = _context(spec, storage, Path(scratch), output)
        context.stopping = stopping
        stage = _stage_of(module)
        output.mkdir(parents=True)
        try:
            result = stage(config, context)
        except BaseException:
            shutil.rmtree(output, ignore_errors=True)  # it lies in a local store, where nobody else would remove it
            raise
        if rank() or spec.part:
            return None
        if context.history:
            lines = [json.dumps(point, sort_keys=True) + "\n" for point in context.history]
            (output / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
        stored = {
            name: (
                f"{paths.folder}/{file.folder}/{file.saved}",
                artifacts.FileEntry(size=file.size, sha256=file.sha256),
            )
            for name, file in context.adopted.items()
        }
        document = {**_document(spec, config), "attempt": attempt, "result": result}
        record = artifacts.commit(storage, artifacts.timed_record(document, started), output, stored)
    context.resume.clear()
    return record


def _stage_of(module: str) -> StageFunction:
    """Its function `run`. What is imported stays: to look for garbage meanwhile took 1 s of the 5 that torch and timm
    load."""
    looked_for = gc.isenabled()
    gc.disable()
    try:
        stage: StageFunction = importlib.import_module(module).run
    finally:
        if looked_for:
            gc.enable()
    return stage


def _document(spec: WorkerSpec, config: StageConfig) -> dict[str, Any]:
    """What the record says whatever comes out."""
    return {
        "type": artifacts.TYPES[spec.stage].model_fields["type"].default,
        "stage": spec.stage,
        "version": config.VERSION,
        "fingerprint": spec.fingerprint,
        "science": config.science(),
        "inputs": spec.inputs_by_fingerprint(),
        "provenance": collect(),
    }


def _context(spec: WorkerSpec, storage: Storage, scratch: Path, output: Path) -> StageContext:
    """Inputs fetched, folders made."""
    cache = cache_folder()
    folders, results, fingerprints = {}, {}, spec.inputs_by_fingerprint()
    places, shards, remote = dict(spec.places), dict[str, tuple[int, str]](), dict[str, RemoteFiles]()
    for name, reference in spec.inputs.items():
        record = artifacts.find(storage, artifacts.Paths(reference.stage, reference.fingerprint))
        if record is None:
            raise StageFailed(f"input '{name}' ({reference.stage}/{reference.fingerprint[:12]}) is not in the store")
        folders[name] = localize(storage, record, cache)
        results[name] = record.result
        fingerprints |= {f"{name}/{made_of}": fingerprint for made_of, fingerprint in record.inputs.items()}
        left, field = left_in_store(storage, record), SHARD_FIELDS.get(record.stage)
        if field is not None and (left or (field and any(fnmatch(file, SHARDS) for file in record.files))):
            places[field] = f"{storage.uri}/{record.prefix}"
            shards |= {f"{field}/{shard}".lstrip("/"): (entry.size, entry.sha256) for shard, entry in left.items()}
        elif left:
            remote[name] = RemoteFiles(storage, record.prefix, {file: entry.size for file, entry in left.items()})
    paths = artifacts.Paths(spec.stage, spec.fingerprint)
    resume = ResumeFolder(storage, paths.resume, scratch)
    return StageContext(
        inputs=folders,
        results=results,
        output=output,
        resume=resume,
        compute=spec.compute,
        fingerprint=spec.fingerprint,
        fingerprints=fingerprints,
        places=places,
        shards=shards,
        remote=remote,
        part=spec.part,
        salvage=partial(whole_files, storage, paths),
        cache=cache,
    )


def _belong_to_torchrun() -> None:
    """Ends with torchrun, which gives each worker a session of its own, out of reach of signals to its group.

    By SIGKILL: it asks them to stop before it ends in any other way than by SIGKILL itself. `run_worker` keeps
    torchrun's standard error apart, where it says much that is for nobody; workers say all in one place.
    """
    die_with_parent(os.getppid(), signal.SIGKILL)()
    if launcher := os.environ.get(LAUNCHER):
        os.dup2(sys.stdout.fileno(), sys.stderr.fileno())
        if psutil.Process(os.getppid()).ppid() != int(launcher):  # torchrun died before the line above
            os._exit(EXIT_FAILED)


def _leave(status: int) -> NoReturn:
    """Ends the process as Python does, threads and exit handlers included, but takes no module apart: that is 1 s of
    CPU for torch and timm, and the launcher waits for it."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m ns_core.worker SPEC.json: one stage, as a launcher starts it\n")
        sys.exit(EXIT_USER)
    _leave(main(sys.argv[1]))
