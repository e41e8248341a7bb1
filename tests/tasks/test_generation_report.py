"""The report of a generation, against a real Prefect server and a real MLflow file."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ns_core.evaluation.reports.generation_report import render_markdown
from ns_core.evaluation.reports.report import RunPaths
from ns_core.storage import open_storage
from tasks.run import Run
from tests.example_document import example_document
from tests.tasks.campaigns import recipe_of, run_of

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]


def summary(index: int = 1) -> dict[str, Any]:
    """As a generation of a run tells it: generation 1 was promoted, generation 2 was not."""
    entry: dict[str, Any] = example_document()["generations"][index - 1]
    for side in ("teacher", "student"):
        figures = entry[side]
        figures |= {"holdout_interval": [figures["holdout_top1"] - 0.03, figures["holdout_top1"] + 0.03]}
    entry["pseudo_labels"]["selected_in"] = index
    return entry


def reported(run: Run, told: dict[str, Any]) -> str:
    """Runs the task in a flow of its own; the Markdown that Prefect shows."""
    from prefect import flow

    from tasks.generation_report import report_generation
    from tasks.tracking import open_child, open_parent
    from tests.tasks.test_selection_report import shown_in_prefect

    @flow(name="one-report")
    def one() -> None:
        own = open_parent(run, recipe_of())
        report_generation(own, open_child(own, recipe_of(), 1), recipe_of(), told)

    one()
    return shown_in_prefect("generation-report")[0]


def test_a_generation_is_told_in_figures_words_and_pictures(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    storage, paths = open_storage(run.store), RunPaths(run.run_id)
    storage.put_bytes(paths.picture("confidence_histogram-g1"), b"\x89PNG of the selection")
    storage.put_bytes(paths.picture("selected_classes-g1"), b"too large".ljust(60_000))
    text = reported(run, summary())
    assert text.startswith("# Generation 1: the student is promoted and teaches next\n")
    assert "Promoted the student: +5.3 points of accuracy" in text
    assert re.search(r"\| holdout accuracy +\| +85\.0 % \| +90\.3 % \| \+5\.3 points \(\+2\.0 to \+9\.0\) \|", text)
    assert re.search(r"\| test accuracy +\| +85\.8 % \| +91\.0 % \| +\+5\.2 points \|", text)
    assert "812 images of the pool kept, 1,100 rows" in text
    assert "`noisy-student ui`" in text, "MLflow is a file"
    assert f"{storage.uri}/{paths.robustness(1)}" in text
    pictures = [base64.b64decode(found) for found in re.findall(r"data:image/png;base64,([^)]+)", text)]
    assert len(pictures) == 2, "the third did not fit"
    assert pictures[1] == b"\x89PNG of the selection"
    assert len(text) < 100_000, "Prefect drops the event of a larger one"
    with Image.open(Path(run.store) / paths.picture("teacher_and_student-g1")) as drawn:
        assert drawn.size[0] == 900


def test_a_student_that_stays_behind_is_said_to(tmp_path: Path) -> None:
    text = reported(run_of(tmp_path), summary(2))
    assert text.startswith("# Generation 2: the student is not promoted, the teacher stays\n")
    assert "Kept the teacher because the gain is below" in text


def test_what_was_not_measured_has_no_row_and_a_selection_from_before_is_named() -> None:
    told = summary()
    told["student"]["fgsm_strongest_top1"] = None
    told["pseudo_labels"]["selected_in"] = 0
    text = render_markdown(told)
    assert "FGSM" not in text
    assert "PGD" in text
    assert "with repeats, selected in generation 0." in text


def test_a_picture_that_cannot_be_made_costs_itself_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = summary()
    told["student"]["holdout_interval"] = "no interval"
    text = reported(run_of(tmp_path), told)
    assert "the picture of the generation could not be made" in caplog.text
    assert "holdout accuracy" in text
    assert "data:image" not in text


def test_a_summary_that_cannot_be_told_fails_no_flow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from prefect import flow

    from tasks.generation_report import report_generation

    @flow(name="one-report")
    def one() -> str:
        report_generation(run_of(tmp_path), "", recipe_of(), {"index": 1})
        return "went on"

    assert one() == "went on"
    assert "the report of generation 1 could not be made" in caplog.text
