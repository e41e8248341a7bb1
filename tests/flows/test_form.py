"""The forms of the deployed flows: every field named, described, bounded and in its place."""

from typing import Literal

import pytest
from prefect.utilities.callables import parameter_schema

from flows.form import parsed
from flows.recipes.digits import digits
from ns_core.config import Recipe
from ns_core.settings import Settings, resource, science
from tests.forms import CAMPAIGN, ENTRYPOINTS, faults, form, merged, ordered, recipe, refusal


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_every_field_of_a_form_is_named_described_bounded_and_in_its_place(entrypoint: str) -> None:
    assert list(faults(form(entrypoint))) == []


class Inner(Settings):
    """Fine."""

    speed: int = science(3, ge=0)
    """In rounds a second."""


class Careless(Settings):
    """Has everything that a form must not have."""

    undescribed: float = science(1.0, gt=0)
    unbounded: int = resource(1)
    """Of something."""
    toggled: str | None = resource(None)
    """A name or nothing."""
    raw: dict[str, int] = resource({})
    """Whatever."""
    levels: tuple[int, ...] = science(())
    """Some."""
    inner: Inner = science(Inner())


def test_a_field_that_is_added_carelessly_is_found() -> None:
    def flow(settings: Careless) -> None:
        """A flow.

        Args:
            settings: of something
        """

    found = list(faults(parameter_schema(flow).model_dump_for_openapi()))

    assert found == [
        "Careless.undescribed: no description",
        "Careless.unbounded: no bounds, or none that are told",
        "Careless.toggled: a union",
        "Careless.toggled: bare JSON",
        "Careless.raw: bare JSON",
        "Careless.levels: no bounds, or none that are told",
    ]


def test_a_description_ends_with_the_limits_and_with_what_an_empty_field_means() -> None:
    class Oven(Settings):
        degrees: float = science(180.0, ge=20, le=300)
        """Heat."""
        slices: int = science(8, gt=0, lt=100)
        """Pieces,
        all equal."""
        salt: float = science(0.5, gt=0, le=1)
        pepper: float = science(1e-5, ge=0, lt=1)
        base: str = science("thin")
        """Of the pizza."""
        note: str = resource("")
        """For the cook."""
        sauce: Literal["red", "white"] = science("red")
        """On top."""
        heats: tuple[float, ...] = science((), form={"items": {"type": "number", "minimum": 0, "maximum": 9}})
        """One after the other."""

    properties = Oven.model_json_schema()["properties"]

    assert [field.get("description") for field in properties.values()] == [
        "Heat. 20 to 300; left empty: 180.",
        "Pieces, all equal. 1 to 99; left empty: 8.",
        "Above 0 and at most 1; left empty: 0.5.",
        "At least 0 and below 1; left empty: 1e-05.",
        "Of the pizza. Left empty: thin.",
        "For the cook.",
        "On top.",
        "One after the other. Each 0 to 9.",
    ]


def test_a_recipe_is_asked_for_in_the_order_of_a_run() -> None:
    schema = form(CAMPAIGN)

    assert ordered(schema, "Recipe") == [
        *("name", "description", "generations", "until", "seed", "data", "teacher", "infer"),
        *("select", "selection", "selector"),
        *("student", "student_models", "student_ratios", "finetune", "evaluate", "compute"),
    ]
    assert ordered(schema, "DataConfig")[:3] == ["source", "labeled", "unlabeled"]
    assert ordered(schema, "SelectConfig")[:3] == ["threshold", "per_class", "max_copies"]
    assert ordered(schema, "EvaluateConfig")[:2] == ["corruptions", "severities"]
    assert ordered(schema, "ComputeConfig")[:2] == ["device", "processes"]


def test_a_stage_asks_first_for_what_is_its_own_and_last_for_what_changes_no_result() -> None:
    schema = form(CAMPAIGN)
    shared = ["image_size", "batch_size", "steps", "epoch_steps", "lr", "optimizer", "schedule"]
    last = ["seed", "recompute_groups", "checkpoint_steps", "max_bad_fraction"]

    assert ordered(schema, "TeacherConfig")[:8] == ["model", *shared]
    assert ordered(schema, "StudentConfig")[:10] == [
        *("model", "labels", "temperature", "ratio", "loss", "start"),
        *shared[:4],
    ]
    assert ordered(schema, "FinetuneConfig")[:6] == ["frozen_blocks", "schedule_steps", *shared[:4]]
    for section in ("TeacherConfig", "StudentConfig", "FinetuneConfig"):
        assert ordered(schema, section)[-4:] == last


def test_sections_are_titled_in_words_and_described() -> None:
    schema = form(CAMPAIGN)
    fields = schema["definitions"]["Recipe"]["properties"]

    assert {name: field["title"] for name, field in fields.items() if "$ref" in field} == {
        "data": "Data",
        "teacher": "Teacher",
        "infer": "Labelling",
        "select": "Selection",
        "student": "Student",
        "finetune": "Finetuning",
        "evaluate": "Evaluation and gate",
        "compute": "Compute",
    }
    assert merged(fields["infer"], schema)["description"].startswith("infer-unlabeled: the noise-free teacher labels")
    assert schema["definitions"]["TeacherConfig"]["properties"]["lr"]["title"] == "Learning rate"


def test_choices_are_lists_to_choose_from() -> None:
    definitions = form(CAMPAIGN)["definitions"]
    suites = definitions["EvaluateConfig"]["properties"]

    assert definitions["DataConfig"]["properties"]["source"]["enum"][:2] == ["digits", "folder"]
    assert definitions["StudentConfig"]["properties"]["labels"]["enum"] == ["soft", "hard"]
    assert "jpeg_compression" in suites["corruptions"]["items"]["enum"]
    assert "tilt" in suites["perturbations"]["items"]["enum"]
    assert suites["severities"]["items"]["enum"] == [1, 2, 3, 4, 5]
    assert suites["pgd_eps"]["items"] == {"type": "number", "minimum": 0, "maximum": 255}


def test_the_form_opens_with_the_digits_and_is_taken_as_it_opens() -> None:
    schema = form(CAMPAIGN)

    assert schema["properties"]["recipe"]["default"] == recipe()
    assert refusal(CAMPAIGN, {"recipe": recipe()}) == ""
    assert parsed(recipe(), Recipe) == digits()
