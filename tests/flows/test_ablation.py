"""An ablation: real campaigns of its arms, one that fails for real, and the same again from the store."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from flows import place
from flows.recipes import RECIPES
from flows.recipes.digits import digits_smoke
from flows.studies import STUDIES, Arm, Study
from ns_core.config import Recipe
from ns_core.errors import UserError
from ns_core.evaluation.reports.ablation import Ablation
from ns_core.storage import open_storage
from tests.flows.command import Command
from tests.prefect_server import flows_on

SETTINGS = (
    "compute.retries=0",
    "teacher.steps=100",  # less is at chance level, which is refused
    "student.steps=4",
    "student.epoch_steps=2",
    "finetune.steps=1",
    "finetune.epoch_steps=1",
    "evaluate.fgsm_eps=[0]",
    "evaluate.pgd_eps=[]",
    "evaluate.corruptions=[]",
    "evaluate.perturbations=[]",
)
STUDY = Study(
    "noise",
    "a question",
    (
        Arm("all", "the recipe as it is"),
        Arm("hard", "hard labels", lambda recipe: ["student.labels=hard"]),
        Arm("lost", "a network that is unknown", lambda recipe: ['student_models=["no_such_network"]']),
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Iterator[Path]:
    """Of a store and a home, with a Prefect server for this process."""
    made = tmp_path_factory.mktemp("ablation")
    with flows_on(prefect_api, made / "home"):
        yield made


def compared(folder: Path, recipe: Recipe, name: str, seeds: int) -> Ablation:
    from flows.ablation import ablation

    run = place.make(recipe, name, open_storage(str(folder / "store")), folder / "home")
    with place.giving(run), patch.dict(STUDIES, {"noise": STUDY}):
        made = ablation("noise", seeds, recipe=recipe)
    assert isinstance(made, Ablation)
    return made


def stages(folder: Path, made: Ablation) -> list[dict[str, Any]]:
    """Of the campaigns that left a report."""
    run_ids = [run for runs in made.runs.values() for run in runs]
    documents = [folder / "store" / "runs" / run / "run.json" for run in run_ids]
    return [stage for file in documents if file.exists() for stage in json.loads(file.read_text("utf-8"))["stages"]]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_arms_share_a_teacher_one_that_fails_is_listed_and_again_nothing_is_computed(folder: Path) -> None:
    recipe = digits_smoke().override(list(SETTINGS))
    first = compared(folder, recipe, "first", 2)

    assert first.failed == 2
    assert "no_such_network" in first.arms[2].failures[0]
    assert "\n" not in first.arms[2].failures[0]
    assert [arm.by_seed.keys() for arm in first.arms] == [{0, 1}, {0, 1}, set()]
    against = first.arms[1].figures.against
    assert against is not None
    assert against.change.seeds == 2

    computed = [one for one in stages(folder, first) if one["state"] == "computed"]
    assert sorted(one["stage"] for one in computed if one["generation"] == 0) == sorted(
        ["prepare-dataset", "train-teacher", "evaluate-robustness"] * 2
    ), "once for each seed"
    assert [one["stage"] for one in computed].count("train-noisy-student") == 4
    assert first.arms[1].own_seconds > 0
    assert first.arms[0].shared_seconds == first.arms[1].shared_seconds > 0

    kept = folder / "store" / "ablations" / "first"
    assert Ablation.model_validate_json((kept / "ablation.json").read_text("utf-8")) == first
    assert "hard labels" in (kept / "report.html").read_text("utf-8")

    again = compared(folder, recipe, "again", 1)
    assert {one["state"] for one in stages(folder, again)} == {"cached"}
    of_seed_0 = [{seed: one for seed, one in arm.by_seed.items() if seed == 0} for arm in first.arms]
    assert [arm.by_seed for arm in again.arms] == of_seed_0


def test_no_arm_moves_the_registered_teacher_of_the_recipe_itself() -> None:
    from tasks.tracking import model_name

    base = digits_smoke()
    arms = [(arm, study.name) for study in STUDIES.values() for arm in study.arms_of(base)]
    named = {model_name(arm.recipe(base, study)) for arm, study in arms}
    assert model_name(base) not in named
    assert len(named) == len(arms)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_every_study_changes_every_recipe_of_which_it_makes_sense(study: Study, name: str) -> None:
    """A recipe of labels alone has no students to change; the arms differ from each other, and no arm in its data."""
    base = RECIPES[name]()
    made = [arm.recipe(base, study.name) for arm in study.arms_of(base)]
    assert study.arms_of(base)[0] is study.arms[0]
    assert [Recipe.parse(one.model_dump(mode="json")) for one in made] == made
    assert {one.data.model_dump_json() for one in made} == {base.data.model_dump_json()}
    if base.generations:
        assert len({json.dumps(one.science()) for one in made}) >= len(made) - 1, "one may be the recipe as it is"


def test_a_study_that_is_not_there_and_seeds_out_of_range_are_one_line(tmp_path: Path) -> None:
    command = Command(tmp_path)
    unknown = command("ablate", "nose")
    assert (unknown.status, len(unknown.stderr.splitlines())) == (2, 1)
    assert "did you mean 'noise'?" in unknown.stderr
    listed = command("ablate", "--list")
    assert listed.status == 0
    assert all(f"{name}: " in listed.stdout for name in STUDIES)


@pytest.mark.parametrize("seeds", [0, 31, "3", 1.5])
def test_seeds_that_the_form_did_not_check_are_one_line(seeds: object) -> None:
    from flows.ablation import _whole

    with pytest.raises(UserError, match="seeds: a whole number from 1 to 30"):
        _whole("seeds", seeds, 30)
