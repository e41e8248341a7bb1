"""What each kind of source offers."""

from collections.abc import Callable
from dataclasses import dataclass

from ns_core.config import DataConfig
from ns_core.data.source import Source


@dataclass(frozen=True)
class Kind:
    """Three functions of a configuration; each raises `UserError` for a person's mistake."""

    open: Callable[[DataConfig], Source]
    digest: Callable[[DataConfig], str]
    """The identity of the images."""
    check: Callable[[DataConfig], object]
    """Quick; may be `open`, where that reads no image."""
