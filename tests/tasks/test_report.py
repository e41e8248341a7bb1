"""The report at the end of a run: what the tasks before it have left, and the student against the first teacher."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from ns_core.config import ComputeConfig
from ns_core.evaluation.report_file import read_report
from ns_core.evaluation.report_file import write_report as write_file
from ns_core.evaluation.reports.comparison import Row
from ns_core.evaluation.reports.report import RunPaths, render_html, render_markdown
from ns_core.storage import open_storage
from tests.evaluation_tables import evaluation, written
from tests.example_document import example_document
from tests.page_parser import Page
from tests.robustness_reports import student_report, teacher_report
from tests.stored_reports import store_report

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]


def report_of(store: Path, document: dict[str, Any]) -> Any:
    """Runs the task in a flow of its own; what it returns."""
    from prefect import flow

    from tasks.report import write_report
    from tasks.run import Run

    run = Run(
        run_id=document["run_id"],
        store=str(store),
        home=str(store.parent / "home"),
        tracking_uri=f"sqlite:///{store.parent / 'mlflow.db'}",
        experiment="test",
        compute=ComputeConfig(),
    )

    @flow(name="one-report")
    def one() -> Any:
        return write_report(run, document)

    return one()


@pytest.fixture
def document(store: Path, tmp_path: Path) -> dict[str, Any]:
    """Of a run whose evaluations of the first teacher and of generation 3 are in the store: the student has gained on
    clean and corrupted images, and lost under attack."""
    document = {**example_document(), "robustness": []}
    fingerprints = {
        one["generation"]: one["fingerprint"] for one in document["stages"] if one["stage"] == "evaluate-robustness"
    }
    storage = open_storage(str(store))
    evaluations = {
        0: (teacher_report(), evaluation(test=45, corrupted=30, flips=9, attacked={"4": 30, "16": 12})),
        3: (student_report(), evaluation(test=54, corrupted=42, flips=6, attacked={"4": 31, "16": 0})),
    }
    for generation, (report, scenes) in evaluations.items():
        folder = tmp_path / f"evaluation-{generation}"
        written(folder, scenes)
        write_file(folder, report, None, fingerprints[generation])
        store_report(storage, folder, fingerprints[generation])
    return document


def test_the_report_links_the_pages_beside_it_and_shows_the_charts_of_the_selections(
    store: Path, document: dict[str, Any]
) -> None:
    storage, paths = open_storage(str(store)), RunPaths(document["run_id"])
    for generation in (1, 3):
        storage.put_bytes(paths.selection(generation), b"a page")
        storage.put_bytes(paths.robustness(generation - 1), b"a page")
    storage.put_bytes(paths.picture("confidence_histogram-g3"), b"a chart")
    storage.put_bytes(paths.picture("pseudo_labels-g3"), b"a large picture, which the page has as thumbnails")
    page = Page(Path(report_of(store, document).report).read_text(encoding="utf-8"))
    links = [link for link in page.links if link.endswith(".html")]
    assert links == ["selection-g1.html", "selection-g3.html", "robustness-g0.html", "robustness-g2.html"]
    pictures = [base64.b64decode(link.partition(",")[2]) for link in page.links if link.startswith("data:")]
    assert len(pictures) == 3, "accuracies and corruption errors, drawn here, and the chart"
    assert pictures[2] == b"a chart"


def test_the_student_against_the_first_teacher_is_told_everywhere_losses_too(
    store: Path, document: dict[str, Any]
) -> None:
    written_down = report_of(store, document)
    rows = {row.figure: row for row in map(Row.model_validate, written_down.robustness)}
    assert rows["clean test images"].difference == pytest.approx(0.15)
    assert rows["clean test images"].verdict == "better"
    assert rows["FGSM at 16/255"].verdict == rows["PGD at 16/255"].verdict == "worse"
    folder = store / RunPaths(document["run_id"]).folder
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["robustness"] == written_down.robustness
    loss = "Less robust under FGSM at 16/255: top-1 accuracy 0.0 % after 20.0 %, -20.0 points"
    assert loss in (folder / "report.md").read_text(encoding="utf-8")
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert any(words.startswith(loss) for words in page.words)
    clean = rows["clean test images"]
    gained = f"gained 7.5 points over the first teacher on the test split (95 % interval {100 * clean.low:+.1f} to"
    assert any(gained in words for words in page.words), "the headline has the interval of the same comparison"


def test_the_report_leads_to_mlflow_and_without_a_server_says_what_does(store: Path, document: dict[str, Any]) -> None:
    from tests.tasks.test_selection_report import shown_in_prefect

    written_down = report_of(store, document)
    assert written_down.mlflow == {"run": None, "compare": None, "table": None}, "MLflow is a file"
    kept = json.loads((store / RunPaths(document["run_id"]).document).read_text(encoding="utf-8"))
    assert kept["mlflow"] == written_down.mlflow
    assert "`noisy-student ui`" in shown_in_prefect("noisy-student-report")[0]

    pages = {
        "run": "http://mlflow/#/experiments/1/runs/a?x=1&y=2",
        "compare": "http://mlflow/#/compare-runs?runs=%5B%5D",
    }
    told = {**document, "mlflow": pages}
    assert set(pages.values()) <= set(Page(render_html(told, {})).links)
    assert all(f"<{address}>" in render_markdown(told) for address in pages.values())
    assert not any("mlflow" in link for link in Page(render_html(kept, {})).links)


def test_evaluations_that_are_gone_cost_the_comparison_and_not_the_report(
    store: Path, document: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    for table in store.rglob("*.parquet"):
        table.unlink()
    written_down = report_of(store, document)
    assert written_down.robustness == []
    assert "the comparison with the first teacher could not be made" in caplog.text
    assert "Robustness:" not in Path(written_down.report).read_text(encoding="utf-8")


def test_a_student_with_other_severities_than_the_first_teacher_costs_their_picture(
    store: Path, document: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    report = student_report()
    assert report.corruptions
    errors = {name: {"1": levels["1"]} for name, levels in report.corruptions.errors.items()}
    other = report.model_copy(update={"corruptions": report.corruptions.model_copy(update={"errors": errors})})
    for kept in store.rglob("report.json"):
        found = read_report(kept.read_bytes())
        if found.report == report:
            kept.unlink()
            write_file(kept.parent, other, found.gate, "f" * 64)
    report_of(store, document)
    assert "picture corruption_errors could not be made" in caplog.text
