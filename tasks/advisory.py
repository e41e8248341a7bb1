"""What a run shows to people and could do without: whatever cannot be made is a warning, never a failed run."""

import base64
from collections.abc import Callable
from typing import TypeVar

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

PREFECT_PICTURE_BYTES = 60_000
"""Prefect refuses the event of an artifact that is much larger than this in base64."""

T = TypeVar("T")


def tried(what: str, make: Callable[[], T]) -> T | None:
    """What `make` gives; None with a warning that names `what` when it fails."""
    try:
        return make()
    except Exception as error:  # whatever a drawing library, the store or Prefect's server raises
        get_run_logger().warning("%s could not be made: %s: %s", what, type(error).__name__, error)
        return None


def show_in_prefect(key: str, description: str, text: str, uri: str, picture: bytes | None) -> None:
    """Markdown as an artifact of Prefect, with a picture (PNG) below while it fits, and where the whole page lies."""
    image = ""
    if picture is not None and len(picture) < PREFECT_PICTURE_BYTES:
        image = f"\n\n![{description}](data:image/png;base64,{base64.b64encode(picture).decode()})"
    create_markdown_artifact(key=key, markdown=f"{text}{image}\n\nThe whole report: `{uri}`", description=description)
