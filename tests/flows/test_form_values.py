"""What becomes of what a form sends: refused before a run exists, or one line at once."""

import pytest
from prefect.client.schemas.objects import State
from prefect.logging import disable_run_logger

from flows.form import name_of, parsed
from flows.recipes.digits import digits
from ns_core.config import EvaluateConfig, OfficialSets, Recipe
from ns_core.errors import UserError
from tests.forms import AUDIT, CAMPAIGN, ENTRYPOINTS, EVALUATE, Document, flow_at, recipe, refusal


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


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"folds": 1}, "1 is not one of [0, 2, 3,"),
        ({"folds": 21}, "21 is not one of"),
        ({"folds": 2.5}, "2.5 is not"),
        ({"target": 0}, "0 is less than or equal to the minimum of 0"),
        ({"target": 1}, "1 is greater than or equal to the maximum of 1"),
        ({"target": "0.9"}, "'0.9' is not of type 'number'"),
        ({"recipe": recipe(select={"target_precision": 1})}, "1 is greater than or equal to the maximum of 1"),
    ],
)
def test_an_audit_of_no_sense_is_refused_before_a_run_exists(sent: Document, reason: str) -> None:
    assert reason in refusal(AUDIT, sent)
    assert refusal(AUDIT, {"folds": 0, "target": 0.9, "recipe": recipe()}) == refusal(AUDIT, {}) == ""


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
    (AUDIT, {"recipe": recipe(select={"target_rule": "assured"})}, "select: target_rule=assured says how"),
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
