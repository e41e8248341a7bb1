"""What the form of a run sent, as settings.

The server checks each field against the deployment's schema, unless its switch at the form is off, and refuses before a
run exists. What needs two fields at once is only seen here: a flow that takes settings is declared with
`@flow(validate_parameters=False)` and reads them inside `attended`, so that a mistake is the run's state in one line.
"""

from collections.abc import Mapping
from typing import TypeVar

from ns_core.config import Recipe
from ns_core.settings import Settings

SettingsT = TypeVar("SettingsT", bound=Settings)


def parsed(value: object, kind: type[SettingsT]) -> SettingsT:
    """The settings that a worker was given as JSON; those of a caller in this process are settings already.

    Raises `UserError` in one line.
    """
    return value if isinstance(value, kind) else kind.parse(value)


def name_of(recipe: object) -> str:
    """A recipe's name before the recipe is checked: a run is called first."""
    if isinstance(recipe, Recipe):
        return recipe.name
    name = recipe.get("name") if isinstance(recipe, Mapping) else None
    return name if isinstance(name, str) else str(Recipe.model_fields["name"].default)
