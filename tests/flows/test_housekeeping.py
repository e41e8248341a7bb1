"""`noisy-student gc`: what goes, what stays and why, and what a kill in the middle leaves."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import housekeeping
from flows.housekeeping import Choice, collect
from ns_core import housekeeping as rules
from ns_core.artifacts import Paths, Record, damage, load, set_aside
from ns_core.errors import UserError
from ns_core.evaluation.reports.report import RunPaths
from ns_core.lineage import read_lineage
from ns_core.storage import Storage, open_storage
from ns_core.tracking import Tracker
from tests.lineage_stores import REPORT, RUN, SPLITS, TEACHER, Maker, age, finish, generations, names, run_of_two

OTHER = "digits-20261124-101500-0b1c"
KILLED = """
import os, signal, sys
from pathlib import Path
from flows.housekeeping import Choice, collect
from ns_core.storage.local import LocalStorage

left = [int(sys.argv[2])]

def counted(method):
    def call(*arguments):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return method(*arguments)
    return call

for name in ("delete", "delete_tree", "move"):
    setattr(LocalStorage, name, counted(getattr(LocalStorage, name)))
collect(Choice(drop=(sys.argv[3],), yes=True), sys.argv[1], Path(sys.argv[1]).parent / "home", as_json=True)
"""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "store"))


Gc = Callable[..., dict[str, Any]]


@pytest.fixture
def gc(storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Gc:
    """Runs it with a `Choice`'s fields; what --json prints."""

    def run(**choice: Any) -> dict[str, Any]:
        assert collect(Choice(**choice), storage.uri, tmp_path / "home", as_json=True) == 0
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    return run


def two_runs(storage: Storage, folder: Path, days: float = 3.0) -> tuple[dict[str, Record], dict[str, Record]]:
    """Two finished runs on one dataset, last written to some days ago."""
    kept = run_of_two(storage, folder)
    other = generations(Maker(storage, folder), kept["dataset"], "-other")
    finish(storage, other, OTHER)
    age(Path(storage.uri), days)
    return kept, other


def alone(made: dict[str, Record]) -> dict[str, Record]:
    """Without the dataset, which both runs share."""
    return {name: one for name, one in made.items() if name != "dataset"}


def going(document: dict[str, Any]) -> set[str]:
    return {item["folder"] for item in document["items"] if item["kind"] == "artifact"}


def check_whole(storage: Storage) -> None:
    """Every record's files are there, and the artifacts it was made of."""
    lineage = read_lineage(storage)
    assert lineage.missing == frozenset()
    for one in lineage.made.values():
        record = load(storage, Paths(one.stage, one.fingerprint))
        assert record is not None
        assert damage(storage, record) is None


def test_what_finished_runs_reach_stays_and_what_none_reaches_is_listed_and_left(
    storage: Storage, tmp_path: Path, gc: Gc
) -> None:
    two_runs(storage, tmp_path / "made")
    stray = Maker(storage, tmp_path / "stray").artifact(TEACHER, "stray", dataset="d" * 64)
    age(Path(storage.uri), 3)
    before = list(storage.list(""))
    document = gc()
    assert going(document) == {stray.paths.folder}
    (item,) = document["items"]
    assert (item["objects"], item["reason"]) == (2, "no kept run reaches it")
    assert item["bytes"] == document["bytes"] > stray.files["file"].size
    assert item["age_days"] == pytest.approx(3, abs=0.1)
    assert document["kept_runs"] == [RUN, OTHER]
    assert list(storage.list("")) == before


def test_a_dropped_run_goes_with_its_pages_and_what_another_needs_stays(
    storage: Storage, tmp_path: Path, gc: Gc
) -> None:
    kept, other = two_runs(storage, tmp_path / "made")
    assert going(gc(drop=(OTHER,))) == names(alone(other))
    document = gc(drop=(OTHER[:17],), yes=True)
    assert document["dropped_runs"] == [OTHER]
    assert read_lineage(storage).made.keys() == names(kept)
    assert not [key for key in storage.list("runs/") if OTHER in key]
    assert not (Path(storage.uri) / RunPaths(OTHER).folder).exists()
    check_whole(storage)
    assert gc()["items"] == []


def test_keeping_one_run_drops_the_others(storage: Storage, tmp_path: Path, gc: Gc) -> None:
    kept, _ = two_runs(storage, tmp_path / "made")
    document = gc(keep=("latest",))
    assert document["kept_runs"] == [OTHER]
    assert going(document) == names(alone(kept))


def test_an_artifact_younger_than_the_safety_age_stays_with_all_it_was_made_of(
    storage: Storage, tmp_path: Path, gc: Gc
) -> None:
    made = generations(*_maker_and_dataset(storage, tmp_path))
    age(Path(storage.uri), 3)
    path = storage.local_path(made["selection1"].paths.record)
    assert path is not None
    os.utime(path)
    young = names(made, "selection1", "labels1", "teacher", "report0", "dataset")
    assert going(gc()) == names(made) - young
    assert going(gc(days=4.0)) == set()
    assert going(gc(days=0.0)) == names(made)


