"""write-report: what a run leaves for a person, in the store, in MLflow and in Prefect.

Pictures and the comparison of robustness are advisory: what cannot be made is a warning, never a failed run.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from ns_core.artifacts import Frozen, Report
from ns_core.evaluation.report_file import REPORT, read_report
from ns_core.evaluation.reports.comparison import CLEAN_TEST, Row
from ns_core.evaluation.reports.report import ACCURACY, RunPaths, champion, compared, render_html, render_markdown
from ns_core.evaluation.reports.robustness_change import changes
from ns_core.evaluation.reports.robustness_tables import same_severities
from ns_core.evaluation.reports.selection_report import GALLERY, PICTURES
from ns_core.storage import Storage, open_storage
from tasks.advisory import show_in_prefect, tried
from tasks.artifact_files import ArtifactFiles
from tasks.mlflow_links import NOWHERE, links, links_in_words
from tasks.run import Run
from tasks.tracker import tracker

PREFECT_KEY = "noisy-student-report"


class Written(Frozen):
    """What the report adds to a run's document."""

    report: str
    """URI of the page."""
    robustness: list[dict[str, Any]]
    """`comparison.Row`s; empty without generations, and where they could not be computed."""
    mlflow: dict[str, str | None]
    """`tasks.mlflow_links.links`: the run's page in MLflow, and those that compare it with others."""


@task(name="write-report", task_run_name="write-report", cache_policy=NO_CACHE)
def write_report(run: Run, document: dict[str, Any]) -> Written:
    """Writes `runs/<run_id>/`; `run.json` is written last."""
    storage, paths = open_storage(run.store), RunPaths(run.run_id)
    rows = tried("the comparison with the first teacher", lambda: _compared(storage, document)) or []
    found = tried("the links to MLflow", lambda: links(run, document["recipe"])) or NOWHERE
    report, told = f"{storage.uri}/{paths.html}", [row.model_dump() for row in rows]
    written = Written(report=report, robustness=told, mlflow=found)
    document = {**document, **written.model_dump()}
    shown = {**document, "test_gain_interval": _gain(document, rows)}
    with tempfile.TemporaryDirectory(prefix="ns-report-") as name:
        folder = Path(name)
        pictures = _pictures(storage, shown, folder)
        for title, picture in pictures.items():
            storage.put_file(paths.picture(title), picture)
            tracker(run).artifact(run.mlflow_run, picture, "report")
        drawn = {title: file.read_bytes() for title, file in pictures.items()}
        page = folder / "report.html"
        page.write_text(_page(storage, paths, shown, drawn), encoding="utf-8")
        storage.put_file(paths.html, page)
        tracker(run).artifact(run.mlflow_run, page, "report")
    text = render_markdown(shown)
    storage.put_bytes(paths.markdown, text.encode())
    shown_text = f"{links_in_words(found)}\n\n{text}"
    show_in_prefect(PREFECT_KEY, f"Report of {run.run_id}", shown_text, written.report, drawn.get(ACCURACY))
    storage.put_bytes(paths.document, json.dumps(document, indent=1).encode())
    return written


def _page(storage: Storage, paths: RunPaths, document: Mapping[str, Any], drawn: dict[str, bytes]) -> str:
    """The page, with ways to those of the selections and evaluations that lie beside it."""
    # 0: one selection for all of them, and the first teacher
    indexes = [0, *(entry["index"] for entry in document["generations"])]
    selections = [index for index in indexes if storage.size(paths.selection(index)) is not None]
    evaluations = [index for index in indexes if storage.size(paths.robustness(index)) is not None]
    return render_html(document, drawn | _drawn_before(storage, paths, selections), selections, evaluations)


def _drawn_before(storage: Storage, paths: RunPaths, generations: Sequence[int]) -> dict[str, bytes]:
    """Title -> PNG of what the reports of the selections have drawn; their galleries are on their own pages."""
    titles = [f"{name}-g{index}" for index in generations for name in PICTURES if name != GALLERY]
    return {title: storage.read(paths.picture(title)) for title in titles if storage.size(paths.picture(title))}


def _compared(storage: Storage, document: Mapping[str, Any]) -> list[Row]:
    """The student that `compared` names against the first teacher, image by image; nothing without generations."""
    generation = compared(document)
    if not generation:
        return []
    before, after = (_evaluation(document, index) for index in (0, generation))
    files = ArtifactFiles(storage, before, after)
    return changes(files.tables(before), files.tables(after))


def _gain(document: Mapping[str, Any], rows: Sequence[Row]) -> tuple[float, float] | None:
    """The interval of what the standing student gained on the test split; None when the teacher stands."""
    found = [row for row in rows if row.figure == CLEAN_TEST]
    return (found[0].low, found[0].high) if found and champion(document) else None


def _evaluation(document: Mapping[str, Any], generation: int) -> Report:
    """The evaluation of a generation's student; of the first teacher for generation 0."""
    (fingerprint,) = {
        one["fingerprint"]
        for one in document["stages"]
        if (one["stage"], one["generation"]) == (Report.stage, generation)
    }
    return Report(fingerprint=fingerprint, result={})


def _pictures(storage: Storage, document: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Title -> PNG file of every picture that could be made."""
    from ns_core.evaluation.reports import pictures, robustness_pictures

    def corruptions(path: Path) -> None:
        both = [_evaluation(document, index) for index in (0, compared(document))]
        files = ArtifactFiles(storage, *both)
        before, after = (read_report(files.read(one, REPORT)).report.corruptions for one in both)
        assert before is not None, "it was measured: its mean is there"
        assert after is not None, "its settings are the first teacher's"
        assert same_severities(after, before), "the two have no corruption at the same severities"
        robustness_pictures.corruption_bars(path, after, before, ("first teacher", "the student"))

    makers: dict[str, Callable[[Path], None]] = {ACCURACY: partial(pictures.accuracy_by_generation, document=document)}
    if document["generations"] and document["first_teacher"]["mean_corruption_error"] is not None:
        makers["corruption_errors"] = corruptions
    made = {title: folder / f"{title}.png" for title in makers}
    for title, make in makers.items():
        tried(f"picture {title}", partial(make, made[title]))
    return {title: path for title, path in made.items() if path.exists()}
