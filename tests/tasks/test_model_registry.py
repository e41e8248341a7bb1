"""The registered model of a campaign, in a real MLflow file."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from ns_core.artifacts import Finetuned, Teacher
from ns_core.config import Recipe
from ns_core.registry import open_registry
from tasks.run import Run
from tests.tasks.campaigns import GATE, checkpoint, client, recipe_of, run_of

pytestmark = pytest.mark.timeout(300)

MODEL = "noisy-student-digits"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    from tasks.tracking import open_parent

    return open_parent(run_of(tmp_path), recipe_of())


def aliases(run: Run) -> dict[str, str]:
    """Alias -> the fingerprint it stands for."""
    found: Mapping[str, str] = client(run).get_registered_model(MODEL).aliases
    return {alias: tags_of(run, alias)["ns.fingerprint"] for alias in found}


def tags_of(run: Run, alias: str) -> dict[str, str]:
    return dict(client(run).get_model_version_by_alias(MODEL, alias).tags)


def test_the_first_teacher_stands_until_a_student_is_promoted(run: Run, tmp_path: Path) -> None:
    from tasks.tracking import register_judged, register_teacher

    recipe = recipe_of()
    teacher = checkpoint(run, tmp_path, Teacher.stage, "teacher")
    one, two = (checkpoint(run, tmp_path, Finetuned.stage, name) for name in ("one", "two"))
    register_teacher(run, run.mlflow_run, recipe, teacher)
    assert aliases(run) == dict.fromkeys(("teacher", "champion", "teacher-gen1"), teacher.fingerprint)
    first = tags_of(run, "teacher")
    expected = {"ns.recipe": "digits", "ns.seed": "0", "ns.generation": "0", "ns.stage": "train-teacher"}
    expected |= {"ns.run": run.run_id, "ns.gate.verdict": "first", "ns.fingerprint": teacher.fingerprint}
    assert expected.items() <= first.items()

    register_judged(run, run.mlflow_run, recipe, 1, one, GATE)
    stands = {"teacher", "champion", "teacher-gen2", "candidate"}
    assert aliases(run) == {**dict.fromkeys(stands, one.fingerprint), "teacher-gen1": teacher.fingerprint}
    judged = tags_of(run, "candidate")
    assert judged["ns.gate.verdict"] == "promote"
    assert judged["ns.gate.reason"] == "Promoted the student: +5.3 points of accuracy."
    assert (judged["ns.gate.p_value"], judged["ns.gate.interval"]) == ("0.004", "0.02 to 0.09")
    assert (judged["ns.generation"], judged["ns.stage"]) == ("1", "finetune-at-test-resolution")

    register_judged(run, run.mlflow_run, recipe, 2, two, {**GATE, "verdict": "keep-teacher", "reason": "No gain."})
    now = aliases(run)
    assert now["candidate"] == two.fingerprint
    assert now["teacher"] == now["champion"] == one.fingerprint
    assert "teacher-gen3" not in now
    assert tags_of(run, "candidate")["ns.gate.verdict"] == "keep-teacher"


@pytest.mark.parametrize("verdict", ["keep-teacher", "stop"])
def test_a_student_that_is_not_promoted_moves_neither_teacher_nor_champion(
    run: Run, tmp_path: Path, verdict: str
) -> None:
    from tasks.tracking import register_judged

    student = checkpoint(run, tmp_path, Finetuned.stage, "student")
    register_judged(run, run.mlflow_run, recipe_of(), 1, student, {**GATE, "verdict": verdict})
    assert aliases(run) == {"candidate": student.fingerprint}


def test_a_campaign_that_is_run_again_takes_the_aliases_from_no_student_of_it(run: Run, tmp_path: Path) -> None:
    from tasks.tracking import register_judged, register_teacher

    teacher = checkpoint(run, tmp_path, Teacher.stage, "teacher")
    student = checkpoint(run, tmp_path, Finetuned.stage, "student")
    register_teacher(run, run.mlflow_run, recipe_of(), teacher)
    register_judged(run, run.mlflow_run, recipe_of(), 1, student, GATE)
    before = aliases(run)
    register_teacher(run, run.mlflow_run, recipe_of(), teacher)
    assert aliases(run) == before
    register_judged(run, run.mlflow_run, recipe_of(), 1, student, GATE)
    assert aliases(run) == before
    assert len(client(run).search_model_versions(f"name = '{MODEL}'")) == 2, "a checkpoint is one version"

    other = checkpoint(run, tmp_path, Teacher.stage, "of another seed")
    register_teacher(run, run.mlflow_run, recipe_of(seed=1), other)
    assert aliases(run)["teacher"] == other.fingerprint, "a new campaign begins with its own teacher"


def test_lineage_finds_the_checkpoint_of_a_registered_model(run: Run, tmp_path: Path) -> None:
    from tasks.tracking import register_teacher

    teacher = checkpoint(run, tmp_path, Teacher.stage, "teacher")
    register_teacher(run, run.mlflow_run, recipe_of(), teacher)
    with open_registry(run.tracking_uri, run.experiment) as registry:
        assert registry is not None
        assert registry.model(f"{MODEL}@teacher").folder == teacher.paths.folder


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("digits_smoke", "noisy-student-digits_smoke"),
        ("my recipe: v1.2/b", "noisy-student-my-recipe-v1-2-b"),
        ("", "noisy-student-unnamed"),
    ],
)
def test_any_recipe_has_a_model_name_that_mlflow_takes(run: Run, name: str, model: str) -> None:
    from tasks.tracking import model_name

    assert model_name(Recipe(name=name)) == model
    assert client(run).create_registered_model(model).name == model


def test_without_mlflow_nothing_is_registered_and_nothing_fails(tmp_path: Path) -> None:
    from tasks.tracking import register_judged, register_teacher

    run = run_of(tmp_path)
    teacher = checkpoint(run, tmp_path, Teacher.stage, "teacher")
    register_teacher(run, "", recipe_of(), teacher)
    register_judged(run, "", recipe_of(), 1, teacher, GATE)
    assert not client(run).search_registered_models()
