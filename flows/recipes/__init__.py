"""The recipes by name. A recipe is a function that returns a whole, typed experiment."""

from collections.abc import Callable

from flows.recipes.digits import digits, digits_smoke, digits_supervised
from flows.recipes.folder import folder
from flows.recipes.imagenet import imagenet, imagenet_b0
from flows.recipes.svhn import svhn
from ns_core.config import Recipe
from ns_core.errors import UserError, nearest

RECIPES: dict[str, Callable[[], Recipe]] = {
    "digits": digits,
    "digits_smoke": digits_smoke,
    "digits_supervised": digits_supervised,
    "folder": folder,
    "imagenet": imagenet,
    "imagenet_b0": imagenet_b0,
    "svhn": svhn,
}


def recipe(name: str) -> Recipe:
    """The recipe of this name; `UserError` with the nearest one otherwise."""
    if name not in RECIPES:
        raise UserError(f"no recipe '{name}'{nearest(name, RECIPES)}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()
