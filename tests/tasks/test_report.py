"""The report at the end of a run takes up what the reports of its selections have left."""

import base64
from pathlib import Path

import pytest

from ns_core.config import ComputeConfig
from ns_core.evaluation.report import RunPaths
from ns_core.storage import open_storage
from tests.example_document import example_document
from tests.page_parser import Page

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]


def test_the_report_links_the_pages_of_the_selections_and_shows_their_charts(store: Path) -> None:
    from prefect import flow

    from tasks.report import write_report
    from tasks.run import Run

    document = example_document()
    storage, paths = open_storage(str(store)), RunPaths(document["run_id"])
    for generation in (1, 3):
        storage.put_bytes(paths.selection(generation), b"a page")
    storage.put_bytes(paths.picture("confidence_histogram-g3"), b"a chart")
    storage.put_bytes(paths.picture("pseudo_labels-g3"), b"a large picture, which the page has as thumbnails")
    run = Run(
        run_id=document["run_id"],
        store=str(store),
        home=str(store.parent / "home"),
        tracking_uri=f"sqlite:///{store.parent / 'mlflow.db'}",
        experiment="test",
        compute=ComputeConfig(),
    )

    @flow(name="one-report")
    def one() -> str:
        return write_report(run, document)

    page = Page(Path(one()).read_text(encoding="utf-8"))
    assert [link for link in page.links if link.endswith(".html")] == ["selection-g1.html", "selection-g3.html"]
    pictures = [base64.b64decode(link.partition(",")[2]) for link in page.links if link.startswith("data:")]
    assert pictures[1:] == [b"a chart"], "after the accuracies"
