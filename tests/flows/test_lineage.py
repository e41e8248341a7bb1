"""`noisy-student lineage`: what words name, what is told, and which models saw given images."""

import argparse
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.lineage import show
from flows.store_commands import add_verbs
from ns_core.artifacts import Record
from ns_core.config import ImportConfig
from ns_core.errors import UserError
from ns_core.lineage import read_lineage
from ns_core.storage import Storage, open_storage
from ns_core.takedown import Takedown, take_down
from ns_core.tracking import Tracker
from tests.lineage_stores import LABELS, REPORT, RUN, SPLITS, TEACHER, Maker, generations, hash_of, names, run_of_two
from tests.local_bucket import LocalBucket

MODELS = ("teacher", "student1", "finetuned1", "student2", "finetuned2")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "store"))


@pytest.fixture
def made(storage: Storage, tmp_path: Path) -> dict[str, Record]:
    return run_of_two(storage, tmp_path / "made")


def asked(storage: Storage, *words: str) -> Takedown:
    return take_down(storage, read_lineage(storage), words)


def answer(storage: Storage, capsys: pytest.CaptureFixture[str], subject: str = "", keys: str = "") -> dict[str, Any]:
    """What --json prints."""
    home = Path(storage.uri).parent / "home"
    assert show(subject, keys, storage.uri, home, as_json=True) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


@pytest.mark.parametrize("word", ["l0", hash_of("l0")])
def test_a_labelled_image_was_seen_by_every_model_trained_on_the_dataset(
    storage: Storage, made: dict[str, Record], word: str
) -> None:
    found = asked(storage, word)
    assert found.direct.keys() == names(made, *MODELS)
    assert found.indirect == []
    assert found.judged == {}
    assert found.unknown == []
    assert [(hit.dataset, hit.count("labeled"), hit.count("pool")) for hit in found.hits] == [
        (made["dataset"].paths.folder, 1, 0)
    ]


def test_a_selected_pool_image_was_seen_by_students_and_reaches_what_they_taught(
    storage: Storage, made: dict[str, Record]
) -> None:
    found = asked(storage, "p0")
    assert found.direct.keys() == names(made, "student1", "finetuned1", "student2", "finetuned2")
    assert found.hits[0].selected == dict.fromkeys(names(made, "selection1", "selection2"), 1)
    later = asked(storage, "p1")
    assert later.direct.keys() == names(made, "student2", "finetuned2")
    assert later.indirect == []
    assert later.hits[0].selected == {made["selection2"].paths.folder: 1}


def test_a_model_that_is_taught_by_one_that_saw_the_image_descends_from_it(storage: Storage, tmp_path: Path) -> None:
    maker = Maker(storage, tmp_path / "made")
    ours, others = maker.dataset("ours", SPLITS), maker.dataset("others", {"a": "labeled", "b": "pool"})
    teacher = maker.artifact(TEACHER, "teacher", dataset=ours)
    labels = maker.artifact(LABELS, "labels", dataset=others, teacher=teacher)
    selection = maker.selection("selection", ["b"], others, labels)
    student = maker.artifact("train-noisy-student", "student", dataset=others, selection=selection)
    found = asked(storage, "l0")
    assert found.direct.keys() == {teacher.paths.folder}
    assert found.indirect == [student.paths.folder]


def test_a_student_that_starts_from_its_teachers_weights_saw_what_that_saw(storage: Storage, tmp_path: Path) -> None:
    maker = Maker(storage, tmp_path / "made")
    ours, others = maker.dataset("ours", SPLITS), maker.dataset("others", {"a": "labeled", "b": "pool"})
    teacher = maker.artifact(TEACHER, "teacher", dataset=ours)
    student = maker.artifact("train-noisy-student", "student", dataset=others, teacher=teacher)
    found = asked(storage, "l1")
    assert found.direct[student.paths.folder] == [f"started from the weights of {teacher.paths.folder}"]
    assert found.indirect == []


def test_a_pool_image_that_nobody_selected_was_seen_by_no_model(storage: Storage, made: dict[str, Record]) -> None:
    found = asked(storage, "p2")
    assert (found.direct, found.indirect, found.judged) == ({}, [], {})
    assert found.hits[0].count("pool") == 1


