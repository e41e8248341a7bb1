"""The worker process: its exit status, what it leaves behind, and what it does not load."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ns_core import worker
from ns_core.artifacts import Paths, Record, commit, find, set_aside
from ns_core.config import ComputeConfig, DataConfig
from ns_core.launch.spec import InputReference, WorkerSpec
from ns_core.localize import localize
from ns_core.stage import MARK, StageContext
from ns_core.storage import Storage, open_storage
from ns_core.worker import STAGES
from tests.artifact_builders import record as record_of
from tests.artifact_builders import written
from tests.local_bucket import LocalBucket
from tests.worker_specs import digits_spec, pictures_spec, spec_of, teacher_spec

REPOSITORY = Path(__file__).resolve().parents[2]
LIGHT = (
    "worker",
    "settings",
    "config",
    "fingerprint",
    "artifacts",
    "stage",
    "storage",
    "provenance",
    "selection",
    "launch",
)
"""Modules and packages of ns_core that an orchestrator loads, or that a cheap stage pays for."""
HEAVY = ("torch", "torchvision", "timm", "prefect", "mlflow")
UNHEARD = """
import sys
from pathlib import Path
from ns_core.stage import emit
for done in range(2000):  # 140 kB, twice what a pipe holds
    emit({"event": "progress", "done": done, "total": 2000, "text": ""})
Path(sys.argv[1]).write_text("saved")
"""
TALKER = """
import sys
from ns_core.stage import emit
for number in range(500):
    emit({"event": "failure", "kind": "stage", "message": sys.argv[1] * 3000})
