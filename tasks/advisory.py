"""What a run shows to people and could do without: whatever cannot be made is a warning, never a failed run."""

import base64
import time
from collections.abc import Callable
from typing import TypeVar

import httpx
from prefect.artifacts import create_markdown_artifact
from prefect.context import SettingsContext, get_settings_context
from prefect.logging import get_run_logger
from prefect.settings import Settings

PREFECT_PICTURE_BYTES = 60_000
"""Prefect refuses the event of an artifact that is much larger than this in base64."""
PATIENCE_SECONDS = 60.0
"""For a report while Prefect's server is away: it is shown once, at the end of a stage or run."""
LONGEST_WAIT_SECONDS = 8.0
_SERVER_ERROR = 500
_made: list[tuple[Settings, Settings]] = []
"""The last settings that were made impatient, and what came of it."""

T = TypeVar("T")


def tried(what: str, make: Callable[[], T]) -> T | None:
    """What `make` gives; None with a warning that names `what` when it fails."""
    try:
        return make()
    except Exception as error:  # whatever a drawing library, the store or Prefect's server raises
        get_run_logger().warning("%s could not be made: %s: %s", what, type(error).__name__, error)
        return None


def asked_once(request: Callable[[], T]) -> T:
    """What Prefect's server answers, or its error at once: Prefect's own client waits about a minute for a server
    that is away, and its clients of a single request do not wait at all."""
    context = get_settings_context()
    with SettingsContext(profile=context.profile, settings=_impatient(context.settings)):
        return request()


def _impatient(settings: Settings) -> Settings:
    """Settings with which a request is sent once. Kept: making them takes 0.1 s of CPU time."""
    if not _made or _made[0][0] is not settings:
        _made[:] = [(settings, settings.copy_with_update(updates={"client.max_retries": 0}))]
    return _made[0][1]


def asked(request: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """What Prefect's server answers, be it away for `seconds`. Raises what the last try did."""
    deadline, wait = time.monotonic() + seconds, 0.5
    while True:
        try:
            return asked_once(request)
        except httpx.HTTPError as error:
            refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < _SERVER_ERROR
            if refused or time.monotonic() + wait > deadline:
                raise
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


def show_in_prefect(key: str, description: str, text: str, uri: str, picture: bytes | None) -> None:
    """Markdown as an artifact of Prefect, with a picture (PNG) below while it fits, and where the whole page lies."""
    image = ""
    if picture is not None and len(picture) < PREFECT_PICTURE_BYTES:
        image = f"\n\n![{description}](data:image/png;base64,{base64.b64encode(picture).decode()})"
    markdown = f"{text}{image}\n\nThe whole report: `{uri}`"
    tried(
        f"{description} in Prefect",
        lambda: asked(lambda: create_markdown_artifact(markdown, key=key, description=description)),
    )