def _maker_and_dataset(storage: Storage, folder: Path) -> tuple[Maker, Record]:
    maker = Maker(storage, folder / "made")
    return maker, maker.dataset("dataset", SPLITS)


def test_a_report_on_a_checkpoint_that_stays_stays_with_its_baseline(storage: Storage, tmp_path: Path, gc: Gc) -> None:
    kept, other = two_runs(storage, tmp_path / "made")
    maker = Maker(storage, tmp_path / "made")
    inputs = {"dataset": kept["dataset"], "checkpoint": kept["finetuned1"], "baseline": other["report0"]}
    later = maker.artifact(REPORT, "later", **inputs)
    age(Path(storage.uri), 3)
    stay = names(other, "report0", "teacher") | {later.paths.folder}
    assert going(gc(drop=(OTHER,))) == names(alone(other)) - stay


def test_folders_where_a_worker_may_be_at_work_are_left_alone(storage: Storage, tmp_path: Path, gc: Gc) -> None:
    made, _ = two_runs(storage, tmp_path / "made")
    rival = f"{made['student1'].paths.folder}/attempt-{'0' * 12}/file"
    storage.put_bytes(rival, b"")
    assert gc()["items"] == []
    age(Path(storage.uri), 2)
    (item,) = gc()["items"]
    assert (item["kind"], item["parts"]) == ("leftover", [f"attempt-{'0' * 12}"])


def test_what_no_record_names_is_removed_and_nothing_beside_it(storage: Storage, tmp_path: Path, gc: Gc) -> None:
    made, _ = two_runs(storage, tmp_path / "made")
    before = set(storage.list(""))
    complete, gone = made["student1"].paths.folder, f"{TEACHER}/{'a' * 12}"
    for key in (
        f"{complete}/resume/state-1.pt",
        f"{complete}/attempt-{'0' * 12}/model.safetensors",
        f"{complete}/.artifact.json.damaged-{'0' * 12}",
        f"{gone}/prefect-result.json",
        f"{gone}/attempt-{'1' * 12}/model.safetensors",
    ):
        storage.put_bytes(key, b"left over")
    storage.put_bytes(f"{gone}/resume/state-2.pt", b"an interrupted run")
    storage.put_bytes(f"{complete}/prefect-result.json", b"of a whole artifact")
    storage.put_bytes("notes/of/a/person.txt", b"not ours")
    age(Path(storage.uri), 3)
    assert len(gc(yes=True)["items"]) == 5
    others = {f"{gone}/resume/state-2.pt", f"{complete}/prefect-result.json", "notes/of/a/person.txt"}
    assert set(storage.list("")) == before | others
    age(Path(storage.uri), 30)
    assert [item["reason"] for item in gc(yes=True)["items"]] == ["saved work that nobody went on from for 30 days"]
    assert set(storage.list("")) == before | others - {f"{gone}/resume/state-2.pt"}


def test_a_damaged_artifact_of_a_kept_run_keeps_its_files_for_being_made_again(
    storage: Storage, tmp_path: Path, gc: Gc
) -> None:
    kept, other = two_runs(storage, tmp_path / "made")
    for one in (kept["labels1"], other["labels1"]):
        set_aside(storage, one.paths, "for this test")
    age(Path(storage.uri), 3)
    assert gc()["items"] == []
    document = gc(drop=(OTHER,), yes=True)
    left = [item for item in document["items"] if item["kind"] == "leftover"]
    assert {item["folder"] for item in left} == {other["labels1"].paths.folder}
    assert storage.size(f"{kept['labels1'].prefix}/file") is not None
    assert storage.size(f"{other['labels1'].prefix}/file") is None


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 12, 25])
def test_whatever_kills_it_every_record_is_whole_and_the_next_one_ends_the_work(
    storage: Storage, tmp_path: Path, gc: Gc, steps: int
) -> None:
    kept, other = two_runs(storage, tmp_path / "made")
    wanted = {key for key in storage.list("") if OTHER not in key}
    wanted -= {key for one in alone(other).values() for key in storage.list(f"{one.paths.folder}/")}
    command = [sys.executable, "-c", KILLED, storage.uri, str(steps), OTHER]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True)
    assert killed.returncode == -9, killed.stderr
    check_whole(storage)
    assert set(storage.list("")) > wanted
    gc(**({"yes": True} if steps else {"yes": True, "drop": (OTHER,)}))
    assert set(storage.list("")) == wanted
    assert read_lineage(storage).made.keys() == names(kept)


