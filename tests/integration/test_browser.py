"""The pages of Prefect and MLflow in a browser, from the form of a campaign to two campaigns beside each other.

The README's pictures come from here: `NS_WRITE_IMAGES=1 .venv/bin/python -m pytest tests/integration/test_browser.py`
runs the recipe `digits` as it stands, which takes some minutes more, and writes `docs/images`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, ViewportSize, expect

from tests.browser import WINDOW, WRITE_IMAGES, RunForm, chromium, save_picture, wait_until_drawn
from tests.deployed import Deployed, deployed_on
from tests.servers import running_servers

pytestmark = [pytest.mark.integration, pytest.mark.servers, pytest.mark.timeout(4200)]

CAMPAIGN = "noisy-student/campaign"
RUN_SECONDS = 1800.0
"""A run takes a minute alone, and took thirteen beside 20 busy processes."""
SMALL = {
    "generations": 1,
    "teacher.steps": 60,
    "student.steps": 40,
    "select.threshold": 0.2,
    "evaluate.max_images": 10,
    "evaluate.max_sequences": 10,
    "evaluate.max_attacked": 10,
}
"""What a person changes to see every stage of `digits` once, in a minute."""
WIDE: ViewportSize = {"width": 1820, "height": 1300}
"""For the report: in a narrower window Prefect lets its first table run into the column beside it."""
CHARTS = "workflowType=machine_learning&compareRunsMode=CHART"
RUNS = (re.compile("digits-seed1"), re.compile("digits-seed2"))
"""The campaigns in MLflow."""
CHANGED: dict[str, float] = {"seed": 1} if WRITE_IMAGES else {"seed": 1, **SMALL}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with running_servers() as servers, deployed_on(servers, tmp_path_factory.mktemp("worker")) as made:
        yield made


@pytest.fixture
def page() -> Iterator[Page]:
    with chromium() as opened:
        yield opened


def test_the_form_refuses_a_value_out_of_bounds_and_no_run_exists(deployed: Deployed, page: Page) -> None:
    form = _form(deployed, page)
    field = form.fill("recipe.generations", 99)
    form.submit()
    expect(field).to_be_focused()  # the browser leads there, and says beside it what is wrong
    assert "50" in field.evaluate("field => field.validationMessage"), "the words name the bound"
    assert deployed.api.post("/flow_runs/count", json={}).json() == 0


def test_a_person_starts_a_campaign_reads_its_report_and_compares_it_with_another(
    deployed: Deployed, page: Page, tmp_path: Path
) -> None:
    form = _form(deployed, page)
    for path, value in CHANGED.items():
        form.fill(f"recipe.{path}", value)
    page.get_by_label("Run Name").scroll_into_view_if_needed()
    save_picture(page, tmp_path, "prefect-form")
    form.submit()
    page.get_by_role("link", name="View run").click()
    page.wait_for_url("**/runs/flow-run/*")

    first = page.url.partition("?")[0].rpartition("/")[2]
    _see_it_complete(deployed, page, first)
    recipe = deployed.read(first)["parameters"]["recipe"]
    second = deployed.start(CAMPAIGN, {"recipe": {**recipe, "seed": 2}})
    save_picture(page, tmp_path, "prefect-run")
    _read_the_report(deployed, page, first)
    page.set_viewport_size(WIDE)
    save_picture(page, tmp_path, "prefect-report")
    page.set_viewport_size(WINDOW)

    page.goto(f"{_prefect(deployed)}/runs/flow-run/{second}")
    _see_it_complete(deployed, page, second)
    _read_the_report(deployed, page, second)
    _compare(page, tmp_path)


def _form(deployed: Deployed, page: Page) -> RunForm:
    """From the list of deployments to the form of a custom run."""
    page.goto(f"{_prefect(deployed)}/deployments")
    page.get_by_role("link", name="campaign", exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    return RunForm(page, deployed.deployment(CAMPAIGN)["parameter_openapi_schema"])


def _prefect(deployed: Deployed) -> str:
    return deployed.environment["PREFECT_API_URL"].removesuffix("/api") + "/v2"


def _see_it_complete(deployed: Deployed, page: Page, run: str) -> None:
    """On its page; which a person leaves meanwhile: drawing a run under way takes a core, where there is no GPU."""
    where = page.url
    page.goto("about:blank")
    ended = deployed.ended(run, RUN_SECONDS)
    assert ended["state"]["type"] == "COMPLETED", ended["state"]["message"]
    page.goto(where)
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible()
    page.get_by_role("tab", name="Artifacts").click()
    expect(_report_card(page)).to_be_visible()
    wait_until_drawn(page.locator("canvas").first)


def _report_card(page: Page) -> Locator:
    return page.get_by_role("tabpanel").get_by_role("link").filter(has_text="noisy-student-report")


def _read_the_report(deployed: Deployed, page: Page, run: str) -> None:
    """From the run's artifacts through the versions of the report to that of this run, with its tables and picture."""
    _report_card(page).click()
    name = deployed.read(run)["name"]
    of_run = page.get_by_role("link", name=name).first
    of_run.locator("xpath=preceding::a[contains(@href, '/artifacts/artifact/')][1]").click()
    report = page.get_by_role("tabpanel")
    expect(report.get_by_role("heading", level=1)).to_be_visible()
    expect(report).to_contain_text(name)
    expect(report.get_by_role("row").filter(has_text="student").first).to_contain_text("%")
    picture = report.locator("img").first
    expect(picture).to_be_visible()
    assert picture.evaluate("picture => picture.decode().then(() => picture.naturalWidth)") > 0


def _compare(page: Page, folder: Path) -> None:
    """From the report to MLflow: the figures of both runs beside each other, and their curves over the generations."""
    page.get_by_role("tabpanel").get_by_role("link", name="compared with other runs").click()
    expect(page.get_by_role("heading", name="Comparing 2 Runs")).to_be_visible()
    for name in RUNS:
        expect(page.get_by_role("cell", name=name).first).to_be_visible()
    expect(page.get_by_role("link", name=re.compile(r"^gen\/")).first).to_be_visible()

    experiment = page.get_by_role("main").get_by_role("link", name="noisy-student").get_attribute("href")
    page.goto(f"{page.url.partition('#')[0]}{experiment}/runs?{CHARTS}")
    page.get_by_role("button", name="Close").click()  # of MLflow's assistant, which takes a third of the window
    page.get_by_role("searchbox", name="Search metric charts").fill("gen/(.*top1|ece|kept)")
    for name in RUNS:
        expect(page.get_by_role("grid").get_by_role("link", name=name)).to_be_visible()
    expect(page.get_by_role("heading", name="gen/test_top1")).to_be_visible()
    wait_until_drawn(page.locator(".js-plotly-plot").first)
    save_picture(page, folder, "mlflow-compare")
