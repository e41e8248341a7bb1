"""Which run a name on the command line stands for."""

from pathlib import Path

import pytest

from ns_core.errors import UserError
from ns_core.evaluation.reports.report import RunPaths, find_run
from ns_core.storage import Storage, open_storage

OLD, NEW = "folder-20261122-090000-ffff", "digits-20261123-080000-0000"
"""`NEW` began a day later, though `OLD` is the last by name."""


def store(tmp_path: Path, *runs: str) -> Storage:
    storage = open_storage(str(tmp_path))
    for run in runs:
        storage.put_bytes(RunPaths(run).document, b"{}")
    return storage


def test_all_files_of_a_run_lie_in_one_folder_of_their_own() -> None:
    paths = RunPaths(NEW)
    keys = {paths.document, paths.html, paths.markdown, paths.picture("a"), paths.picture("b")}
    keys |= {paths.selection(1), paths.selection(2), paths.robustness(1), paths.robustness(2)}
    assert len(keys) == 9
    assert all(key.startswith(f"runs/{NEW}/") for key in keys)


def test_latest_is_the_latest_by_time_and_not_by_name(tmp_path: Path) -> None:
    assert find_run(store(tmp_path, OLD, NEW), "latest") == NEW


def test_a_whole_id_or_the_beginning_of_just_one_is_found(tmp_path: Path) -> None:
    storage = store(tmp_path, OLD, NEW)
    assert find_run(storage, OLD) == OLD
    assert find_run(storage, "fol") == OLD


def test_an_id_that_begins_another_means_itself(tmp_path: Path) -> None:
    storage = store(tmp_path, NEW, f"{NEW}-again")
    assert find_run(storage, NEW) == NEW


def test_a_run_that_has_no_document_yet_is_not_found(tmp_path: Path) -> None:
    storage = store(tmp_path, OLD)
    storage.put_bytes(RunPaths(NEW).html, b"half of a report")
    storage.put_bytes(f"{RunPaths(NEW).folder}/deeper/run.json", b"{}")
    assert find_run(storage, "latest") == OLD


def test_the_beginning_of_several_names_the_candidates(tmp_path: Path) -> None:
    earlier = "digits-20261122-080000-0000"
    with pytest.raises(UserError, match=f"2 runs begin with 'digits'.*{NEW}, {earlier}$"):
        find_run(store(tmp_path, OLD, NEW, earlier), "digits")


def test_an_unknown_run_names_the_nearest_and_the_most_recent(tmp_path: Path) -> None:
    runs = [f"digits-202611{day:02}-080000-0000" for day in range(1, 9)]
    with pytest.raises(UserError) as caught:
        find_run(store(tmp_path, OLD, *runs), "folders")
    message = str(caught.value)
    assert "\n" not in message
    assert "no run 'folders'" in message
    recent = message.partition("the most recent: ")[2]
    assert recent == ", ".join([OLD, *reversed(runs[-4:])]) + ", ..."


def test_a_typing_mistake_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"did you mean '{NEW}'"):
        find_run(store(tmp_path, OLD, NEW), NEW.replace("digits", "digts"))


def test_a_store_without_runs_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no finished run.*noisy-student run"):
        find_run(store(tmp_path), "latest")