def test_a_run_that_ends_meanwhile_keeps_what_it_reaches(
    storage: Storage, tmp_path: Path, gc: Gc, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = generations(*_maker_and_dataset(storage, tmp_path))
    age(Path(storage.uri), 3)

    def plan(*arguments: Any) -> Any:
        items = rules.plan(*arguments)
        first = {name: made[name] for name in ("dataset", "teacher", "report0")}
        finish(storage, first, RUN)
        return items

    monkeypatch.setattr(housekeeping, "plan", plan)
    document = gc(yes=True)
    assert document["skipped"].keys() == names(made, "dataset", "teacher", "report0")
    assert read_lineage(storage).made.keys() == names(made, "dataset", "teacher", "report0")


def test_an_artifact_that_is_written_to_meanwhile_stays_with_what_it_was_made_of(
    storage: Storage, tmp_path: Path, gc: Gc, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = generations(*_maker_and_dataset(storage, tmp_path))
    age(Path(storage.uri), 3)

    def plan(*arguments: Any) -> Any:
        items = rules.plan(*arguments)
        storage.put_bytes(f"{made['selection1'].paths.folder}/attempt-{'0' * 12}/file", b"")
        return items

    monkeypatch.setattr(housekeeping, "plan", plan)
    gc(yes=True)
    assert read_lineage(storage).made.keys() == names(made, "dataset", "teacher", "labels1", "selection1")
    check_whole(storage)


def test_what_an_alias_points_at_and_what_runs_stay(
    storage: Storage, tmp_path: Path, gc: Gc, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = generations(*_maker_and_dataset(storage, tmp_path))
    age(Path(storage.uri), 3)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("NS_TRACKING_URI", uri)
    tracker = Tracker(uri, "noisy-student", tmp_path / "spool")
    parent = tracker.parent("run", "key", {}, {"ns.run": OTHER})
    child = tracker.child(parent, "run-g1", "key", {})
    for name, aliases in (("finetuned1", ["champion"]), ("finetuned2", [])):
        place = f"{storage.uri}/{made[name].prefix}/model.safetensors"
        tracker.register("noisy-student", parent, place, made[name].fingerprint, {}, aliases)
    tracker.finish(parent, "FINISHED")
    registered = names(made, "finetuned1", "student1", "selection1", "labels1", "teacher", "dataset")
    reports = names(made, "report0", "report1")
    assert going(gc()) == names(made) - registered - reports
    tracker.tags(child, {"ns.fingerprint.filter-and-balance": made["selection2"].fingerprint})
    tracker.parent("run", "key", {}, {"ns.run": OTHER})
    document = gc()
    assert document["runs_underway"] == [OTHER]
    assert going(document) == names(made, "student2", "finetuned2", "report2")
    assert going(gc(drop=(OTHER,))) == names(made) - registered - reports
    tracker.close()


def test_where_mlflow_is_away_it_lists_and_removes_nothing_unless_told_to(
    storage: Storage, tmp_path: Path, gc: Gc, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = generations(*_maker_and_dataset(storage, tmp_path))
    age(Path(storage.uri), 3)
    monkeypatch.setenv("NS_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    document = gc()
    assert going(document) == names(made)
    assert "--without-registry" in document["obstacles"][0]
    with pytest.raises(UserError, match=r"nothing was removed: MLflow http://127\.0\.0\.1:9 does not answer"):
        gc(yes=True)
    assert read_lineage(storage).made.keys() == names(made)
    gc(yes=True, registry=False)
    assert list(storage.list("")) == []


def test_a_worker_whose_run_nobody_knows_and_a_record_nobody_can_read_stop_it(
    storage: Storage, tmp_path: Path, gc: Gc
) -> None:
    generations(*_maker_and_dataset(storage, tmp_path))
    age(Path(storage.uri), 3)
    saved = f"{TEACHER}/{'a' * 12}/resume/state.pt"
    storage.put_bytes(saved, b"")
    with pytest.raises(UserError, match=f"at work on {TEACHER}/aaaaaaaaaaaa"):
        gc(yes=True)
    storage.delete(saved)
    storage.put_bytes(f"{TEACHER}/{'b' * 12}/.artifact.json", b"{")
    with pytest.raises(UserError, match=f"{TEACHER}/bbbbbbbbbbbb: its record cannot be read"):
        gc(yes=True)
    assert gc()["obstacles"]


def test_a_run_that_cannot_be_read_or_is_not_there_stops_it(storage: Storage, tmp_path: Path, gc: Gc) -> None:
    two_runs(storage, tmp_path / "made")
    with pytest.raises(UserError, match="no run 'cifar'"):
        gc(drop=("cifar",))
    storage.put_bytes(RunPaths(OTHER).document, b"{}")
    with pytest.raises(UserError, match=r"run\.json cannot be read"):
        gc()


def test_the_table_gives_sizes_reasons_a_sum_and_the_next_step(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, other = two_runs(storage, tmp_path / "made")
    collect(Choice(drop=(OTHER,)), storage.uri, tmp_path / "home", as_json=False)
    text = capsys.readouterr().out
    assert all(name in text for name in names(alone(other)))
    assert "12 to remove" in text
    assert "Nothing was removed: add --yes to do it." in text
    collect(Choice(drop=(OTHER,), yes=True), storage.uri, tmp_path / "home", as_json=False)
    assert "Removed 12, " in capsys.readouterr().out
