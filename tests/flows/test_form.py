"""The forms of the deployed flows: the JSON schema that Prefect's page draws, and what becomes of what it sends.

The server's own validator is called, as it is before a run exists.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml  # type: ignore[import-untyped]
from prefect import Flow
from prefect.client.schemas.objects import State
from prefect.logging import disable_run_logger
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import ValidationError, validate

from flows.form import name_of, parsed
from flows.recipes.digits import digits
from ns_core.config import EvaluateConfig, OfficialSets, Recipe
from ns_core.errors import UserError
from ns_core.settings import Settings, resource, science

DEPLOYMENTS = yaml.safe_load((Path(__file__).parents[2] / "deployments/prefect.yaml").read_text(encoding="utf-8"))
CAMPAIGN, EVALUATE = "flows.noisy_student.noisy_student", "flows.evaluate.evaluate"
ENTRYPOINTS = sorted({str(deployment["entrypoint"]) for deployment in DEPLOYMENTS["deployments"]})
DRAWN = {"string", "integer", "number", "boolean", "array", "object"}
"""What the page has a field for; without a type it is a box of bare JSON."""
UNIONS = ("anyOf", "oneOf", "allOf", "const")
Document = dict[str, Any]


def flow_at(entrypoint: str) -> Flow[..., Any]:
    module, _, name = entrypoint.rpartition(".")
    flow = getattr(import_module(module), name)
    assert isinstance(flow, Flow)
    return flow


def form(entrypoint: str) -> Document:
    """As the deployment has it."""
    return parameter_schema(flow_at(entrypoint)).model_dump_for_openapi()


def merged(field: Document, schema: Document) -> Document:
    """A field with the section that it refers to, as both pages put them together."""
    section = field.get("$ref", "").removeprefix("#/definitions/")
    return {**schema["definitions"][section], **field} if section else field


def sections(schema: Document) -> Iterator[tuple[str, Document]]:
    yield "parameters", schema
    yield from schema["definitions"].items()


def faults(schema: Document) -> Iterator[str]:
    """What a person would stumble over."""
    for section, owner in sections(schema):
        fields = owner["properties"]
        if sorted(field.get("position", -1) for field in fields.values()) != list(range(len(fields))):
            yield f"{section}: the page does not know the order"
        if owner is not schema and owner.get("additionalProperties") is not False:
            yield f"{section}: takes names that do not exist"
        for name, field in fields.items():
            yield from (f"{section}.{name}: {fault}" for fault in _faults(merged(field, schema)))


def _faults(field: Document) -> Iterator[str]:
    items = field.get("items", {})
    if not field.get("description") or field["description"].startswith(("Above", "At least", "Each", "Left empty")):
        yield "no description"
    if not field.get("title"):
        yield "no title"
    if any(union in one for union in UNIONS for one in (field, items)):
        yield "a union"
    for one in (field, items) if field.get("type") == "array" else (field,):
        if one.get("type") not in DRAWN or (one["type"] == "object" and "properties" not in one):
            yield "bare JSON"
        if one.get("type") in ("integer", "number") and not _bounded(one, field.get("description", "")):
            yield "no bounds, or none that are told"


def _bounded(number: Document, description: str) -> bool:
    if "enum" in number:
        return True
    lowest = number.get("minimum", number.get("exclusiveMinimum"))
    return lowest is not None and (f"{lowest:g} to " in description or f" {lowest:g}" in description)


def ordered(schema: Document, section: str) -> list[str]:
    fields = schema["definitions"][section]["properties"]
    return sorted(fields, key=lambda name: int(fields[name]["position"]))


def refusal(entrypoint: str, parameters: Document) -> str:
    """What the server says in place of making a run; empty: it makes one."""
    try:
        validate(parameters, form(entrypoint), raise_on_error=True)
    except ValidationError as error:
        return str(error)
    return ""


def recipe(**changed: Any) -> Document:
    """The form as it opens, with fields of it changed: `teacher={"lr": 0.2}`, `seed=1`."""
    document = digits().model_dump(mode="json")
    for name, value in changed.items():
        document[name] = {**document[name], **value} if isinstance(value, dict) else value
    return document


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
        *("name", "description", "generations", "seed", "data", "teacher", "infer", "select", "selection", "selector"),
        *("student", "student_models", "finetune", "evaluate", "compute"),
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


@pytest.mark.parametrize(
    ("changed", "field", "reason"),
    [
        ({"generations": 99}, "recipe.generations", "99 is greater than the maximum of 50"),
        ({"generations": "3"}, "recipe.generations", "'3' is not of type 'integer'"),
        ({"generations": ""}, "recipe.generations", "'' is not of type 'integer'"),
        ({"generations": None}, "recipe.generations", "None is not of type 'integer'"),
        ({"generations": 2.5}, "recipe.generations", "2.5 is not of type 'integer'"),
        ({"generations": True}, "recipe.generations", "True is not of type 'integer'"),
        ({"name": 3}, "recipe.name", "3 is not of type 'string'"),
        ({"teacher": {"lr": 0}}, "recipe.teacher.lr", "0 is less than or equal to the minimum of 0"),
        ({"teacher": {"lr": "0.1"}}, "recipe.teacher.lr", "'0.1' is not of type 'number'"),
        ({"teacher": {"model": ""}}, "recipe.teacher.model", "'' should be non-empty"),
        ({"student": {"ratoi": 3}}, "recipe.student", "('ratoi' was unexpected)"),
        ({"student": {"labels": "Soft"}}, "recipe.student.labels", "'Soft' is not one of ['soft', 'hard']"),
        ({"student_models": [""]}, "recipe.student_models[0]", "'' should be non-empty"),
        ({"student_models": [None]}, "recipe.student_models[0]", "None is not of type 'string'"),
        ({"select": {"threshold": 1.5}}, "recipe.select.threshold", "1.5 is greater than the maximum of 1"),
        ({"evaluate": {"severities": [6]}}, "recipe.evaluate.severities[0]", "6 is not one of [1, 2, 3, 4, 5]"),
        ({"evaluate": {"pgd_eps": [4, -1]}}, "recipe.evaluate.pgd_eps[1]", "-1 is less than the minimum of 0"),
        ({"evaluate": {"corruptions": ["smoke"]}}, "recipe.evaluate.corruptions[0]", "'smoke' is not one of"),
        ({"evaluate": {"corruptions": "fog"}}, "recipe.evaluate.corruptions", "'fog' is not of type 'array'"),
        ({"compute": {"compile": "yes"}}, "recipe.compute.compile", "'yes' is not of type 'boolean'"),
    ],
)
def test_a_bad_value_is_refused_before_a_run_exists(changed: Document, field: str, reason: str) -> None:
    said = refusal(CAMPAIGN, {"recipe": recipe(**changed)})

    assert f"Validation failed for field '{field}'." in said
    assert reason in said


def test_an_evaluation_without_a_checkpoint_is_refused_before_a_run_exists() -> None:
    assert "'checkpoint' is a required property" in refusal(EVALUATE, {"against": "latest"})
    assert refusal(EVALUATE, {"checkpoint": "latest"}) == ""
    assert "recipe" in refusal(CAMPAIGN, {"recipe": "digits"})


def test_a_field_that_was_cleared_has_the_value_that_its_description_names() -> None:
    cleared = recipe()
    del cleared["teacher"]["lr"], cleared["generations"]
    properties = Recipe.model_json_schema()["properties"]

    assert refusal(CAMPAIGN, {"recipe": cleared}) == ""
    assert (parsed(cleared, Recipe).generations, parsed(cleared, Recipe).teacher.lr) == (3, 0.016)
    assert properties["generations"]["description"].endswith("0 to 50; left empty: 3.")


CONTRADICTIONS = [
    (CAMPAIGN, {"recipe": recipe(finetune={"image_size": 8})}, "finetune.image_size 8 is below student.image_size 32"),
    (CAMPAIGN, {"recipe": recipe(selector="resnet18")}, "selector 'resnet18' selects once for all generations"),
    (CAMPAIGN, {"recipe": recipe(teacher={"accumulation": 3})}, "teacher: batch_size 50 cannot be divided into 3"),
    (EVALUATE, {"checkpoint": "latest", "config": {"pgd_eps": [0.00001]}}, "pgd_eps: 1e-05 is neither 0 nor at least"),
]


@pytest.mark.parametrize(("entrypoint", "parameters", "said"), CONTRADICTIONS)
def test_fields_that_contradict_each_other_end_a_workers_run_with_one_line(
    entrypoint: str, parameters: Document, said: str
) -> None:
    assert refusal(entrypoint, parameters) == "", "the server sees one field at a time"
    flow = flow_at(entrypoint)
    with disable_run_logger():
        state = flow.fn(**parameters)

    assert isinstance(state, State)
    assert state.is_failed()
    assert str(state.message).startswith(said)
    assert "\n" not in str(state.message)


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_a_flow_reads_its_settings_itself(entrypoint: str) -> None:
    """Else Prefect does it, and ends the run with pydantic's lines."""
    assert not flow_at(entrypoint).should_validate_parameters


def test_what_a_caller_in_this_process_made_is_taken_as_it_is() -> None:
    mine = digits()

    assert parsed(mine, Recipe) is mine
    assert parsed({"official": {"images": "/val"}}, EvaluateConfig).official == OfficialSets(images="/val")


@pytest.mark.parametrize("sent", [5, "digits", None, ["digits"], {"seed": "one", "ratio": 2}])
def test_whatever_the_form_was_made_to_send_is_one_line(sent: object) -> None:
    """Its switch turns the server's check off."""
    with pytest.raises(UserError) as caught:
        parsed(sent, Recipe)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (digits(), "digits"),
        ({"name": "mine", "seed": -1}, "mine"),
        ({}, "unnamed"),
        ({"name": 3}, "unnamed"),
        (5, "unnamed"),
    ],
)
def test_a_run_has_a_name_before_its_recipe_is_found_good(sent: object, name: str) -> None:
    assert name_of(sent) == name
