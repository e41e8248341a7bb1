"""generation-report: one generation for a person who watches Prefect: figures, pictures, and what the gate said.

A Markdown artifact of the flow run, and the same file in MLflow. Advisory as a whole: what cannot be made is a warning.
"""

import base64
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from ns_core.config import Recipe
from ns_core.evaluation.reports.generation_report import headline, render_markdown
from ns_core.evaluation.reports.report import RunPaths
from ns_core.storage import Storage, open_storage
from tasks.advisory import PREFECT_PICTURE_BYTES, asked, tried
from tasks.mlflow_links import links, links_in_words
from tasks.run import Run
from tasks.tracker import tracker

PREFECT_KEY = "generation-report"
DRAWN_BEFORE = ("confidence_histogram", "selected_classes")
"""Pictures of the selection's report that are shown again, while there is room."""


def report_generation(run: Run, mlflow_run: str, recipe: Recipe, summary: Mapping[str, Any]) -> None:
    """To be called once the gate has spoken. `summary`: as `GenerationResult.summary()` makes it. Never fails."""
    _report_generation(run, mlflow_run, recipe.name, dict(summary))


@task(name="generation-report", task_run_name="generation-report-g{summary[index]}", cache_policy=NO_CACHE)
def _report_generation(run: Run, mlflow_run: str, recipe: str, summary: dict[str, Any]) -> None:
    tried(f"the report of generation {summary['index']}", lambda: _report(run, mlflow_run, recipe, summary))


def _report(run: Run, mlflow_run: str, recipe: str, summary: Mapping[str, Any]) -> None:
    storage, paths, index = open_storage(run.store), RunPaths(run.run_id), summary["index"]
    text = render_markdown(summary)
    with tempfile.TemporaryDirectory(prefix="ns-generation-") as name:
        drawn = tried("the picture of the generation", lambda: _drawn(Path(name), summary))
        if drawn is not None:
            storage.put_file(paths.picture(drawn.stem), drawn)
            tracker(run).artifact(mlflow_run, drawn, "report")
        selected = summary["pseudo_labels"]["selected_in"]
        pictures = [drawn.read_bytes()] if drawn else []
        pictures += _drawn_before(storage, paths, selected)
    pages = [paths.selection(selected), paths.robustness(index)]
    parts = [
        text,
        tried("the links to MLflow", lambda: _links(run, mlflow_run, recipe)) or "",
        *_inside(pictures),
        *(f"`{storage.uri}/{page}`" for page in pages),
    ]
    markdown = "\n\n".join(filter(None, parts))
    description = f"{headline(summary)}, {run.run_id}"
    asked(lambda: create_markdown_artifact(markdown, key=PREFECT_KEY, description=description))


def _drawn(folder: Path, summary: Mapping[str, Any]) -> Path:
    from ns_core.evaluation.reports.generation_pictures import teacher_and_student

    path = folder / f"teacher_and_student-g{summary['index']}.png"
    teacher_and_student(path, summary)
    return path


def _drawn_before(storage: Storage, paths: RunPaths, generation: int) -> Iterator[bytes]:
    """Pictures of the selection, where its report has made them."""
    for name in DRAWN_BEFORE:
        key = paths.picture(f"{name}-g{generation}")
        if storage.size(key) is not None:
            yield storage.read(key)


def _inside(pictures: list[bytes]) -> Iterator[str]:
    """PNG files as Markdown, the first ones that fit into an artifact together."""
    room = PREFECT_PICTURE_BYTES
    for png in pictures:
        room -= len(png)
        if room < 0:
            return
        yield f"![picture](data:image/png;base64,{base64.b64encode(png).decode()})"


def _links(run: Run, mlflow_run: str, recipe: str) -> str:
    page = tracker(run).url(mlflow_run)
    generation = f"[This generation in MLflow]({page}) · " if page else ""
    return f"{generation}{links_in_words(links(run, recipe))}"
