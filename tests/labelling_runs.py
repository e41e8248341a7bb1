"""Labelling by real workers, which are killed on the way: `python -m ns_core.worker` through `run_worker`."""

import os
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import pyarrow.parquet as pq

from ns_core import artifacts, worker
from ns_core.artifacts import FileEntry, Paths, Record
from ns_core.config import InferConfig, SelectConfig
from ns_core.data.index import DatasetIndex
from ns_core.launch.local import run_worker
from ns_core.launch.spec import WorkerSpec
from ns_core.storage import open_storage
from tests.worker_specs import digits_spec, reference, spec_of, teacher_spec

SHARD, SHARDS, IMAGES = 9, 165, 1477
"""Images of a shard, and of the pool its shards and images."""
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Made:
    """A store with a dataset of many small shards and a teacher that knows something, to be copied."""

    store: str
    inputs: dict[str, WorkerSpec]

    @classmethod
    def make(cls, folder: Path) -> "Made":
        """In about 10 s."""
        dataset = digits_spec(
            str(folder / "made"), holdout_images=100, test_images=20, labels_per_class=20, shard_images=SHARD
        )
        settings = {"image_size": 16, "batch_size": 32, "steps": 200, "epoch_steps": 200}
        teacher = teacher_spec(dataset, **settings, optimizer="sgd", lr=0.05, ema_decay=0.9, bn_momentum=0.1)
        for spec in (dataset, teacher):
            run_alone(spec)
        return cls(dataset.store, {"dataset": dataset, "teacher": teacher})

    def labelling(self, store: Path, processes: int = 1, teacher: WorkerSpec | None = None) -> WorkerSpec:
        """infer-unlabeled in a copy of this store at `store`. `teacher`: another than this store's, made there."""
        shutil.copytree(self.store, store)
        if teacher is not None:
            run_alone(teacher.model_copy(update={"store": str(store)}))
        specs = self.inputs if teacher is None else {**self.inputs, "teacher": teacher}
        inputs = {name: reference(spec) for name, spec in specs.items()}
        spec = spec_of(InferConfig(batch_size=4), str(store), inputs, {})
        return spec.model_copy(update={"compute": spec.compute.model_copy(update={"processes": processes})})

    def selecting(self, labelling: WorkerSpec) -> WorkerSpec:
        """filter-and-balance of what `labelling` made."""
        config = SelectConfig(threshold=0.3, per_class=60, max_copies=3)
        inputs = {"dataset": reference(self.inputs["dataset"]), "pseudo_labels": reference(labelling)}
        return spec_of(config, labelling.store, inputs, {})


def run_alone(spec: WorkerSpec) -> Record:
    """The stage in this process, from beginning to end."""
    record = worker.run(spec, lambda: False)
    assert record is not None
    return record


def found(spec: WorkerSpec) -> Record | None:
    return artifacts.find(open_storage(spec.store), Paths(spec.stage, spec.fingerprint))


def outcome(record: Record) -> tuple[dict[str, FileEntry], dict[str, Any]]:
    """Files and result, without what tells how fast it went."""
    files = {name: entry for name, entry in record.files.items() if name != "metrics.jsonl"}
    return files, {name: value for name, value in record.result.items() if name != "images_per_second"}


def folder_of(spec: WorkerSpec, record: Record) -> Path:
    return Path(spec.store, record.prefix)


def resume_of(spec: WorkerSpec) -> Path:
    return Path(spec.store, Paths(spec.stage, spec.fingerprint).resume)


def saved(spec: WorkerSpec) -> set[str]:
    """Names of the label files that wait for the next attempt."""
    return {path.name for path in resume_of(spec).glob("labels-*.parquet")}


def assert_each_image_once(spec: WorkerSpec, record: Record) -> None:
    """The label files of `record` hold each image of the pool, and none twice."""
    dataset = found(spec.model_copy(update=spec.inputs["dataset"].model_dump()))
    assert dataset is not None
    pool = DatasetIndex.load(folder_of(spec, dataset)).split("pool")
    files = sorted(folder_of(spec, record).glob("labels-*.parquet"))
    keys = [key for file in files for key in pq.read_table(file, columns=["key"])["key"].to_pylist()]
    assert (len(files), len(pool)) == (SHARDS, IMAGES)
    assert sorted(keys) == sorted(pool.keys)


def workers_of(launcher: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(launcher).children() if "ns_core.worker" in child.cmdline()]


@dataclass
class Attempt:
    """One call of `run_worker`, and what it was told."""

    spec: WorkerSpec
    log: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> None:
        run_worker(self.spec, self.log.append, self.events.append)

    def run_and_kill(self, files: int, pause: float = 0.0, file: str = "spec.json") -> None:
        """As `run`, but `pause` seconds after so many label files have been saved, a worker gets SIGKILL, with all of
        its process group. `file`: the name of its specification."""
        over = Event()

        def kill() -> None:
            while not over.wait(0.001):
                if len(saved(self.spec)) >= files:
                    over.wait(pause)
                    (victim,) = (child for child in workers_of(os.getpid()) if child.cmdline()[-1].endswith(file))
                    assert os.getpgid(victim.pid) == victim.pid != os.getpgid(0)
                    os.killpg(victim.pid, signal.SIGKILL)
                    return

        killer = Thread(target=kill)
        killer.start()
        try:
            self.run()
        finally:
            over.set()
            killer.join()

    def said(self, *words: str) -> list[str]:
        """The log lines with all of these words."""
        return [line for line in self.log if all(word in line for word in words)]