@pytest.mark.parametrize(("key", "split"), [("h0", "holdout"), ("t0", "test")])
def test_a_judged_image_was_trained_on_by_none_and_measured_with(
    storage: Storage, made: dict[str, Record], key: str, split: str
) -> None:
    found = asked(storage, key)
    assert (found.direct, found.indirect) == ({}, [])
    assert found.judged == {name: [f"{split} (1)"] for name in names(made, "report0", "report1", "report2")}


def test_words_of_no_image_are_told_and_those_left_out_of_a_dataset_are_known(
    storage: Storage, made: dict[str, Record]
) -> None:
    found = asked(storage, "nothing", "leaked", "p2", "f" * 64)
    assert found.unknown == ["nothing", "f" * 64]
    assert [(hit.left_out, hit.images["key"].to_pylist()) for hit in found.hits] == [(1, ["p2"])]


def test_an_image_named_by_its_key_is_found_under_another_key_by_its_bytes(storage: Storage, tmp_path: Path) -> None:
    maker = Maker(storage, tmp_path / "made")
    maker.dataset("ours", SPLITS)
    others = maker.dataset("others", {"renamed": "labeled"}, {"renamed": "p2"})
    teacher = maker.artifact(TEACHER, "teacher", dataset=others)
    found = asked(storage, "p2")
    assert found.direct.keys() == {teacher.paths.folder}
    assert {key for hit in found.hits for key in hit.images["key"].to_pylist()} == {"p2", "renamed"}


def test_where_a_dataset_is_gone_it_cannot_be_told(storage: Storage, made: dict[str, Record], tmp_path: Path) -> None:
    lost = Maker(storage, tmp_path / "lost").artifact(TEACHER, "lost", dataset="d" * 64)
    foreign = Maker(storage, tmp_path / "lost").artifact(ImportConfig.STAGE, "foreign", weights="e" * 64)
    found = asked(storage, "p2")
    assert found.untold == {
        lost.paths.folder: f"prepare-dataset/{'d' * 12} is not in this store",
        foreign.paths.folder: f"{foreign.paths.folder} was made elsewhere",
    }


def test_in_a_bucket_tables_are_read_by_ranges_and_no_file_is_copied(
    storage: Storage, made: dict[str, Record], tmp_path: Path
) -> None:
    bucket = LocalBucket(tmp_path / "store")
    assert asked(bucket, "p0") == asked(storage, "p0")
    assert bucket.fetched == 0
    assert bucket.ranges


