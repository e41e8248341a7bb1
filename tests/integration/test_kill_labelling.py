"""Labelling killed with SIGKILL at random moments, and label files damaged on disk: nothing is lost, nothing twice.

Real workers, each killed with its process group. What counts are the files of the artifact, byte for byte, and the
selection that is made of them.
"""

import random
from pathlib import Path

import pytest

from ns_core import artifacts
from ns_core.artifacts import Paths
from ns_core.errors import StageFailed
from ns_core.storage import open_storage
from tests.artifact_builders import flip
from tests.labelling_runs import (
    SHARDS,
    Attempt,
    Made,
    assert_each_image_once,
    folder_of,
    found,
    outcome,
    resume_of,
    run_alone,
    saved,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

KILLS = 10
LARGEST_LEAP = 14
"""Files between two kills: ten kills come before the end."""
PAUSE_S = 0.03
"""After a file was saved at most: by then the next is half-way, or the one after that."""
KILLED = r"infer-unlabeled: the worker was killed \(SIGKILL"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made.make(tmp_path_factory.mktemp("labelling"))


@pytest.fixture(autouse=True)
def _scratch_of_killed_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cannot clear it away."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))


def test_killed_ten_times_the_labels_and_the_selection_are_those_of_a_run_left_alone(
    made: Made, tmp_path: Path
) -> None:
    spec, draw, reached = made.labelling(tmp_path / "killed"), random.Random(0), [0]
    for _ in range(KILLS):
        attempt, before = Attempt(spec), saved(spec)
        with pytest.raises(StageFailed, match=KILLED):
            attempt.run_and_kill(reached[-1] + draw.randrange(0, LARGEST_LEAP), draw.uniform(0, PAUSE_S))
        assert artifacts.load(open_storage(spec.store), Paths(spec.stage, spec.fingerprint)) is None
        assert before <= saved(spec), "what was saved once stays"
        reached.append(len(saved(spec)))
    assert reached[-1] < SHARDS
    assert len(set(reached)) > KILLS // 2, "most attempts went on"

    last = Attempt(spec)
    last.run()
    record, selection = found(spec), run_alone(made.selecting(spec))
    assert record is not None
    assert_each_image_once(spec, record)
    assert not resume_of(spec).exists()

    alone = made.labelling(tmp_path / "alone")
    assert outcome(run_alone(alone)) == outcome(record)
    expected = run_alone(made.selecting(alone))
    assert outcome(selection) == outcome(expected)
    manifests = [folder_of(at, one) / "selection.parquet" for at, one in ((spec, selection), (alone, expected))]
    assert manifests[0].read_bytes() == manifests[1].read_bytes()


def test_a_committed_file_that_is_damaged_is_found_and_its_shard_alone_labelled_again(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = made.labelling(tmp_path / "store")
    before = run_alone(spec)
    name = f"labels-pool-{SHARDS // 2:06d}.parquet"
    old = {path.name: path.stat().st_ino for path in folder_of(spec, before).glob("labels-*.parquet")}
    flip(folder_of(spec, before) / name)
    assert found(spec) is None
    assert f"{name} has another sha256 than was recorded" in caplog.text

    again = Attempt(spec)
    again.run()
    after = found(spec)
    assert after is not None
    assert after.attempt != before.attempt
    assert outcome(after) == outcome(before)
    new = {path.name: path.stat().st_ino for path in folder_of(spec, after).glob("labels-*.parquet")}
    assert {file for file in old if new[file] != old[file]} == {name}, "the others are the same files, linked"
    assert again.said("damaged", name, f"{SHARDS - 1} of {SHARDS}"), again.log


def test_a_file_of_a_killed_attempt_that_is_damaged_is_made_again(made: Made, tmp_path: Path) -> None:
    spec = made.labelling(tmp_path / "store")
    with pytest.raises(StageFailed, match=KILLED):
        Attempt(spec).run_and_kill(20)
    victim = sorted(saved(spec))[3]
    flip(resume_of(spec) / victim)
    again = Attempt(spec)
    again.run()
    assert again.said(victim, "damaged"), again.log
    record = found(spec)
    assert record is not None
    assert_each_image_once(spec, record)
    assert outcome(record) == outcome(run_alone(made.labelling(tmp_path / "alone")))
