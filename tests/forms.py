"""The forms of deployed flows for tests: the JSON schema that Prefect's page draws, what is wrong with one, and the
server's own validator."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import ValidationError, validate

from flows.recipes.digits import digits

DEPLOYMENTS = yaml.safe_load((Path(__file__).parents[1] / "deployments/prefect.yaml").read_text(encoding="utf-8"))
CAMPAIGN, EVALUATE, AUDIT = "flows.noisy_student.noisy_student", "flows.evaluate.evaluate", "flows.audit.audit"
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
