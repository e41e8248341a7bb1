"""Fields are science or resource, and a person who sets one wrongly is told so in one line."""

from typing import Literal, Self

import pytest
from pydantic import ValidationError, model_validator

from ns_core.errors import UserError
from ns_core.fingerprint import stage_fingerprint
from ns_core.settings import Settings, StageConfig, resource, science


class Oven(Settings):
    degrees: float = science(180.0, ge=20, le=300)
    fan: bool = science(False)
    kitchen: str = resource("home")


class Pizza(Settings):
    name: str = resource("unnamed")
    base: str = science("thin")
    slices: int = science(8, ge=1)
    sauce: Literal["red", "white"] = science("red")
    toppings: tuple[str, ...] = science(("basil",))
    minutes: tuple[float, ...] = science((9.0,))
    oven: Oven = science(Oven())
    spare_oven: Oven = resource(Oven())

    @model_validator(mode="after")
    def _not_too_many(self) -> Self:
        if len(self.toppings) > self.slices:
            raise ValueError(f"toppings: {len(self.toppings)} are more than slices {self.slices}: leave some out")
        return self


def mistake(*assignments: str) -> str:
    """What a person is told, which has to be one line."""
    with pytest.raises(UserError) as caught:
        Pizza().override(assignments)
    (line,) = str(caught.value).splitlines()
    return line


def test_a_field_without_a_role_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"Careless\.speed: declare it with science\(\) or resource\(\)"):

        class Careless(Settings):
            speed: int = 3


def test_a_field_that_is_declared_anew_needs_its_role_anew() -> None:
    with pytest.raises(TypeError, match=r"Hot\.degrees"):

        class Hot(Oven):
            degrees: float = 250.0


def test_science_is_the_science_alone_as_json_at_every_depth() -> None:
    pizza = Pizza(name="margherita", oven=Oven(kitchen="away"), spare_oven=Oven(degrees=300))
    assert pizza.science() == {
        "base": "thin",
        "slices": 8,
        "sauce": "red",
        "toppings": ["basil"],
        "minutes": [9.0],
        "oven": {"degrees": 180.0, "fan": False},
    }


def test_a_field_that_was_added_is_no_science_until_it_is_set() -> None:
    class Older(StageConfig):
        STAGE, VERSION = "bake", 1
        slices: int = science(8)

    class Newer(Older):
        salt: float = science(1.0, ge=0, added=True)
        herbs: tuple[str, ...] = science((), added=True)

    assert Newer().science() == Newer(salt=1, herbs=()).science() == Older().science()
    assert stage_fingerprint(Newer(), {}) == stage_fingerprint(Older(), {})
    assert Newer(salt=2.0, herbs=("thyme",)).science() == {"slices": 8, "salt": 2.0, "herbs": ["thyme"]}


def test_settings_are_frozen_and_know_their_fields() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Pizza().slices = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="cheese"):
        Pizza.model_validate({"cheese": 2})


def test_a_default_out_of_its_own_range_is_found() -> None:
    class NoSlices(Settings):
        slices: int = science(0, ge=1)

    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        NoSlices()


@pytest.mark.parametrize(
    ("assignment", "field", "expected"),
    [
        ("slices=6", "slices", 6),
        ("slices = 6 ", "slices", 6),
        ("sauce=white", "sauce", "white"),
        ('sauce="white"', "sauce", "white"),
        ('toppings=["olives", "onion"]', "toppings", ("olives", "onion")),
        ("toppings=[]", "toppings", ()),
        ("minutes=[8, 9.5]", "minutes", (8.0, 9.5)),
    ],
)
def test_values_are_read_as_json_or_else_as_text(assignment: str, field: str, expected: object) -> None:
    assert getattr(Pizza().override([assignment]), field) == expected


@pytest.mark.parametrize("text", ["3", "true", "null", '"thick"', "[1]", "", "a=b", "deep pan"])
def test_a_text_field_takes_the_text_as_it_stands(text: str) -> None:
    assert Pizza().override([f"base={text}"]).base == text


