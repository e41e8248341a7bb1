"""The recipes by name. A recipe is a function that returns a whole, typed experiment."""

from collections.abc import Callable

from flows.recipes.cifar10 import cifar10_4k
from flows.recipes.digits import digits, digits_smoke, digits_supervised
from flows.recipes.folder import folder, folder_large, folder_small
from flows.recipes.imagenet import EQUAL_SIZE, imagenet_l2
from flows.recipes.stl10 import stl10
from flows.recipes.svhn import svhn
from ns_core.config import Recipe
from ns_core.errors import UserError, nearest

RECIPES: dict[str, Callable[[], Recipe]] = {
    "digits": digits,
    "digits_smoke": digits_smoke,
    "digits_supervised": digits_supervised,
    "svhn": svhn,
    "cifar10_4k": cifar10_4k,
    "stl10": stl10,
    "folder_small": folder_small,
    "folder": folder,
    "folder_large": folder_large,
    **EQUAL_SIZE,
    "imagenet_l2": imagenet_l2,
}


def recipe(name: str) -> Recipe:
    """The recipe of this name; `UserError` with the nearest one otherwise."""
    if name not in RECIPES:
        raise UserError(f"no recipe '{name}'{nearest(name, RECIPES)}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()