def test_the_answer_names_the_runs_to_make_again_and_what_no_run_holds(
    storage: Storage, made: dict[str, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maker = Maker(storage, tmp_path / "more")
    alone = maker.artifact(TEACHER, "alone", dataset=made["dataset"])
    words = tmp_path / "words.txt"
    words.write_text("l0\n\np2\nnothing\n", encoding="utf-8")
    found = answer(storage, capsys, keys=str(words))["takedown"]
    assert found["runs"] == [{"run": RUN, "command": "noisy-student run digits --seed 7"}]
    assert found["in_no_run"] == [alone.paths.folder]
    assert (found["asked"], found["unknown"], found["unknown_words"]) == (3, 1, ["nothing"])
    (dataset,) = found["datasets"]
    assert (dataset["labeled"], dataset["pool"], dataset["source"]) == (1, 1, "folder")
    assert {image["path"] for image in dataset["images"]} == {"/images/l0.png", "/images/p2.png"}
    show("", str(words), storage.uri, tmp_path / "home", as_json=False)
    text = capsys.readouterr().out
    assert "noisy-student run digits --seed 7" in text
    assert f"noisy-student gc --drop {RUN} --yes" in text
    assert alone.paths.folder in text


def test_with_an_artifact_only_what_has_to_do_with_it_is_told(
    storage: Storage, made: dict[str, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generations(Maker(storage, tmp_path / "more"), made["dataset"], "-other")
    (tmp_path / "words.txt").write_text("l0", encoding="utf-8")
    found = answer(storage, capsys, f"{RUN}:student1", str(tmp_path / "words.txt"))["takedown"]
    assert found["direct"].keys() == names(made, *MODELS)


def test_a_run_names_its_champion_and_its_roles_their_checkpoints(
    storage: Storage, made: dict[str, Record], capsys: pytest.CaptureFixture[str]
) -> None:
    for words, name in (
        (RUN, "finetuned2"),
        ("latest", "finetuned2"),
        ("digits:teacher", "teacher"),
        (f"{RUN}:student1", "finetuned1"),
        (f"{REPORT}/{made['report1'].fingerprint[:5]}", "report1"),
        (f"{storage.uri}/{made['student2'].prefix}/model.safetensors", "student2"),
    ):
        assert answer(storage, capsys, words)["artifact"] == made[name].paths.folder
    with pytest.raises(UserError, match="has no 'student3'"):
        show(f"{RUN}:student3", "", storage.uri, Path("/nowhere"), as_json=False)


def test_a_registered_model_leads_to_its_artifact(
    storage: Storage,
    made: dict[str, Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("NS_TRACKING_URI", uri)
    with pytest.raises(UserError, match="there is none"):
        show("noisy-student@champion", "", storage.uri, tmp_path, as_json=True)
    assert not (tmp_path / "mlflow.db").exists()
    tracker = Tracker(uri, "noisy-student", tmp_path / "spool")
    run = tracker.parent("run", "key", {}, {})
    for root, name, alias in ((storage.uri, "finetuned2", "champion"), ("/elsewhere", "teacher", "other")):
        place = f"{root}/{made[name].prefix}/model.safetensors"
        tracker.register("noisy-student", run, place, made[name].fingerprint, {}, [alias])
    tracker.close()
    for words in ("noisy-student@champion", "noisy-student/1"):
        assert answer(storage, capsys, words)["artifact"] == made["finetuned2"].paths.folder
    with pytest.raises(UserError, match="add --store /elsewhere"):
        show("noisy-student@other", "", storage.uri, tmp_path, as_json=True)
    with pytest.raises(UserError, match=r"no model 'noisy-student@champio'.*did you mean 'noisy-student@champion'"):
        show("noisy-student@champio", "", storage.uri, tmp_path, as_json=True)


def test_the_tree_shows_both_ways_with_runs_and_names_what_is_missing(
    storage: Storage, made: dict[str, Record], capsys: pytest.CaptureFixture[str]
) -> None:
    storage.delete(made["labels1"].paths.record)
    document = answer(storage, capsys, made["selection1"].paths.folder)
    assert document["made_of"] == [made["dataset"].paths.folder]
    assert document["missing"] == [made["labels1"].paths.folder]
    assert set(document["made_into"]) == names(
        made, "student1", "finetuned1", "report1", "labels2", "selection2", "student2", "finetuned2", "report2"
    )
    one = document["artifacts"][made["student1"].paths.folder]
    assert one["runs"] == [f"{RUN} g1"]
    show(made["selection1"].paths.folder, "", storage.uri, Path("/nowhere"), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    (missing,) = [line for line in lines if "missing from this store" in line]
    assert f"pseudo_labels: {made['labels1'].paths.folder}" in missing
    assert sum(made["report2"].paths.folder in line and "see above" not in line for line in lines) == 1
    assert any(f"[{RUN} g1]" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "l0\r\n  p2\r\n\r\n"),
        ("b.csv", 'split,key\nlabeled,l0\npool,"p2"\n'),
        ("c.csv", f"sha256\n{hash_of('l0')}\n{hash_of('p2')}\n"),
    ],
)
def test_images_are_read_from_lines_and_from_tables(
    storage: Storage, made: dict[str, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = answer(storage, capsys, keys=str(tmp_path / name))["takedown"]
    assert (found["asked"], found["unknown"]) == (2, 0)
    assert [image["key"] for image in found["datasets"][0]["images"]] == ["l0", "p2"]


def test_images_are_read_from_a_parquet_table_and_a_file_without_any_is_refused(
    storage: Storage, made: dict[str, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "words.parquet"
    pq.write_table(pa.table({"key": ["p2", None], "other": [1, 2]}), file)
    assert answer(storage, capsys, keys=str(file))["takedown"]["asked"] == 1
    pq.write_table(pa.table({"other": [1]}), file)
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    for keys, told in (
        (file, "neither a column"),
        (tmp_path / "empty.txt", "names no image"),
        ("absent", "cannot read"),
    ):
        with pytest.raises(UserError, match=told):
            show("", str(keys), storage.uri, tmp_path, as_json=True)


def test_asking_for_nothing_is_a_mistake_that_names_both_ways() -> None:
    parser = argparse.ArgumentParser()
    add_verbs(parser.add_subparsers())
    options = parser.parse_args(["lineage"])
    with pytest.raises(UserError, match="--keys FILE"):
        options.verb(options)
