"""Debian's Chromium, driven by Playwright: the pages of Prefect and MLflow as a person has them before them.

`chromium()` is a page for one block, `RunForm` the form in Prefect's page that starts a run of a deployment, and
`save_picture` a screenshot. The only reason to skip is that Chromium is not installed.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, ViewportSize, expect, sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WRITE_IMAGES = os.environ.get("NS_WRITE_IMAGES") == "1"
"""Whether the pictures of the README are made anew."""
WINDOW: ViewportSize = {"width": 1400, "height": 1000}
PATIENCE_SECONDS = 120.0
"""For a page to show something; with 20 processes waiting for 2 cores the form took 40 s."""
COLOURS = 256
COLOURFUL = 60
"""Difference between the channels of a pixel that is no shade of grey."""
LEAST_COLOURFUL = 0.005
"""Share of a drawing's pixels that are, once it is there."""

ARGUMENTS = [
    "--no-sandbox",  # as root, and in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    # Whatever a page or the browser itself asks for elsewhere has no address.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]

ELSEWHERE = {
    # Logos of blocks and work pools, which are drawn without them.
    "raw.githubusercontent.com",
    # Prefect's page asks for the settings of its statistics even where the server says they are off; no setting of
    # 3.8.8 stops it. The statistics themselves would go to api2.amplitude.com.
    "sr-client-cfg.amplitude.com",
}
"""Hosts that pages are known to ask for, in vain."""


@contextmanager
def chromium() -> Iterator[Page]:
    """A page of a browser that remembers nothing. After the block: whether anything was asked for elsewhere."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    elsewhere = set[str]()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        context = browser.new_context(
            viewport=WINDOW,
            device_scale_factor=1.5 if WRITE_IMAGES else 1.0,  # sharp on a fine screen
            locale="en-US",
            timezone_id="UTC",
        )
        context.set_default_timeout(1000 * PATIENCE_SECONDS)
        expect.set_options(timeout=1000 * PATIENCE_SECONDS)
        context.on("request", lambda request: elsewhere.update(_hosts_elsewhere(request.url)))
        try:
            yield context.new_page()
        finally:
            browser.close()
    assert elsewhere <= ELSEWHERE, f"a page asked for something of {sorted(elsewhere - ELSEWHERE)}"


def _hosts_elsewhere(url: str) -> set[str]:
    parts = urlsplit(url)
    here = parts.scheme in ("data", "blob") or parts.hostname == "127.0.0.1"
    return set() if here else {str(parts.hostname)}


def save_picture(page: Page, folder: Path, name: str) -> None:
    """`name.png` of what the window shows, in `folder`; with NS_WRITE_IMAGES=1 in `docs/images` too."""
    expect(page.locator("[data-sonner-toast]")).to_have_count(0)
    path = folder / f"{name}.png"
    page.screenshot(path=path, animations="disabled", caret="hide")
    with Image.open(path) as picture:
        # Pages are flat: nobody sees the difference, and it is a third of the bytes.
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    if WRITE_IMAGES:
        IMAGES.mkdir(exist_ok=True)
        shutil.copyfile(path, IMAGES / path.name)


def wait_until_drawn(drawing: Locator) -> None:
    """Until a canvas has colours and no longer changes; what is on it is nowhere in the page's text."""
    deadline, before = monotonic() + PATIENCE_SECONDS, b""
    while monotonic() < deadline:
        now = drawing.screenshot()
        if now == before and _colourful(now) > LEAST_COLOURFUL:
            return
        before = now
    raise AssertionError(f"nothing was drawn within {PATIENCE_SECONDS:.0f} s")


def _colourful(png: bytes) -> float:
    """Share of the pixels."""
    with Image.open(BytesIO(png)) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=np.int16)
    return float(((pixels.max(axis=2) - pixels.min(axis=2)) > COLOURFUL).mean())


@dataclass(frozen=True)
class RunForm:
    """The form of a custom run; its fields are found by the titles that a person reads."""

    page: Page
    schema: dict[str, Any]
    """`parameter_openapi_schema` of the deployment, which says how each field is titled."""

    def fill(self, path: str, value: str | float) -> Locator:
        """Types into the field at `path`, such as `recipe.teacher.steps`."""
        field = self.field(path).get_by_role("textbox" if isinstance(value, str) else "spinbutton")
        field.fill(str(value))
        expect(field).to_have_value(str(value))
        return field

    def submit(self) -> None:
        self.page.get_by_role("button", name="Submit").click()

    def field(self, path: str) -> Locator:
        """A field with its title. Titles repeat from section to section: each is looked for in its own."""
        here = self.page.locator("main")
        for depth, titles in enumerate(self._titles(path)):
            either = "|".join(re.escape(title).replace("/", r"\/") for title in titles)
            label = here.locator(f"xpath=.//label[count(ancestor::fieldset)={depth}]")
            label = label.filter(has_text=re.compile(rf"^({either})( \(Optional\))?$"))
            here = label.locator("xpath=ancestor::div[3]")
        return here

    def _titles(self, path: str) -> Iterator[set[str]]:
        """For each section on the way, and for the field itself, what may stand above it."""
        node = self.schema
        for name in path.split("."):
            field = node["properties"][name]
            references = [one["$ref"] for one in (field, *field.get("allOf", [])) if "$ref" in one]
            node = self.schema["definitions"][references[0].rpartition("/")[2]] if references else field
            yield {one["title"] for one in (field, node) if "title" in one}
