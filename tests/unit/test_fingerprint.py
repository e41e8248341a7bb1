"""One identity: what changes it, what does not, and what is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ns_core.config import Augmentation, InferConfig, Recipe
from ns_core.fingerprint import canonical_json, digest, stage_fingerprint
from ns_core.settings import Settings, StageConfig
from tests.golden.regenerate import SMALL, current, recorded

REPOSITORY = Path(__file__).resolve().parents[2]
INPUTS = {"dataset": "a" * 64, "teacher": "b" * 64}
RECIPE = SMALL.override(["finetune.augmentation.min_area=0.5", "select.threshold=0.3", "select.target_precision=0.5"])
"""Cropping on, since where it is off max_area can have but one value; a threshold below half of max_confidence; a
wanted precision, which can be shown one way or the other."""
STAGES: list[StageConfig] = [
    section for name in Recipe.model_fields if isinstance(section := getattr(RECIPE, name), StageConfig)
]
NOISE = {"dropout", "stochastic_depth", "augmentation"}
NOISED = InferConfig(dropout=0.25, stochastic_depth=0.25, augmentation=Augmentation())
"""Tells of the fields of `NOISE`; noise goes by the plain path alone, so that others are tried without it."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def variants(value: Any, annotation: Any) -> Iterator[Any]:
    """Values of the same type that differ from `value`; some may be out of range."""
    if get_origin(annotation) is Literal:
        yield from (choice for choice in get_args(annotation) if choice != value)
    elif isinstance(value, str):
        yield value + "x"
    elif isinstance(value, tuple):
        yield value[:-1]
        yield value[::-1]
        yield (*value, 1.0)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, Settings):
        for name, field in type(value).model_fields.items():
            others = variants(getattr(value, name), field.annotation)
            yield from ({**value.model_dump(), name: other} for other in others)
    else:
        yield from {value + 1, value / 2, 1.0} if isinstance(value, float) else {value + 1, value + 1_000_000}


def places(settings: Settings, role: str) -> Iterator[tuple[str, ...]]:
    """The path of every field that plays `role`, sections entered (a section of resources is all resource)."""
    for name, field in type(settings).model_fields.items():
        extra, inner = field.json_schema_extra, getattr(settings, name)
        assert isinstance(extra, dict)
        if isinstance(inner, Settings) and extra["role"] == "science":
            yield from ((name, *rest) for rest in places(inner, role))
        elif extra["role"] == role:
            yield (name,)


def changed(config: StageConfig, place: tuple[str, ...]) -> Iterator[StageConfig]:
    """Copies of `config`, valid all of them, with another value at `place`."""
    section: Settings = config
    for name in place[:-1]:
        section = getattr(section, name)
    field = type(section).model_fields[place[-1]]
    for value in variants(getattr(section, place[-1]), field.annotation):
        document = config.model_dump()
        target = document
        for name in place[:-1]:
            target = target[name]
        target[place[-1]] = value
        try:
            copy = type(config).model_validate(document)
        except ValidationError:
            continue
        if copy != config:
            yield copy


def cases(role: str) -> list[Any]:
    return [
        pytest.param(config, place, id=f"{config.STAGE}.{'.'.join(place)}")
        for config in (*STAGES, NOISED)
        for place in places(config, role)
        if not isinstance(config, InferConfig) or (place[0] in NOISE) == (config is NOISED)
    ]


def test_the_fingerprints_of_a_whole_run_are_those_on_record() -> None:
    document = current("fingerprints.json")
    assert document == recorded("fingerprints.json"), "explain the diff, bump a VERSION, run `make golden`"
    assert isinstance(document, dict)
    assert len(set(document.values())) == len(document) == 13
    assert all(len(str(name)) == 64 and int(str(name), 16) >= 0 for name in document.values())


@pytest.mark.parametrize("hash_seed", ["0", "1", "42"])
def test_every_process_finds_the_same_fingerprints(hash_seed: str) -> None:
    program = "import json; from tests.golden.regenerate import fingerprints; print(json.dumps(fingerprints()))"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, env=environment, capture_output=True)
    assert json.loads(done.stdout) == recorded("fingerprints.json")


@pytest.mark.parametrize(("config", "place"), cases("science"))
def test_every_science_field_changes_it(config: StageConfig, place: tuple[str, ...]) -> None:
    copies = list(changed(config, place))
    assert copies, "no other value is valid"
    names = {stage_fingerprint(copy, INPUTS) for copy in copies}
    assert len(names) == len(copies)
    assert stage_fingerprint(config, INPUTS) not in names


