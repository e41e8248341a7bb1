"""A worker that trains, killed with SIGKILL at random moments: the artifact is the one of a run that was left alone.

Real processes: each attempt is `python -m ns_core.worker` through `run_worker`, in a session of its own, and
the whole process group is killed from the callback of a progress event, while the worker goes on. Labelling is in
`test_kill_labelling.py`.
"""

import os
import random
import re
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from ns_core import artifacts, worker
from ns_core.artifacts import Paths, Record
from ns_core.errors import StageFailed
from ns_core.launch.local import run_worker
from ns_core.launch.spec import WorkerSpec
from ns_core.storage import open_storage
from tests.worker_specs import digits_spec, teacher_spec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

EPOCH, STEPS = 20, 260


@dataclass
class _Attempt:
    """One worker that is killed as soon as it tells of `limit` steps of work; None: left alone."""

    spec: WorkerSpec
    limit: int | None
    log: list[str] = field(default_factory=list)
    done: int = 0
    """Steps at the last event."""

    def run(self) -> None:
        run_worker(self.spec, self.log.append, self._event)

    def killed(self) -> None:
        with pytest.raises(StageFailed, match=f"{self.spec.stage}: the worker was killed .SIGKILL"):
            self.run()

    def _event(self, event: dict[str, Any]) -> None:
        self.done = event.get("done", self.done)
        if self.limit is not None and self.done >= self.limit:
            (child,) = (process for process in psutil.Process().children() if "ns_core.worker" in process.cmdline())
            assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
            os.killpg(child.pid, signal.SIGKILL)

    def number(self, pattern: str) -> int:
        """The number in the one log line that matches."""
        (found,) = (match for line in self.log if (match := re.search(pattern, line)))
        return int(found[1])


def _left_alone(spec: WorkerSpec) -> Record:
    record = worker.run(spec, lambda: False)
    assert record is not None
    return record


def _stores(tmp_path: Path, *specs: WorkerSpec) -> tuple[str, str]:
    """Two stores with the artifacts of `specs`, which are made in the first."""
    for spec in specs:
        _left_alone(spec)
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    return str(tmp_path / "first"), str(tmp_path / "second")


@pytest.fixture(autouse=True)
def scratch_of_killed_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cannot clear it away."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))


def test_a_teacher_killed_three_times_has_the_weights_of_one_that_was_left_alone(tmp_path: Path) -> None:
    dataset = digits_spec(str(tmp_path / "first"), holdout_images=20, test_images=20)
    first, second = _stores(tmp_path, dataset)
    spec = teacher_spec(dataset, image_size=16, steps=STEPS, epoch_steps=EPOCH)
    assert spec.store == first
    draw = random.Random(0)
    attempts = [_Attempt(spec, draw.randrange(low, high)) for low, high in ((2, 18), (40, 80), (110, 150))]
    for attempt in attempts:
        attempt.killed()
        assert artifacts.load(open_storage(first), Paths(spec.stage, spec.fingerprint)) is None
    last = _Attempt(spec, None)
    last.run()
    going_on = [attempt.number(rf"going on from update (\d+) of {STEPS}") for attempt in (attempts[2], last)]
    assert all(update % EPOCH == 0 for update in going_on)
    assert EPOCH <= going_on[0] < going_on[1] < STEPS
    assert any(attempt.done % EPOCH for attempt in attempts), "no kill fell into the middle of an epoch"

    record = artifacts.find(open_storage(first), Paths(spec.stage, spec.fingerprint))
    alone = _left_alone(spec.model_copy(update={"store": second}))
    assert record is not None
    assert record.files["model.safetensors"] == alone.files["model.safetensors"]
    assert record.result == alone.result
    assert not (tmp_path / "first" / Paths(spec.stage, spec.fingerprint).resume).exists()
