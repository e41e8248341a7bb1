"""Labelling by several workers at once: to a person it is one, and its artifact is that of one."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ns_core.artifacts import Paths
from ns_core.errors import StageFailed, UserError
from ns_core.launch import local
from ns_core.launch.local import run_worker
from ns_core.storage import open_storage
from tests.labelling_runs import (
    DEADLINE_S,
    IMAGES,
    SHARDS,
    Attempt,
    Made,
    assert_each_image_once,
    found,
    outcome,
    resume_of,
    run_alone,
    saved,
    workers_of,
)
from tests.worker_specs import teacher_spec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCHER = """
import sys
from ns_core.launch.local import run_worker
from ns_core.launch.spec import WorkerSpec
spec = WorkerSpec.model_validate_json(sys.argv[1])
run_worker(spec, print, lambda event: print(event, flush=True))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made.make(tmp_path_factory.mktemp("parts"))


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))  # where those that are killed leave theirs
    yield
    assert workers_of(os.getpid()) == []


def silent(_: object) -> None:
    """A callback that does not care."""


def test_two_parts_make_the_files_that_one_worker_makes(made: Made, tmp_path: Path) -> None:
    spec = made.labelling(tmp_path / "together", processes=2)
    attempt = Attempt(spec)
    attempt.run()
    record = found(spec)
    assert record is not None
    assert_each_image_once(spec, record)
    alone = run_alone(made.labelling(tmp_path / "alone"))
    assert outcome(record) == outcome(alone)
    assert not resume_of(spec).exists()
    assert not list((tmp_path / "scratch").glob("ns-*"))

    assert {line.partition(":")[0] for line in attempt.log if line.startswith("part ")} == {"part 0", "part 1"}
    bars = [event for event in attempt.events if event["event"] == "progress" and event["text"].startswith("part ")]
    assert {event["total"] for event in bars} == {IMAGES}
    done = [event["done"] for event in bars]
    assert done == sorted(done)
    assert done[-1] == IMAGES
    assert {event["key"].partition("/")[0] for event in attempt.events if event["event"] == "metric"} == {"infer"}


def test_each_part_knows_its_place_on_the_machine_and_speaks(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    places: list[tuple[Any, ...]] = []

    def look(event: dict[str, Any]) -> None:
        environments = [child.environ() for child in workers_of(os.getpid())]
        names = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "RANK", "WORLD_SIZE")
        places.extend(tuple(environment.get(name) for name in names) for environment in environments)
        raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        run_worker(made.labelling(tmp_path / "store", processes=2), silent, look)
    assert sorted(places) == [("0", "2", None, None), ("1", "2", None, None)]


def test_sigkill_of_a_part_ends_the_other_and_the_next_attempt_goes_on(made: Made, tmp_path: Path) -> None:
    spec = made.labelling(tmp_path / "store", processes=2)
    with pytest.raises(StageFailed, match=r"^infer-unlabeled: part 1: the worker was killed \(SIGKILL"):
        Attempt(spec).run_and_kill(30, file="part-1.json")
    assert workers_of(os.getpid()) == []
    assert found(spec) is None
    kept = {path.name: path.stat().st_mtime_ns for path in resume_of(spec).glob("labels-*")}
    assert 30 <= len(kept) < SHARDS // 2, "the other part would have gone on to its end"

    again = Attempt(spec)
    again.run()
    record = found(spec)
    assert record is not None
    assert_each_image_once(spec, record)
    digests = {re.sub(r"\.[0-9a-f]{64}\.", ".", name): name.split(".")[1] for name in kept}
    assert {name: record.files[name].sha256 for name in digests} == digests
    files = {path.name: path for path in (tmp_path / "store" / record.prefix).iterdir()}
    written = {re.sub(r"\.[0-9a-f]{64}\.", ".", name): time for name, time in kept.items()}
    assert {name: files[name].stat().st_mtime_ns for name in written} == written, "none was written again"


def test_a_mistake_that_every_part_meets_is_told_once(made: Made, tmp_path: Path) -> None:
    ignorant = teacher_spec(made.inputs["dataset"], image_size=16)
    spec = made.labelling(tmp_path / "store", processes=2, teacher=ignorant)
    with pytest.raises(UserError, match=r"^the teacher is at chance level"):
        run_worker(spec, silent, silent)
    assert found(spec) is None


def test_an_interrupt_stops_every_part_and_keeps_what_was_saved(made: Made, tmp_path: Path) -> None:
    spec = made.labelling(tmp_path / "store", processes=2)

    def interrupt(event: dict[str, Any]) -> None:
        if len(saved(spec)) >= 10:
            raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        run_worker(spec, silent, interrupt)
    assert len(saved(spec)) >= 10
    folder = Path(spec.store, Paths(spec.stage, spec.fingerprint).folder)
    assert [path.name for path in folder.iterdir()] == ["resume"]


def test_parts_that_ignore_sigterm_share_one_grace(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE_SECONDS", 0.2)
    parts: list[psutil.Process] = []

    def freeze(event: dict[str, Any]) -> None:
        parts.extend(workers_of(os.getpid()))
        for part in parts:
            part.suspend()
        raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        run_worker(made.labelling(tmp_path / "store", processes=2), silent, freeze)
    assert len(parts) == 2
    assert not [part for part in parts if part.is_running()]


def test_sigkill_of_the_launcher_leaves_no_part_behind(made: Made, tmp_path: Path) -> None:
    spec = made.labelling(tmp_path / "store", processes=2)
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, spec.model_dump_json()], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    with launcher.stdout:
        while "progress" not in launcher.stdout.readline():
            assert launcher.poll() is None
        parts = workers_of(launcher.pid)
        assert len(parts) == 2
        launcher.kill()
        launcher.wait()
    _, alive = psutil.wait_procs(parts, timeout=DEADLINE_S)
    assert alive == []
    assert found(spec) is None
    kept = [key for key in open_storage(spec.store).list(f"{spec.stage}/") if "/resume/" not in key]
    assert kept == []