@pytest.mark.parametrize(("config", "place"), cases("resource"))
def test_no_resource_field_changes_it(config: StageConfig, place: tuple[str, ...]) -> None:
    copies = list(changed(config, place))
    assert copies, "no other value is valid"
    assert {stage_fingerprint(copy, INPUTS) for copy in copies} == {stage_fingerprint(config, INPUTS)}


def test_two_fields_that_trade_values_are_two_fingerprints() -> None:
    copies = list(chain(*(changed(config, place) for config in STAGES for place in places(config, "science"))))
    assert len({stage_fingerprint(copy, INPUTS) for copy in copies}) == len(copies)


@pytest.mark.parametrize("config", STAGES, ids=lambda config: str(config.STAGE))
def test_name_and_version_of_the_stage_change_it(config: StageConfig) -> None:
    class Renamed(type(config)):  # type: ignore[misc]
        STAGE = config.STAGE + "-again"

    class Bumped(type(config)):  # type: ignore[misc]
        VERSION = config.VERSION + 1

    copies: list[StageConfig] = [kind.model_validate(config.model_dump()) for kind in (Renamed, Bumped)]
    assert len({stage_fingerprint(copy, INPUTS) for copy in [config, *copies]}) == 3


def test_inputs_change_it_by_name_and_by_fingerprint_but_not_by_order() -> None:
    config = STAGES[0]
    dataset, teacher = INPUTS["dataset"], INPUTS["teacher"]
    whole = stage_fingerprint(config, {"dataset": dataset, "teacher": teacher})
    assert stage_fingerprint(config, {"teacher": teacher, "dataset": dataset}) == whole
    others: list[dict[str, str]] = [
        {},
        {"dataset": dataset},
        {"dataset": teacher, "teacher": dataset},
        {"dataset": dataset, "student": teacher},
        {"dataset": dataset, "teacher": teacher[:-1] + "c"},
    ]
    assert len({whole, *(stage_fingerprint(config, other) for other in others)}) == 6


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({"a", "b"}, TypeError, "value is a set"),
        ([1, {"b"}], TypeError, r"value\[1\] is a set"),
        ({"a": [0, {"folder": Path("x")}]}, TypeError, r"value\.a\[1\]\.folder is a PosixPath.*what it holds"),
        ({"a": object()}, TypeError, r"value\.a is a object"),
        ({"a": b"bytes"}, TypeError, r"value\.a is a bytes"),
        ({"a": 1 + 2j}, TypeError, r"value\.a is a complex"),
        ({"f": print}, TypeError, r"value\.f is a builtin_function_or_method"),
        ({"a": {"b": (1, float("nan"))}}, ValueError, r"value\.a\.b\[1\] is nan"),
        ([float("-inf")], ValueError, r"value\[0\] is -inf"),
        ({"a": {3: "x"}}, TypeError, r"value\.a has the key 3: only text keys"),
        ({None: 1}, TypeError, "value has the key None"),
    ],
)
def test_what_has_no_stable_spelling_is_refused_and_its_place_named(
    value: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        digest(value)


def test_the_place_is_told_from_the_name_it_was_given() -> None:
    with pytest.raises(TypeError, match=r"record\.result is a set"):
        canonical_json({"result": set()}, where="record")


def test_the_spelling_is_compact_sorted_ascii() -> None:
    value = {"b": [1, 1.0, 1e-5, -0.5, True, None], "a": "Käse \n", "B": ()}
    assert canonical_json(value) == r'{"B":[],"a":"K\u00e4se \n","b":[1,1.0,1e-05,-0.5,true,null]}'


def test_an_enum_of_text_is_spelled_as_its_text() -> None:
    class Colour(StrEnum):
        RED = "red"

    assert canonical_json([Colour.RED]) == '["red"]'


@given(JSON)
def test_the_spelling_keeps_the_whole_value(value: Any) -> None:
    text = canonical_json(value)
    assert text.isascii()
    assert canonical_json(json.loads(text)) == text
    assert json.loads(text) == value


@given(st.dictionaries(st.text(), JSON, min_size=2, max_size=6), st.randoms())
def test_the_order_of_keys_does_not_count(document: dict[str, Any], random: Any) -> None:
    keys = list(document)
    random.shuffle(keys)
    assert digest({key: document[key] for key in keys}) == digest(document)
