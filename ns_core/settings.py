"""The base of every configuration model: frozen, strict about names, each field science or resource.

A *science* field changes the result and is part of a stage's identity; a *resource* field (how many
threads, which device, where a folder lies) is not. A field has to say which it is when it is declared,
so nobody has to remember an exclude list.

In: keyword arguments or JSON. Out: frozen models, `science()`, the JSON document that is hashed, and a JSON schema
that a form can be drawn from: ordered, titled, with the limits in words.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, cast

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, JsonValue, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from ns_core.errors import UserError, nearest

ROLE = "role"
ADDED = "added"


def science(default: Any = ..., *, form: Mapping[str, Any] | None = None, added: bool = False, **limits: Any) -> Any:
    """A field that changes the result: part of the fingerprint.

    `limits`, and the `title` in a form, go to `pydantic.Field`; `form` is JSON schema for what the type alone does
    not say, such as the limits of a list's items, which the validators check as well. `added`: to a stage that there
    are artifacts of, with a default that changes nothing; at its default it is no part of the fingerprint, so that
    what was made before it came is found.
    """
    mark = {ADDED: True} if added else {}
    return Field(default, json_schema_extra={ROLE: "science", **mark, **(form or {})}, **limits)


def resource(default: Any = ..., *, form: Mapping[str, Any] | None = None, **limits: Any) -> Any:
    """A field that changes where, how fast or how loudly, never what: kept out of the fingerprint."""
    return Field(default, json_schema_extra={ROLE: "resource", **(form or {})}, **limits)


def _role(field: FieldInfo) -> str | None:
    extra = field.json_schema_extra
    return cast(str, extra.get(ROLE)) if isinstance(extra, dict) else None


def _added(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and ADDED in field.json_schema_extra


class Settings(BaseModel):
    """Frozen settings; declaring a field that is neither science nor resource is a `TypeError`."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if _role(field) is None:
                raise TypeError(
                    f"{cls.__name__}.{name}: declare it with science() or resource(), "
                    "so that its place in the fingerprint is decided"
                )

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Pydantic's schema, with what a form needs: see `_form_field`."""
        schema = handler(core)
        properties = handler.resolve_ref_schema(schema)["properties"]
        for position, name in enumerate(_form_order(cls)):
            title = cls.model_fields[name].title or name.replace("_", " ").capitalize()
            properties[name] |= _form_field(properties[name]) | {"title": title, "position": position}
        return schema

    def science(self) -> dict[str, JsonValue]:
        """The fields that make the identity, as plain JSON, nested settings included; of those `added` what is set."""
        document: dict[str, JsonValue] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if _role(field) == "science" and not (_added(field) and value == field.default):
                document[name] = (
                    value.science()
                    if isinstance(value, Settings)
                    else cast(JsonValue, self.model_dump(mode="json", include={name})[name])
                )
        return document

    def override(self, assignments: Sequence[str]) -> Self:
        """A copy with `section.field=value` assignments applied and everything validated again.

        Values are read as JSON where that is possible (`3`, `0.1`, `true`, `["a", "b"]`), else as text.
        Raises `UserError` in one line for an unknown name, a missing `=` or a value out of its range.
        """
        document = self.model_dump(mode="json")
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            if not equals:
                raise UserError(f"--set {assignment}: write it as section.field=value")
            _assign(document, type(self), path.strip(), text.strip())
        return type(self).parse(document)

    @classmethod
    def parse(cls, document: Any) -> Self:
        """`model_validate` whose failure is one line for a person."""
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise UserError(_one_line(error)) from None


class StageConfig(Settings):
    """The settings of one stage. `VERSION` is bumped when the stage's meaning changes."""

    STAGE: ClassVar[str]
    VERSION: ClassVar[int]


def _form_order(model: type[BaseModel]) -> list[str]:
    """The fields in a form: a model's own, then those of its base, each as they are declared."""
    inherited = [name for base in model.__bases__ if issubclass(base, Settings) for name in _form_order(base)]
    return [name for name in model.model_fields if name not in inherited] + inherited


def _form_field(schema: JsonSchemaValue) -> dict[str, str]:
    """The description of a field as one paragraph that ends with its limits and what an empty field means.

    Prefect's form shows no limits, and leaves a cleared field out of what it sends. It has no order either: the
    server's database sorts names by their length, so every field has a `position`.
    """
    text = " ".join(schema.get("description", "").split())
    limits, items = _limits(schema), _limits(schema.get("items", {}))
    hints = [limits, f"each {items}" if items else ""]
    if schema.get("type") in ("integer", "number", "string") and "enum" not in schema and schema.get("default") != "":
        hints.append(f"left empty: {_plain(schema['default'])}" if "default" in schema else "")
    hint = "; ".join(filter(None, hints))
    sentences = [text, f"{hint[:1].upper()}{hint[1:]}." if hint else ""]
    return {"description": " ".join(filter(None, sentences))} if any(sentences) else {}


def _limits(schema: JsonSchemaValue) -> str:
    """`0 to 1`, `above 0`, `at least 1`; of whole numbers all limits belong to the range."""
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if schema.get("type") == "integer":
        low, above = (low if above is None else above + 1), None
        high, below = (high if below is None else below - 1), None
    if low is not None and high is not None:
        return f"{_plain(low)} to {_plain(high)}"
    named = {"at least": low, "above": above, "at most": high, "below": below}
    return " and ".join(f"{words} {_plain(limit)}" for words, limit in named.items() if limit is not None)


def _plain(value: object) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _assign(document: dict[str, Any], model: type[Settings], path: str, text: str) -> None:
    """Puts `text` at `path` into `document`, checking each name on the way against the models."""
    *sections, name = path.split(".")
    for depth, section in enumerate(sections):
        inner = _annotation(model, section, path, depth)
        if not _is_section(inner):
            raise UserError(f"--set {path}: '{section}' is a value, not a section")
        document, model = document[section], cast(type[Settings], inner)
    annotation = _annotation(model, name, path, len(sections))
    if _is_section(annotation):
        fields = ", ".join(cast(type[Settings], annotation).model_fields)
        raise UserError(f"--set {path}: '{name}' is a section; set one of its fields: {fields}")
    document[name] = text if annotation is str else _json_or_text(text)


def _annotation(model: type[Settings], name: str, path: str, depth: int) -> Any:
    fields = model.model_fields
    if name not in fields:
        where = "section " + ".".join(path.split(".")[:depth]) if depth else "the recipe"
        raise UserError(
            f"--set {path}: no field '{name}' in {where}{nearest(name, fields)}; it has {', '.join(sorted(fields))}"
        )
    return fields[name].annotation


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _one_line(error: ValidationError) -> str:
    """The first complaint of pydantic, as `section.field: what is wrong (got value)`."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    where = f"{place}: " if place else ""
    message = first["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list in square brackets")
    others = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "value_error":
        return f"{where}{message}{others}"
    return f"{where}{message[0].lower()}{message[1:]}, got {first['input']!r}{others}"
