"""Every recipe is a whole experiment: valid as it stands, as JSON, and in each generation."""

from pathlib import Path
from re import findall

import pytest

from flows.recipes import RECIPES, recipe
from flows.recipes.svhn import DECAY_STEPS, EPOCH
from ns_core.config import Recipe
from ns_core.errors import UserError

ROOT = Path(__file__).parents[2]
every_recipe = pytest.mark.parametrize("name", RECIPES)


@every_recipe
def test_a_recipe_says_its_name_and_what_it_is_in_a_line(name: str) -> None:
    made = recipe(name)
    assert made.name == name
    assert made.description
    assert len(f"{name} {made.description}") < 120
    assert "\n" not in made.description


@every_recipe
def test_a_recipe_comes_back_the_same_from_json_with_everything_checked_again(name: str) -> None:
    made = recipe(name)
    assert Recipe.model_validate_json(made.model_dump_json()) == made
    assert made.override([]) == made


@every_recipe
@pytest.mark.parametrize("generation", [1, 2, 3])
def test_each_generation_of_a_recipe_is_valid_and_its_student_is_named(name: str, generation: int) -> None:
    made = recipe(name)
    own = made.for_generation(generation)
    assert Recipe.parse(own.model_dump(mode="json")) == own
    assert own.student.seed != made.for_generation(generation - 1).student.seed
    assert own.student.model == (made.student_models or (made.student.model,) * 3)[:generation][-1]


def test_the_readme_names_every_recipe() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("| `noisy-student recipes`")]
    assert findall(r"`(\w+)`", line) == list(RECIPES)


def test_an_unknown_recipe_is_a_mistake_that_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'imagenet'"):
        recipe("imagnet")


def test_imagenet_is_the_papers_iteration() -> None:
    made = recipe("imagenet")
    assert (made.generations, made.teacher.model) == (3, "tf_efficientnet_b7")
    for generation in (1, 2, 3):
        student = made.for_generation(generation).student
        assert (student.model, student.ratio, student.batch_size) == ("tf_efficientnet_l2", 14, 2048)
    assert (made.select.threshold, made.select.per_class, made.select.rule) == (0.3, 130_000, "top")
    assert (made.selection, made.selector) == ("once", "tf_efficientnet_b0")
    assert (made.infer.top_k, made.student.labels, made.select.materialize) == (0, "soft", True)
    assert (made.finetune.image_size, made.finetune.steps) == (800, 938)


def test_imagenet_b0_is_one_generation_of_equal_size() -> None:
    made = recipe("imagenet_b0")
    assert made.generations == 1
    assert made.teacher.model == made.student.model == "tf_efficientnet_b0"
    assert (made.teacher.steps, made.student.steps, made.student.ratio) == (218_949, 437_898, 1)


def test_svhn_has_the_numbers_of_the_official_example() -> None:
    """local_scripts/run_svhn.sh; the length of a stair is what main.py logs, 1.37 epochs."""
    made = recipe("svhn")
    student = made.student
    assert (student.model, student.image_size, student.crop_pct) == ("small_efficientnet_b0", 32, 1.0)
    assert (student.batch_size, student.ratio, student.steps) == (128, 5, 109_474)
    assert (student.lr, student.weight_decay, student.opt_eps) == (0.008, 1e-4, 1e-3)
    assert pytest.approx(1.372, abs=5e-4) == DECAY_STEPS / EPOCH
    assert student.warmup_steps == int(5 * 69_257 / 128)
    assert (student.dropout, student.stochastic_depth, student.ema_decay) == (0.2, 0.2, 0.9999)
    assert (student.loss, student.labels, student.temperature) == ("official", "soft", 1.0)
    noise = student.augmentation
    assert (noise.randaugment_ops, noise.randaugment_set, noise.randaugment_magnitude) == (2, "official", 5.0)
    assert (noise.randaugment_translate, noise.randaugment_cutout, noise.pad) == (4.0, 4.0, 4)
    assert (noise.hflip, noise.min_area, noise.max_area) == (0.0, 1.0, 1.0)
    assert (made.data.dataset, made.data.labels_per_class, made.data.holdout_images) == ("svhn", 0, 4_000)
    assert (made.select.threshold, made.select.per_class, made.select.max_copies) == (0.3, 53_113, 53_113)
    assert (made.select.rule, made.select.duplicates) == ("official", "keep")
