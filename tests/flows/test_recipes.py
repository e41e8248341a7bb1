"""Every recipe is a whole experiment: valid as it stands, as JSON, and in each generation."""

from importlib import import_module
from pathlib import Path
from re import MULTILINE, findall

import pytest
import timm

from flows.recipes import RECIPES, recipe
from flows.recipes.svhn import DECAY_STEPS, EPOCH
from ns_core.config import Recipe
from ns_core.errors import UserError
from ns_core.models.small import small_names

ROOT = Path(__file__).parents[2]


def told(module: str) -> str:
    """What a module of recipes says of them."""
    return import_module(f"flows.recipes.{module}").__doc__ or ""


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
    with pytest.raises(UserError, match="did you mean 'imagenet_l2'"):
        recipe("imagnet_l2")


def test_imagenet_l2_is_the_papers_iteration() -> None:
    made = recipe("imagenet_l2")
    assert (made.generations, made.teacher.model) == (3, "tf_efficientnet_b7")
    for generation, ratio in ((1, 14), (2, 14), (3, 28)):
        student = made.for_generation(generation).student
        assert (student.model, student.ratio, student.batch_size) == ("tf_efficientnet_l2", ratio, 2048)
    assert (made.select.threshold, made.select.per_class, made.select.rule) == (0.3, 130_000, "top")
    assert (made.selection, made.selector) == ("once", "tf_efficientnet_b0")
    assert (made.infer.top_k, made.student.labels, made.select.materialize) == (0, "soft", True)
    assert (made.finetune.image_size, made.finetune.steps) == (800, 938)


@pytest.mark.parametrize(("number", "pixels"), list(enumerate([224, 240, 260, 300, 380, 456, 528, 600])))
def test_b0_to_b7_are_one_generation_of_equal_size(number: int, pixels: int) -> None:
    """local_scripts/imagenet/train_offline.sh: 700 epochs up to B4, ratio 1 for B0 and 3 for the others."""
    made = recipe(f"imagenet_b{number}")
    assert made.generations == 1
    assert made.teacher.model == made.for_generation(1).student.model == f"tf_efficientnet_b{number}"
    assert (made.teacher.steps, made.student.steps) == (218_949, 437_898 if number < 5 else 218_949)
    assert (made.student.ratio, made.student.image_size) == (1 if number == 0 else 3, pixels)


MULTIPLY_ADDS = {"b0": 0.39, "b1": 0.70, "b2": 1.0, "b3": 1.8, "b4": 4.2, "b5": 9.9, "b6": 19.0, "b7": 37.0}
"""Billions an image (Tan and Le 2019, table 2)."""


def test_the_costs_in_the_table_of_imagenet_are_those_of_the_recipes() -> None:
    rows = findall(r"^ {4}(imagenet_b\d) +[\d.]+ +[\d.]+ +(\d+) +([\d.]+) +(\d+)$", told("imagenet"), MULTILINE)
    assert len(rows) == len(MULTIPLY_ADDS)
    for name, pixels, billions, days in rows:
        made = recipe(name)
        images = 2048 * (made.teacher.steps + made.student.steps * (1 + made.student.ratio))
        operations = 6e9 * MULTIPLY_ADDS[name[-2:]] * images
        assert int(pixels) == made.student.image_size
        assert float(billions) == round(images / 1e9, 1)
        assert int(days) == round(operations / 1e13 / 86_400)


@pytest.mark.parametrize(
    ("name", "labels", "pool"), [("cifar10_4k", 4_000, 44_000), ("stl10", 4_000, 100_000), ("svhn", 69_257, 531_131)]
)
def test_splits_of_published_data_are_those_that_the_recipe_tells(name: str, labels: int, pool: int) -> None:
    """Images to train on, and unlabelled ones: CIFAR-10 50,000, SVHN 73,257 and 531,131, STL-10 5,000 and 100,000."""
    data = recipe(name).data
    train, extra = {"cifar10": (50_000, 0), "svhn": (73_257, 531_131), "stl10": (5_000, 100_000)}[data.dataset]
    rest = train - data.holdout_images
    labelled = 10 * data.labels_per_class or rest
    assert (labelled, rest - labelled + extra) == (labels, pool)


@every_recipe
def test_every_network_of_a_recipe_is_known(name: str) -> None:
    made = recipe(name)
    networks = {made.teacher.model, *(made.student_models or (made.student.model,)), made.selector} - {""}
    known = {*timm.list_models(), *small_names()}
    assert networks <= known


@pytest.mark.parametrize("name", ["cifar10_4k", "stl10", "svhn", "folder_small", "folder", "folder_large"])
def test_the_cost_that_is_told_is_the_number_of_images_that_are_seen(name: str) -> None:
    made = recipe(name)
    seen = made.teacher.steps * made.teacher.batch_size
    for generation in range(1, made.generations + 1):
        student = made.for_generation(generation).student
        seen += student.steps * student.batch_size * (1 + student.ratio)
    module = name.partition("_")[0]
    pattern = rf"^ {{4}}{name} .*?([\d.]+) million " if module == "folder" else r"^Cost: ([\d.]+) million images"
    (millions,) = findall(pattern, told(module), MULTILINE)
    assert float(millions) == pytest.approx(seen / 1e6, rel=0.02)


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