def test_a_field_of_a_section_is_reached_by_its_path_and_its_neighbours_stay() -> None:
    pizza = Pizza(oven=Oven(fan=True, kitchen="away"))
    changed = pizza.override(["oven.degrees=250", "spare_oven.kitchen=3", "slices=4"])
    assert changed.oven == Oven(degrees=250, fan=True, kitchen="away")
    assert (changed.spare_oven.kitchen, changed.slices) == ("3", 4)
    assert pizza == Pizza(oven=Oven(fan=True, kitchen="away")), "the original is as it was"


def test_a_whole_number_for_a_fraction_is_the_same_science() -> None:
    assert repr(Pizza().override(["oven.degrees=200"]).science()) == repr(Pizza(oven=Oven(degrees=200.0)).science())


def test_the_last_assignment_counts_and_only_the_end_result_has_to_fit() -> None:
    assert Pizza().override(["slices=2", "slices=3"]).slices == 3
    assert Pizza().override(["slices=2", 'toppings=["a","b","c"]', "slices=3"]).toppings == ("a", "b", "c")


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("slizes=3", ["slizes", "the recipe", "did you mean 'slices'?", "spare_oven"]),
        ("ofen.degrees=3", ["'ofen'", "the recipe", "did you mean 'oven'?"]),
        ("oven.degree=3", ["'degree'", "section oven", "did you mean 'degrees'?", "fan, kitchen"]),
        ("oven.xyz=3", ["'xyz'", "section oven", "it has degrees, fan, kitchen"]),
        ("=3", ["no field ''", "the recipe"]),
        ("oven..fan=1", ["no field ''", "section oven"]),
        ("oven=3", ["'oven' is a section", "set one of its fields: degrees, fan, kitchen"]),
        ("slices.degrees=3", ["slices.degrees", "'slices' is a value, not a section"]),
        ("slices", ["slices", "write it as section.field=value"]),
        ("oven.degrees", ["oven.degrees", "write it as section.field=value"]),
        ("slices=0", ["slices:", "greater than or equal to 1", "got 0"]),
        ("oven.degrees=301", ["oven.degrees:", "less than or equal to 300", "got 301"]),
        ("oven.degrees=NaN", ["oven.degrees:", "finite number", "got nan"]),
        ("oven.degrees=1e999", ["oven.degrees:", "finite number", "got inf"]),
        ("slices=many", ["slices:", "valid integer", "got 'many'"]),
        ("slices=2.5", ["slices:", "valid integer", "got 2.5"]),
        ("slices=", ["slices:", "valid integer", "got ''"]),
        ("slices=null", ["slices:", "valid integer", "got None"]),
        ("oven.fan=perhaps", ["oven.fan:", "valid boolean", "got 'perhaps'"]),
        ("sauce=green", ["sauce:", "'red' or 'white'", "got 'green'"]),
        ("toppings=olives", ["toppings:", "list in square brackets", "got 'olives'"]),
        ('toppings=["olives", 3]', ["toppings.1:", "valid string", "got 3"]),
        ("slices=two\nlines", ["slices:", "valid integer", r"got 'two\nlines'"]),
        ('toppings=["a","b","c","d","e","f","g","h","i"]', ["toppings: 9 are more than slices 8: leave some out"]),
    ],
)
def test_a_mistake_is_told_in_one_line_with_the_field_and_the_remedy(assignment: str, parts: list[str]) -> None:
    line = mistake(assignment)
    for part in parts:
        assert part in line, line


def test_of_several_mistakes_the_first_is_told_and_the_others_are_counted() -> None:
    line = mistake("oven.degrees=0", "slices=0", "sauce=green")
    assert line.startswith("slices: ")
    assert line.endswith("(and 2 more)")


def test_a_section_of_a_section_says_where_it_is() -> None:
    class Kitchen(Settings):
        pizza: Pizza = science(Pizza())

    with pytest.raises(UserError, match=r"no field 'degres' in section pizza\.oven \(did you mean 'degrees'\?\)"):
        Kitchen().override(["pizza.oven.degres=1"])
    with pytest.raises(UserError, match=r"^pizza\.oven\.degrees: input should be"):
        Kitchen().override(["pizza.oven.degrees=1"])
    with pytest.raises(UserError, match=r"^pizza: toppings: 2 are more than slices 1: leave some out$"):
        Kitchen().override(["pizza.slices=1", 'pizza.toppings=["a", "b"]'])


def test_a_document_that_is_no_document_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^input should be a valid dictionary or instance of Pizza, got 5$"):
        Pizza.parse(5)
