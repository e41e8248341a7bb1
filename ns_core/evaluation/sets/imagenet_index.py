"""ImageNet's classes, and those of ImageNet-A and -R, as WordNet ids.

timm ships the lists; its files are read without importing it, which would load torch. They are those of
natural-adv-examples (eval.py) and imagenet-r (eval.py).
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def synsets() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet-1k by class number."""
    return _lines("imagenet_synsets.txt")


@cache
def synsets_of(name: str) -> tuple[str, ...]:
    """The 200 classes of `imagenet_a` or `imagenet_r`, sorted."""
    return _lines(f"{name}_synsets.txt")


def _lines(file: str) -> tuple[str, ...]:
    spec = find_spec("timm")
    assert spec is not None, "timm is a dependency of every worker"
    assert spec.submodule_search_locations, spec
    path = Path(spec.submodule_search_locations[0], "data", "_info", file)
    return tuple(path.read_text(encoding="ascii").split())
