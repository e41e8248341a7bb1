"""The report of an evaluation, against a real Prefect server and a real MLflow file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ns_core.artifacts import Record, Report
from ns_core.config import ComputeConfig, EvaluateConfig
from ns_core.evaluation.report_file import write_report
from ns_core.evaluation.reports.examples import EXAMPLES, Example, write_examples
from ns_core.evaluation.reports.report import RunPaths
from ns_core.evaluation.results import RobustnessReport
from ns_core.evaluation.tables import Scene
from ns_core.storage import open_storage
from tests.page_parser import Page
from tests.robustness_reports import GAPS, student_report, teacher_report
from tests.stored_reports import store_report

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]

RUN_ID = "digits-20261123-080000-0000"
STUDENT, TEACHER = "a" * 64, "b" * 64
NAMES = {
    "attacks",
    "class_accuracies",
    "confidence",
    "corruptions_bars",
    "corruptions_severity",
    "perturbations_bars",
}


def stored(store: Path, folder: Path, fingerprint: str, report: RobustnessReport) -> Record:
    """An evaluation with one example, committed as an artifact."""
    folder.mkdir()
    gate = {"reason": "Promoted the student: it is better."} if report.baseline else None
    write_report(folder, report, gate, fingerprint)
    write_examples([Example(Scene("clean", "test"), "a", "fixed", 1, 1, 0.9, 2, b"\x89PNG")], folder / EXAMPLES)
    return store_report(open_storage(str(store)), folder, fingerprint)


def page(generation: int) -> str:
    return RunPaths(RUN_ID).robustness(generation)


def reported(store: Path, generation: int = 1, after: Callable[[], None] = lambda: None) -> Any:
    """Runs the task in a flow of its own; generation 0 has no baseline. The call that it was given."""
    from prefect import flow

    from tasks.robustness_report import report_robustness
    from tasks.run import Run, StageCall
    from tasks.tracking import tracker

    run = Run(
        run_id=RUN_ID,
        store=str(store),
        home=str(store.parent / "home"),
        tracking_uri=f"sqlite:///{store.parent / 'mlflow.db'}",
        experiment="test",
        compute=ComputeConfig(),
    )
    parent = tracker(run).parent("parent", "key", {}, {})
    child = tracker(run).child(parent, "child", "key", {})
    baseline = {"baseline": Report(fingerprint=TEACHER, result={})} if generation else {}
    call = StageCall(run, generation, EvaluateConfig(), dict(baseline), mlflow_run=child)

    @flow(name="one-report")
    def one() -> None:
        report_robustness(call, Report(fingerprint=STUDENT if generation else TEACHER, result={}))
        after()

    one()
    return call


def drawn_against(now: RobustnessReport, before: RobustnessReport) -> dict[str, Any]:
    """Picture -> the baseline's figures that it is given."""
    from tasks.robustness_report import _makers

    makers: Any = _makers(now, before).values()
    pictures = ("corruptions_bars", "corruptions_severity", "perturbations_bars", "confidence")
    return {name: draw.keywords["before"] for name, draw in makers if name in pictures}


@pytest.fixture
def both(store: Path, tmp_path: Path) -> Path:
    """A student's evaluation and its teacher's, in the store."""
    stored(store, tmp_path / "teacher", TEACHER, teacher_report())
    stored(store, tmp_path / "student", STUDENT, student_report(gaps=GAPS))
    return store


def test_the_report_is_in_the_store_in_prefect_and_in_mlflow(both: Path) -> None:
    from tests.tasks.test_selection_report import shown_in_prefect

    call = reported(both)
    shown = Page((both / page(1)).read_text(encoding="utf-8"))
    assert shown.words.count("Fixed images") == 1
    assert shown.rows[0] == ["suite", "not measured", "because", "how much"]
    assert len(shown.links) == len(NAMES) + 1, "every picture and one thumbnail"
    assert all(link.startswith("data:image/png;base64,") for link in shown.links)
    assert "Gate: Promoted the student: it is better." in shown.words
    pictures = {f"{name}-g1.png" for name in NAMES}
    assert {path.name for path in (both / page(1)).parent.iterdir()} == {"robustness-g1.html", *pictures}
    markdown = shown_in_prefect("noisy-student-robustness-g1")[0]
    assert str(both / page(1)) in markdown
    assert "Worse than the baseline: FGSM" in markdown
    logged = {path.name for path in (both.parent / "mlflow-artifacts").rglob(f"{call.mlflow_run}/**/report/*")}
    assert logged == {"robustness-g1.html", *pictures}


def test_pictures_show_a_baseline_only_where_the_same_images_were_compared() -> None:
    now, before = student_report(), teacher_report()
    assert drawn_against(now, before) == {
        "corruptions_bars": before.corruptions,
        "corruptions_severity": before.corruptions,
        "perturbations_bars": before.perturbations,
        "confidence": before.test,
    }
    assert now.test
    assert now.corruptions
    assert now.perturbations
    unpaired = {"against_baseline": None}
    other = now.model_copy(
        update={
            "test": now.test.model_copy(update=unpaired),
            "corruptions": now.corruptions.model_copy(update=unpaired),
            "perturbations": now.perturbations.model_copy(update=unpaired),
        }
    )
    assert list(drawn_against(other, before).values()) == [None] * 4


def test_confidence_on_the_test_split_is_not_compared_with_a_folder() -> None:
    before = teacher_report()
    folder = before.model_copy(update={"images": before.holdout})
    assert drawn_against(student_report(), folder)["confidence"] == before.test
    only = before.model_copy(update={"images": before.holdout, "test": None})
    assert drawn_against(student_report(), only)["confidence"] is None


def test_the_first_teacher_has_a_report_without_a_baseline(both: Path) -> None:
    reported(both, generation=0)
    assert "There is no baseline to compare with." in Page((both / page(0)).read_text(encoding="utf-8")).words


def test_examples_that_are_not_there_cost_the_galleries_and_nothing_else(
    both: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for examples in both.rglob(EXAMPLES):
        examples.unlink()
    reported(both)
    shown = Page((both / page(1)).read_text(encoding="utf-8"))
    assert len(shown.links) == len(NAMES)
    assert "Fixed images" not in shown.words
    assert "the galleries could not be made" in caplog.text


def test_a_report_that_cannot_be_made_does_not_fail_the_run(both: Path, caplog: pytest.LogCaptureFixture) -> None:
    for file in both.rglob("report.json"):
        file.write_bytes(b"{}")
    went_on: list[bool] = []
    reported(both, after=lambda: went_on.append(True))
    assert went_on == [True]
    assert "the report of the evaluation of generation 1 could not be made" in caplog.text
    assert not (both / page(1)).exists()
