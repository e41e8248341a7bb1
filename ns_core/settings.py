"""The base of every configuration model: frozen, strict about names, each field science or resource.

A *science* field changes the result and is part of a stage's identity; a *resource* field (how many
threads, which device, where a folder lies) is not. A field has to say which it is when it is declared,
so nobody has to remember an exclude list.

In: keyword arguments or JSON. Out: frozen models, and `science()`, the JSON document that is hashed.
"""

import json
from collections.abc import Sequence
from typing import Any, ClassVar, Self, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.fields import FieldInfo

from ns_core.errors import UserError, nearest

ROLE = "role"


def science(default: Any = ..., **limits: Any) -> Any:
    """A field that changes the result: part of the fingerprint. `limits` go to `pydantic.Field`."""
    return Field(default, json_schema_extra={ROLE: "science"}, **limits)


def resource(default: Any = ..., **limits: Any) -> Any:
    """A field that changes where, how fast or how loudly, never what: kept out of the fingerprint."""
    return Field(default, json_schema_extra={ROLE: "resource"}, **limits)


def _role(field: FieldInfo) -> str | None:
    extra = field.json_schema_extra
    return cast(str, extra.get(ROLE)) if isinstance(extra, dict) else None


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

    def science(self) -> dict[str, JsonValue]:
        """The fields that make the identity, as plain JSON, nested settings included."""
        document: dict[str, JsonValue] = {}
        for name, field in type(self).model_fields.items():
            if _role(field) == "science":
                value = getattr(self, name)
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