"""


class Worker:
    """`python -m ns_core.worker` on `spec`, from start to end."""

    def __init__(self, folder: Path, spec: WorkerSpec, **environment: str) -> None:
        self.spec = spec
        file = folder / "spec.json"
        file.write_text(spec.model_dump_json(), encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ns_core.worker", str(file)],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> tuple[int, list[str]]:
        """Exit status and the lines it said from here on."""
        said, _ = self.process.communicate()
        return self.process.returncode, said.splitlines()

    @property
    def record(self) -> Record | None:
        return find(open_storage(self.spec.store), Paths(self.spec.stage, self.spec.fingerprint))


def events(lines: list[str], kind: str) -> list[dict[str, object]]:
    said = [json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK)]
    return [event for event in said if event["event"] == kind]


def files(spec: WorkerSpec) -> list[str]:
    return sorted(path.relative_to(spec.store).as_posix() for path in Path(spec.store).rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    """A worker that has prepared the digits, and found unfinished work of an earlier attempt when it began."""
    folder = tmp_path_factory.mktemp("worker")
    spec = digits_spec(str(folder / "store"), holdout_images=50)
    open_storage(spec.store).put_bytes(f"{Paths(spec.stage, spec.fingerprint).resume}/half", b"done")
    worker = Worker(folder, spec)
    status, lines = worker.end()
    assert status == 0, lines
    return worker


def test_started_by_hand_it_says_what_it_takes() -> None:
    done = subprocess.run([sys.executable, "-m", "ns_core.worker"], capture_output=True, text=True)
    usage = "usage: python -m ns_core.worker SPEC.json: one stage, as a launcher starts it\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", usage)


def test_a_committed_artifact_is_status_0_and_its_record_says_all(dataset: Worker) -> None:
    record, spec = dataset.record, dataset.spec
    assert record is not None
    assert (record.type, record.stage, record.fingerprint) == ("dataset", spec.stage, spec.fingerprint)
    assert (record.inputs, record.version) == ({"source": "digits"}, STAGES[spec.stage][0].VERSION)
    assert record.science["holdout_images"] == 50
    assert "labeled" not in record.science, "a resource"
    assert record.result["holdout"] == 50
    assert record.seconds > 0
    assert {"index.parquet", "classes.json"} <= set(record.files)
    assert "metrics.jsonl" not in record.files, "there was no curve"
    assert record.provenance["python"] == ".".join(str(part) for part in sys.version_info[:3])


def test_unfinished_work_is_cleared_once_the_artifact_is_committed(dataset: Worker) -> None:
    record = dataset.record
    assert record is not None
    assert not [name for name in files(dataset.spec) if "/resume/" in name]
    owned = {f"{record.prefix}/{name}" for name in record.files} | {record.paths.record}
    assert owned == {name for name in files(dataset.spec) if name.startswith(record.paths.folder)}


def test_a_curve_becomes_the_artifacts_metrics(dataset: Worker, tmp_path: Path) -> None:
    worker = Worker(tmp_path, teacher_spec(dataset.spec))
    status, lines = worker.end()
    assert status == 0, lines
    record = worker.record
    assert record is not None
    folder = localize(open_storage(worker.spec.store), record, tmp_path)
    points = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert points == events(lines, "metric")
    assert {(point["key"], point["step"]) for point in points} >= {
        (f"train/{key}", step) for key in ("loss", "lr", "holdout_top1") for step in (1, 2)
    }
    assert not [name for name in files(worker.spec) if "/resume/" in name], "its checkpoint is not needed any more"


def test_a_persons_mistake_is_status_2_with_the_message_as_an_event(tmp_path: Path) -> None:
    worker = Worker(tmp_path, digits_spec(str(tmp_path / "store"), test_images=5000))
    status, lines = worker.end()
    assert status == 2
    (failure,) = events(lines, "failure")
    assert failure["kind"] == "user"
    assert "data.test_images 5000" in str(failure["message"])
    assert "Traceback" not in "".join(lines)
    assert files(worker.spec) == []


def test_a_missing_input_is_status_1_and_leaves_nothing(tmp_path: Path) -> None:
    lost = {"dataset": InputReference(stage="prepare-dataset", fingerprint="e" * 64)}
    worker = Worker(tmp_path, spec_of(DataConfig(), str(tmp_path / "store"), lost, {}))
    status, lines = worker.end()
    assert status == 1
    (failure,) = events(lines, "failure")
    assert failure["kind"] == "stage"
    assert failure["message"] == "input 'dataset' (prepare-dataset/eeeeeeeeeeee) is not in the store"
    assert not list((tmp_path / "store").rglob("*"))


def test_a_worker_of_another_version_refuses(tmp_path: Path) -> None:
    spec = digits_spec(str(tmp_path / "store"))
    worker = Worker(tmp_path, spec.model_copy(update={"fingerprint": "f" * 64}))
    status, lines = worker.end()
    assert status == 2
    (failure,) = events(lines, "failure")
    assert "run both from the same version" in str(failure["message"])
    assert files(worker.spec) == []


def test_a_defect_is_status_1_with_its_name_and_a_traceback(tmp_path: Path) -> None:
    spec = digits_spec(str(tmp_path / "store"))
    worker = Worker(tmp_path, spec.model_copy(update={"config": {"shard_images": 0}}))
    status, lines = worker.end()
    assert status == 1
    (failure,) = events(lines, "failure")
    assert failure["kind"] == "stage"
    assert str(failure["message"]).startswith("ValidationError: ")
    assert "Traceback (most recent call last):" in lines


def test_sigterm_is_status_143_and_leaves_no_attempt(tmp_path: Path) -> None:
    worker = Worker(tmp_path, pictures_spec(tmp_path))
    assert worker.process.stdout is not None
    assert worker.process.stdout.readline().startswith(MARK)
    worker.process.terminate()
    status, lines = worker.end()
    assert status == 143
    assert events(lines, "failure") == []
    assert worker.record is None
    assert not [name for name in files(worker.spec) if "/attempt-" in name]


def test_a_worker_whose_launcher_is_gone_can_still_save(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    child = subprocess.Popen(
        [sys.executable, "-c", UNHEARD, str(saved)], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline().startswith(MARK.encode())
    child.wait()
    assert saved.read_text(encoding="utf-8") == "saved"


def test_a_rank_that_does_not_lead_works_in_silence_and_commits_nothing(tmp_path: Path) -> None:
    spec = digits_spec(str(tmp_path / "store"))
    resume = f"{Paths(spec.stage, spec.fingerprint).resume}/half"
    open_storage(spec.store).put_bytes(resume, b"done")
    worker = Worker(tmp_path, spec, RANK="1", WORLD_SIZE="2", TMPDIR=str(tmp_path))
    assert worker.end() == (0, [])
    assert resume in files(spec), "what is saved is rank 0's to clear"
    assert worker.record is None
    assert not [name for name in files(spec) if "/resume/" not in name]
    assert not list(tmp_path.glob("ns-*")), "nor is its own output left"


def test_a_rank_that_does_not_lead_warns_and_fails_in_its_own_name(tmp_path: Path) -> None:
    spec = digits_spec(str(tmp_path / "store"))
    broken = tmp_path / "store" / Paths(spec.stage, spec.fingerprint).record
    broken.parent.mkdir(parents=True)
    broken.write_text("{}", encoding="utf-8")
    lost = {"dataset": InputReference(stage=spec.stage, fingerprint=spec.fingerprint)}
    status, lines = Worker(tmp_path, spec_of(DataConfig(), spec.store, lost, {}), RANK="1", WORLD_SIZE="2").end()
    assert status == 1
    assert lines[0].startswith("rank 1: ")
    assert "its record cannot be read" in lines[0]
    (failure,) = events(lines, "failure")
    assert "is not in the store" in str(failure["message"])


def test_a_part_commits_nothing_and_leaves_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spec = digits_spec(str(tmp_path / "store"))
    resume = f"{Paths(spec.stage, spec.fingerprint).resume}/half"
    open_storage(spec.store).put_bytes(resume, b"done")
    assert worker.run(spec.model_copy(update={"part": (0, 2)}), lambda: False) is None
    assert resume in files(spec)
    assert [path.name for path in Path(spec.store, spec.stage).glob("*/*")] == ["resume"], "nor an empty folder"
    assert not list(tmp_path.glob("ns-*"))
    assert worker.run(spec, lambda: False) == find(open_storage(spec.store), Paths(spec.stage, spec.fingerprint))
    assert resume not in files(spec)


PLACES = {
    Paths("prepare-dataset", "d" * 64): {
        "index.parquet": b"rows",
        "pool-000000.tar": b"shard",
        "pool-000001.tar": b"1",
    },
    Paths("filter-and-balance", "e" * 64): {"selection.parquet": b"rows", "selected-000000.tar": b"selected"},
    Paths("infer-unlabeled", "f" * 64): {"labels-pool-000000.parquet": b"labels", "metrics.jsonl": b"{}"},
}
"""Artifacts with files that are read where they lie."""


def context_of(storage: Storage, folder: Path, artifacts: dict[Paths, dict[str, bytes]]) -> StageContext:
    """What a training stage is given whose inputs, by the first word of their stage, are `artifacts`."""
    inputs = {}
    for paths, contents in artifacts.items():
        commit(storage, record_of(paths), written(folder / paths.stage, contents))
        name = paths.stage.partition("-")[0]
        inputs[name] = InputReference(stage=paths.stage, fingerprint=paths.fingerprint)
    spec = WorkerSpec(
        stage="train-noisy-student",
        fingerprint="a" * 64,
        config={},
        inputs=inputs,
        store=storage.uri,
        places={"unlabeled": "/pool"},
        compute=ComputeConfig(),
    )
    return worker._context(spec, storage, folder / "scratch", folder / "output")


def test_what_lies_in_a_local_store_is_read_there(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "store"))
    context = context_of(storage, tmp_path, PLACES)
    selection = find(storage, Paths("filter-and-balance", "e" * 64))
    assert selection is not None
    assert context.places == {"unlabeled": "/pool", "selected": f"{storage.uri}/{selection.prefix}"}
    assert (context.shards, context.remote) == ({}, {})
    for paths, contents in PLACES.items():
        folder = context.inputs[paths.stage.partition("-")[0]]
        assert tmp_path / "store" in folder.parents
        assert sorted(path.name for path in folder.iterdir()) == sorted(contents)


def test_what_lies_in_a_bucket_is_read_there_by_name_size_and_digest(tmp_path: Path) -> None:
    storage = LocalBucket(tmp_path / "store")
    context = context_of(storage, tmp_path, PLACES)
    records = {paths.stage: find(storage, paths) for paths in PLACES}
    dataset, selection = records["prepare-dataset"], records["filter-and-balance"]
    assert dataset is not None
    assert selection is not None
    assert context.places == {
        "unlabeled": "/pool",
        "": f"{storage.uri}/{dataset.prefix}",
        "selected": f"{storage.uri}/{selection.prefix}",
    }
    entries = {f"pool-00000{number}.tar": dataset.files[f"pool-00000{number}.tar"] for number in range(2)}
    entries["selected/selected-000000.tar"] = selection.files["selected-000000.tar"]
    assert context.shards == {name: (entry.size, entry.sha256) for name, entry in entries.items()}
    assert context.files("infer", "*") == ["labels-pool-000000.parquet", "metrics.jsonl"]
    assert [path.name for path in context.inputs["infer"].iterdir()] == ["metrics.jsonl"]
    with context.open("infer", "labels-pool-000000.parquet") as file:
        assert file.read() == b"labels"
    assert context.remote.keys() == {"infer"}


@pytest.mark.parametrize("kind", [open_storage, lambda uri: LocalBucket(Path(uri))], ids=["local", "bucket"])
def test_a_selection_without_shards_of_its_own_has_no_place(tmp_path: Path, kind: Callable[[str], Storage]) -> None:
    selection = {Paths("filter-and-balance", "e" * 64): {"selection.parquet": b"rows"}}
    context = context_of(kind(str(tmp_path / "store")), tmp_path, selection)
    assert context.places == {"unlabeled": "/pool"}
    assert (context.shards, context.remote) == ({}, {})


def test_a_stage_can_ask_for_what_is_whole_of_its_own_damaged_artifact(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "store"))
    own = Paths("train-noisy-student", "a" * 64)
    made = commit(storage, record_of(own), written(tmp_path / "student", {"model.json": b"{}"}))
    set_aside(storage, own, "for this test")
    context = context_of(storage, tmp_path, {})
    assert {name: file.folder for name, file in context.salvage().items()} == {"model.json": f"attempt-{made.attempt}"}


def test_events_of_two_processes_in_one_pipe_stay_whole() -> None:
    read, write = os.pipe()
    talkers = [subprocess.Popen([sys.executable, "-c", TALKER, who], cwd=REPOSITORY, stdout=write) for who in "ab"]
    os.close(write)
    with open(read, encoding="utf-8") as pipe:
        said = [json.loads(line.removeprefix(MARK))["message"] for line in pipe]
    assert [talker.wait() for talker in talkers] == [0, 0]
    assert sorted(set(said)) == ["a" * 3000, "b" * 3000]
    assert len(said) == 1000


def test_what_an_orchestrator_loads_is_light() -> None:
    program = f"""
import importlib, json, pkgutil, sys
for name in {LIGHT!r}:
    module = importlib.import_module(f"ns_core.{{name}}")
    for inner in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        importlib.import_module(inner.name)
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert {
        "ns_core.worker",
        "ns_core.selection.filter_and_balance",
        "ns_core.launch.local",
        "ns_core.storage.s3",
    } <= loaded
    assert loaded.isdisjoint(HEAVY)
