"""An audit of real labels: teachers of folds, the very artifacts of a run, and again from the store."""

import argparse
import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import place
from flows.audit_command import add, check
from flows.recipes.digits import digits_smoke
from ns_core.audit.audit import Audit
from ns_core.errors import UserError
from ns_core.storage import open_storage
from tests.prefect_server import flows_on

RECIPE = digits_smoke().override(
    ["compute.retries=0", "teacher.steps=80", "data.labels_per_class=10", "select.threshold=0.3"]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Iterator[Path]:
    """Of a store and a home, with a Prefect server for this process."""
    made = tmp_path_factory.mktemp("audit")
    with flows_on(prefect_api, made / "home"):
        yield made


def audited(folder: Path, name: str, folds: int) -> Audit:
    from flows.audit import audit
    from tasks.observe import Watch, watching

    run = place.make(RECIPE, name, open_storage(str(folder / "store")), folder / "home")
    with watching(Watch()), place.giving(run):
        made = audit(folds, 0.9, RECIPE)
    assert isinstance(made, Audit)
    return made


def computed(folder: Path) -> dict[str, set[str]]:
    """Stage -> the folders of its artifacts."""
    store = folder / "store"
    return {
        stage: {record.parent.name for record in (store / stage).glob("*/.artifact.json")}
        for stage in ("prepare-dataset", "train-teacher", "infer-unlabeled", "filter-and-balance")
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_folds_are_held_out_of_teachers_of_their_own_and_a_run_finds_the_rest_made(folder: Path) -> None:
    first = audited(folder, "first", 2)
    assert first.held_out == {"holdout": 300, "folds": 100}, "every labelled image was held out once"
    assert len(first.folds_on_holdout) == 2
    assert first.by_source["folds"].images > 20
    made = computed(folder)
    assert {stage: len(names) for stage, names in made.items()} == {
        "prepare-dataset": 3,
        "train-teacher": 3,
        "infer-unlabeled": 3,
        "filter-and-balance": 1,
    }

    kept = folder / "store" / "audits" / "first"
    assert Audit.model_validate_json((kept / "audit.json").read_text("utf-8")) == first
    page = (kept / "report.html").read_text("utf-8")
    assert page.count("data:image/png") > 50, "pictures, and examples of ten classes"
    assert "What would be selected, and what dropped" in page

    again = audited(folder, "again", 2)
    assert computed(folder) == made, "nothing was computed again"
    assert again.precision == first.precision
    alone = audited(folder, "alone", 0)
    assert computed(folder) == made, "the holdout alone takes nothing more"
    assert alone.precision == first.by_source["holdout"]

    own = RECIPE.for_generation(0)
    records = [
        json.loads(path.read_text("utf-8")) for path in (folder / "store/train-teacher").glob("*/.artifact.json")
    ]
    assert all(record["science"] == own.teacher.science() for record in records), "the stage knows of no fold"
    assert len({record["inputs"]["dataset"] for record in records}) == 3


@pytest.mark.parametrize(
    ("folds", "target", "words"),
    [
        (1, 0.9, "a whole number from 2 to 20"),
        (False, 0.9, "got False"),
        (21, 0.9, "2 to 20"),
        ("4", 0.9, "got '4'"),
        (4, 1, "a precision"),
    ],
)
def test_what_the_form_did_not_check_is_one_line(folds: object, target: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check(folds, target)


def test_the_command_and_the_form_have_the_same_defaults() -> None:
    from flows.audit import audit

    parser = argparse.ArgumentParser()
    add(parser.add_subparsers())
    options = parser.parse_args(["audit", "digits"])
    form = {name: one.default for name, one in inspect.signature(audit.fn).parameters.items()}
    assert (options.folds, options.target) == (form["folds"], form["target"])


def test_a_mistake_in_words_of_the_command_is_told_before_anything_starts(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers())
    options = parser.parse_args(["audit", "digits", "--folds", "1", "--store", str(tmp_path / "store")])
    with pytest.raises(UserError, match="2 to 20, got 1"):
        options.verb(options)
    assert not list(tmp_path.iterdir())
