"""The arms of the studies: what they change, and which stages they share, by the fingerprints that name them."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.network_sizes import EFFICIENTNET, neighbour
from flows.recipes import RECIPES, recipe
from flows.studies import STUDIES
from ns_core.config import Recipe
from ns_core.errors import UserError
from ns_core.fingerprint import stage_fingerprint


@dataclass(frozen=True)
class Stages:
    """Fingerprints of a first teacher and of generation 1, as the flow gives the stages their inputs."""

    teacher: str
    labels: str
    selection: str
    student: str
    finetuned: str


def stages(made: Recipe) -> Stages:
    own, first = made.for_generation(1), made.for_generation(0)
    dataset = stage_fingerprint(first.data, {"source": "0123456789abcdef"})
    teacher = stage_fingerprint(first.teacher, {"dataset": dataset})
    if not made.generations:
        return Stages(teacher, "", "", "", "")
    labels = stage_fingerprint(own.infer, {"dataset": dataset, "teacher": teacher})
    selection = stage_fingerprint(own.select, {"dataset": dataset, "pseudo_labels": labels})
    start = {"teacher": teacher} if own.student.start == "teacher" else {}
    student = stage_fingerprint(own.student, {"dataset": dataset, "selection": selection, **start})
    finetuned = stage_fingerprint(own.finetune, {"dataset": dataset, "student": student})
    return Stages(teacher, labels, selection, student, finetuned)


def distinct(study: str, name: str) -> tuple[int, ...]:
    """How many different teachers, labels, selections, students and finetuned students the arms need."""
    base = recipe(name)
    made = [vars(stages(arm.recipe(base, study))) for arm in STUDIES[study].arms_of(base)]
    return tuple(len({one[field] for one in made} - {""}) for field in made[0])


@pytest.mark.parametrize(
    ("study", "needed"),
    [
        ("noise", (1, 2, 2, 6, 6)),
        ("iterations", (1, 1, 1, 1, 1)),
        ("student-size", (2, 1, 1, 2, 2)),
        ("equal-size", (1, 1, 1, 1, 1)),
        ("teacher-size", (2, 2, 2, 2, 2)),
        ("pool-size", (1, 1, 6, 6, 6)),
        ("ratio", (1, 1, 1, 4, 4)),
        ("labels", (1, 1, 1, 2, 2)),
        ("confidence", (1, 1, 4, 8, 8)),
        ("balancing", (1, 1, 2, 2, 2)),
        ("joint", (1, 1, 1, 2, 3)),
        ("start", (1, 1, 1, 2, 2)),
        ("finetune", (1, 1, 1, 1, 2)),
    ],
)
def test_arms_share_every_stage_up_to_the_first_that_they_change(study: str, needed: tuple[int, ...]) -> None:
    """On digits: teachers, labels of the pool, selections, students, finetuned students."""
    assert distinct(study, "digits") == needed


def test_the_table_of_what_is_shared_has_every_study() -> None:
    (mark,) = test_arms_share_every_stage_up_to_the_first_that_they_change.pytestmark  # type: ignore[attr-defined]
    text = (Path(__file__).parents[2] / "docs" / "ABLATIONS.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `([\w-]+)`, (\d+)(?: arms| of \d+)? \| (\d) \| (\d) \| (\d) \| (\d) \| (\d) \|$", text, re.MULTILINE
    )
    assert [(study, tuple(map(int, needed))) for study, _, *needed in rows] == mark.args[1]
    arms = {study: len(STUDIES[study].arms_of(recipe("digits"))) for study in STUDIES}
    assert {study: int(count) for study, count, *_ in rows} == arms


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("name", [name for name in RECIPES if recipe(name).generations])
def test_the_baseline_of_every_recipe_shares_its_teacher_with_most_arms(study: str, name: str) -> None:
    base = recipe(name)
    arms = STUDIES[study].arms_of(base)
    teachers = [stages(arm.recipe(base, study)).teacher for arm in arms]
    others = {"student-size": 1, "teacher-size": len(arms) - 1}.get(study, 0)
    assert teachers.count(teachers[0]) >= len(arms) - others
    assert teachers[0] == stages(base).teacher


def arm(study: str, name: str, base: Recipe) -> Recipe:
    (found,) = [one for one in STUDIES[study].arms if one.name == name]
    return found.recipe(base, study)


def test_shares_of_the_pool_are_taken_of_what_the_recipe_takes() -> None:
    base = recipe("digits").override(["select.pool_fraction=0.5"])
    fractions = [one.recipe(base, "pool-size").select.pool_fraction for one in STUDIES["pool-size"].arms]
    assert fractions == [0.5, 0.5 / 4, 0.5 / 16, 0.5 / 32, 0.5 / 64, 0.5 / 128]


def test_bands_of_confidence_meet_and_leave_nothing_out() -> None:
    for labels in ("soft", "hard"):
        made = [arm("confidence", one.name, recipe("digits")) for one in STUDIES["confidence"].arms]
        bands = sorted(
            (one.select.threshold, one.select.max_confidence) for one in made if one.student.labels == labels
        )
        assert bands[0][0] == 0.0
        assert bands[-1][1] == 1.0
        assert [high for _, high in bands[:-1]] == [low for low, _ in bands[1:]]


def test_one_after_the_other_trains_the_whole_network_on_labels_at_last() -> None:
    base = recipe("digits")
    alone, tuned = arm("joint", "pretrained", base), arm("joint", "then-tuned", base)
    assert alone.student == tuned.student
    assert alone.student.loss == "pseudo"
    last = tuned.finetune
    assert (last.frozen_blocks, last.steps, last.batch_size) == (0, base.teacher.steps, base.teacher.batch_size)
    assert (last.image_size, last.augmentation) == (base.student.image_size, base.student.augmentation)
    assert last.lr == base.student.lr / 10


def test_a_ratio_is_the_same_in_all_generations_of_its_arm() -> None:
    made = arm("ratio", "6", recipe("imagenet_l2"))
    assert [made.for_generation(generation).student.ratio for generation in (1, 2, 3)] == [6, 6, 6]


@pytest.mark.parametrize(
    ("model", "larger", "smaller"),
    [
        ("ns_efficientnet_xs", "ns_efficientnet_s", None),
        ("ns_efficientnet_l", None, "ns_efficientnet_m"),
        ("tf_efficientnet_b7", "tf_efficientnet_l2", "tf_efficientnet_b6"),
        ("small_efficientnet_b0", "small_efficientnet_b1", None),
        ("efficientnet_l2", None, "efficientnet_b7"),
        ("resnet50", None, None),
        ("tf_efficientnet_b0.ns_jft_in1k", None, None),
        ("tf_efficientnetv2_s", None, None),
    ],
)
def test_neighbours_are_of_the_same_family(model: str, larger: str | None, smaller: str | None) -> None:
    assert (neighbour(model, 1), neighbour(model, -1)) == (larger, smaller)


def test_sizes_are_in_the_order_of_the_paper() -> None:
    from ns_core.config.paper import MODELS

    assert tuple(MODELS) == EFFICIENTNET


def test_an_arm_without_a_network_for_it_is_left_out_and_says_why_when_asked_for() -> None:
    base = recipe("digits")
    assert [one.name for one in STUDIES["teacher-size"].arms_of(base)] == ["as-is", "larger"]
    with pytest.raises(UserError, match="'ns_efficientnet_xs' is of no family with a smaller network"):
        arm("teacher-size", "smaller", base)
    assert len(STUDIES["teacher-size"].arms_of(recipe("imagenet_b5"))) == 3
