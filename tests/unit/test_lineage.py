"""The graph of a store's records: back to the inputs, forward to what was made, and what is not there."""

from pathlib import Path

import pytest

from ns_core.artifacts import Record
from ns_core.errors import UserError
from ns_core.lineage import Lineage, Made, read_lineage
from ns_core.storage import Storage, open_storage
from tests.lineage_stores import FINETUNED, TEACHER, names, run_of_two


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "store"))


@pytest.fixture
def made(storage: Storage, tmp_path: Path) -> dict[str, Record]:
    return run_of_two(storage, tmp_path / "made")


@pytest.fixture
def lineage(storage: Storage, made: dict[str, Record]) -> Lineage:
    return read_lineage(storage)


def test_every_record_is_read_and_no_other_file_is_taken_for_one(
    storage: Storage, made: dict[str, Record], lineage: Lineage
) -> None:
    assert lineage.made.keys() == names(made)
    assert lineage.unreadable == {}
    one = lineage.made[made["selection1"].paths.folder]
    assert one.size == made["selection1"].files["selection.parquet"].size
    assert one.figures == {"kept": 1}


def test_the_way_back_ends_at_the_dataset_and_its_source(made: dict[str, Record], lineage: Lineage) -> None:
    wanted = names(made, "finetuned1", "student1", "selection1", "labels1", "teacher", "dataset")
    assert lineage.ancestors(names(made, "finetuned1")) == wanted
    (source,) = lineage.inputs(made["dataset"].paths.folder)
    assert (source.role, source.kind, source.name) == ("source", "source", made["dataset"].inputs["source"])


def test_the_way_forward_holds_all_that_was_made_of_an_artifact(made: dict[str, Record], lineage: Lineage) -> None:
    first = {"teacher", "report0", "labels1", "selection1", "student1", "finetuned1", "report1"}
    second = {"labels2", "selection2", "student2", "finetuned2", "report2"}
    assert lineage.descendants(names(made, "teacher")) == names(made, *first, *second)
    assert lineage.descendants(names(made, "selection2")) == names(made, *second - {"labels2"})


def test_what_was_made_of_others_comes_before_them(made: dict[str, Record], lineage: Lineage) -> None:
    order = lineage.latest_first(names(made))
    for name in order:
        for one in lineage.inputs(name):
            assert one.kind == "source" or order.index(name) < order.index(one.name)
    assert set(order) == names(made)


def test_an_input_that_was_removed_is_named_as_missing_and_its_users_are_found(
    storage: Storage, made: dict[str, Record]
) -> None:
    storage.delete(made["selection1"].paths.record)
    storage.delete(made["teacher"].paths.record)
    lineage = read_lineage(storage)
    gone = made["selection1"].paths.folder
    (teacher,) = (one.name for one in lineage.inputs(made["labels1"].paths.folder) if one.role == "teacher")
    assert lineage.missing == {gone, teacher}
    assert teacher.startswith("train-teacher|")
    assert teacher.endswith(made["teacher"].fingerprint[:12])
    assert lineage.uses(gone) == [("selection", made["student1"].paths.folder)]
    assert lineage.ancestors(names(made, "student1")) == names(made, "student1", "dataset")
    assert lineage.find(gone) == gone


def test_a_record_that_cannot_be_read_is_told_and_left_where_it_is(storage: Storage, made: dict[str, Record]) -> None:
    storage.put_bytes(made["teacher"].paths.record, b'{"type": "teacher"')
    foreign = storage.read(made["report0"].paths.record)
    storage.put_bytes(made["report1"].paths.record, foreign)
    before = list(storage.list(""))
    lineage = read_lineage(storage)
    assert lineage.unreadable.keys() == names(made, "teacher", "report1")
    assert made["report0"].paths.folder in lineage.unreadable[made["report1"].paths.folder]
    assert list(storage.list("")) == before


@pytest.mark.parametrize("digits", [4, 12, 40, 64])
def test_an_artifact_is_found_by_the_beginning_of_its_fingerprint(
    made: dict[str, Record], lineage: Lineage, digits: int
) -> None:
    one = made["finetuned1"]
    assert lineage.find(f"{FINETUNED}/{one.fingerprint[:digits]}") == one.paths.folder


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train-techer/0123", r"no stage \(did you mean 'train-teacher'\?\)"),
        ("train-teacher/012", "its first 4 digits"),
        ("train-teacher/01234xyz", "is no fingerprint"),
        ("import-checkpoint/0123", "it has no import-checkpoint"),
    ],
)
def test_words_that_name_no_artifact_are_refused_with_what_there_is(lineage: Lineage, text: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as refusal:
        lineage.find(text)
    assert "\n" not in str(refusal.value)


def test_a_beginning_that_several_share_is_refused_with_their_names() -> None:
    both = [Made(TEACHER, "abcdef" + digit * 58, "a" * 12, {}, {}, 0, 0, 0.0, "", "") for digit in "01"]
    lineage = Lineage({one.name: one for one in both})
    with pytest.raises(UserError, match=f"2 artifacts of {TEACHER} begin with abcd, .*abcdef000000, .*abcdef111111"):
        lineage.find(f"{TEACHER}/abcd")
