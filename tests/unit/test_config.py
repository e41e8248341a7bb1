"""What fits together in a recipe and what does not, and what each generation makes of it."""

from itertools import chain

import pytest
from pydantic import ValidationError

from ns_core.config import (
    EXTRA_CORRUPTIONS,
    EXTRA_PERTURBATIONS,
    Augmentation,
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    OfficialSets,
    Recipe,
    SelectConfig,
    StudentConfig,
    TeacherConfig,
)
from ns_core.errors import UserError
from ns_core.settings import StageConfig

STAGE_WORDS = [
    "prepare-dataset",
    "train-teacher",
    "infer-unlabeled",
    "filter-and-balance",
    "train-noisy-student",
    "finetune-at-test-resolution",
    "evaluate-robustness",
]
"""In the order of a run."""

SEEDED = ("data", "teacher", "select", "student", "finetune", "evaluate")
SHARED = ("data", "teacher", "infer", "evaluate")
"""Sections that are the same in every generation, so that their artifacts are."""
OWN = ("select", "student", "finetune")


def seeds(recipe: Recipe, *sections: str) -> list[int]:
    return [getattr(recipe, section).seed for section in sections]


def test_a_recipe_has_one_section_for_each_stage_word() -> None:
    sections = [getattr(Recipe(), name) for name in Recipe.model_fields]
    stages = [section for section in sections if isinstance(section, StageConfig)]
    assert [stage.STAGE for stage in stages] == STAGE_WORDS
    assert all(type(stage.VERSION) is int and stage.VERSION >= 1 for stage in stages)
    assert all({"STAGE", "VERSION"} <= vars(type(stage)).keys() for stage in stages), "none is inherited"


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (
            ["data.holdout_fraction=0.6", "data.test_fraction=0.4"],
            "data: holdout_fraction + test_fraction leave nothing to train on: lower one",
        ),
        (
            ["teacher.augmentation.min_area=0.9", "teacher.augmentation.max_area=0.8"],
            "teacher.augmentation: min_area 0.9 is above max_area 0.8: swap them",
        ),
        (["evaluate.severities=[1, 6]"], "evaluate: severities: 6 is not one of 1 to 5"),
        (["evaluate.severities=[0]"], "evaluate: severities: 0 is not one of 1 to 5"),
        (["evaluate.fgsm_eps=[4, -1]"], "evaluate: fgsm_eps: -1.0 is not between 0 and 255"),
        (["evaluate.fgsm_eps=[256]"], "evaluate: fgsm_eps: 256.0 is not between 0 and 255"),
        (["evaluate.pgd_eps=[0.00001]"], "evaluate: pgd_eps: 1e-05 is neither 0 nor at least 0.0001"),
        (["evaluate.pgd_eps=[7.9999999]"], "evaluate: pgd_eps: 7.9999999 has more than six digits"),
        (
            ["student.image_size=64", "finetune.image_size=48"],
            "finetune.image_size 48 is below student.image_size 64: finetuning is for the test resolution, "
            "which is not smaller",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_named_with_the_remedy(assignments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Recipe().override(assignments)
    assert str(caught.value) == message


def test_what_just_fits_is_taken() -> None:
    recipe = Recipe().override(
        [
            "data.holdout_fraction=0.5",
            "data.test_fraction=0.49",
            "student.augmentation.min_area=0.5",
            "student.augmentation.max_area=0.5",
            "evaluate.severities=[1, 5]",
            "evaluate.fgsm_eps=[0, 255]",
            "student.image_size=64",
            "finetune.image_size=64",
        ]
    )
    assert recipe.student.augmentation.min_area == recipe.student.augmentation.max_area
    assert recipe.evaluate.fgsm_eps == (0.0, 255.0)


def test_an_unknown_corruption_is_refused() -> None:
    with pytest.raises(ValidationError, match="jpeg_compression"):
        EvaluateConfig.model_validate({"corruptions": ["smoke"]})


def test_extra_corruptions_and_perturbations_are_those_that_no_mean_counts() -> None:
    assert EXTRA_CORRUPTIONS == ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    assert EXTRA_PERTURBATIONS == ("speckle_noise", "gaussian_blur", "spatter", "shear")
    assert not set(EvaluateConfig().corruptions) & set(EXTRA_CORRUPTIONS)
    assert not set(EvaluateConfig().perturbations) & set(EXTRA_PERTURBATIONS)


def test_where_official_files_lie_is_no_part_of_the_identity() -> None:
    given = EvaluateConfig(official=OfficialSets(imagenet_c="/data/ImageNet-C", images="/data/val"))
    assert given.official.given() == {"images": "/data/val", "imagenet_c": "/data/ImageNet-C"}
    assert given.science() == EvaluateConfig().science()


def test_finetuning_adds_no_noise_to_the_input() -> None:
    noise = FinetuneConfig().augmentation
    assert (noise.min_area, noise.max_area, noise.hflip, noise.pad, noise.randaugment_ops) == (1.0, 1.0, 0.0, 0, 0)
    assert TeacherConfig().augmentation == StudentConfig().augmentation == Augmentation()


def test_no_network_and_no_draw_of_a_run_shares_its_seed_with_one_of_another_generation() -> None:
    recipe = Recipe(seed=3)
    first = recipe.for_generation(0).teacher.seed
    for section in OWN:
        drawn = [first, *chain(*(seeds(recipe.for_generation(number), section) for number in range(1, 51)))]
        assert len(set(drawn)) == 51


def test_what_does_not_depend_on_the_generation_is_the_same_in_all() -> None:
    recipe = Recipe(seed=3)
    for number in (1, 2, 7):
        for section in SHARED:
            assert getattr(recipe.for_generation(number), section) == getattr(recipe.for_generation(0), section)


@pytest.mark.parametrize("generation", [0, 1, 4])
def test_the_seed_of_the_recipe_moves_every_seeded_stage(generation: int) -> None:
    one, other = (Recipe(seed=seed).for_generation(generation) for seed in (0, 1))
    assert all(a != b for a, b in zip(seeds(one, *SEEDED), seeds(other, *SEEDED), strict=True))


def test_the_seed_of_a_stage_is_added_to_that_of_the_recipe() -> None:
    recipe = Recipe(
        seed=10,
        data=DataConfig(seed=1),
        teacher=TeacherConfig(seed=2),
        select=SelectConfig(seed=3),
        student=StudentConfig(seed=4),
        finetune=FinetuneConfig(seed=5),
        evaluate=EvaluateConfig(seed=6),
    )
    plain = Recipe(seed=10).for_generation(2)
    added = [a - b for a, b in zip(seeds(recipe.for_generation(2), *SEEDED), seeds(plain, *SEEDED), strict=True)]
    assert added == [1, 2, 3, 4, 5, 6]


def test_students_grow_by_generation_and_the_last_repeats() -> None:
    recipe = Recipe(student=StudentConfig(model="unused"), student_models=("small", "large"))
    assert [recipe.for_generation(number).student.model for number in (1, 2, 3, 9)] == [
        *("small", "large", "large", "large")
    ]


def test_without_a_list_every_generation_has_the_students_model() -> None:
    recipe = Recipe(student=StudentConfig(model="only"))
    assert [recipe.for_generation(number).student.model for number in (1, 2, 9)] == ["only"] * 3


def test_ratios_go_by_generation_and_the_last_repeats() -> None:
    recipe = Recipe(student=StudentConfig(ratio=3), student_ratios=(14, 28))
    assert [recipe.for_generation(number).student.ratio for number in (1, 2, 3, 9)] == [14, 28, 28, 28]
    assert [Recipe(student=StudentConfig(ratio=3)).for_generation(number).student.ratio for number in (1, 9)] == [3, 3]


@pytest.mark.parametrize("ratio", [0, 29])
def test_a_ratio_out_of_range_is_one_line(ratio: int) -> None:
    with pytest.raises(UserError, match=f"student_ratios: {ratio} is none, they are whole numbers from 1 to 28"):
        Recipe().override([f"student_ratios=[14, {ratio}]"])


def test_a_generation_changes_nothing_but_seeds_and_the_students_model() -> None:
    recipe = Recipe(name="whole", student_models=("small",))
    own = recipe.for_generation(2)
    sections = {name: getattr(own, name).model_copy(update={"seed": 0}) for name in SEEDED}
    sections["student"] = sections["student"].model_copy(update={"model": recipe.student.model})
    assert own.model_copy(update=sections) == recipe


def test_auto_is_ten_generations_at_most_until_the_gate_promotes_none() -> None:
    auto = Recipe().override(["generations=auto"])
    assert (auto.generations, auto.until) == (10, "gate")
    fewer = auto.override(["generations=4"])
    assert (fewer.generations, fewer.until) == (4, "gate")
