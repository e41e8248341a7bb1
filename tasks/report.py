"""write-report: what a run leaves for a person, in the store, in MLflow and in Prefect.

Pictures are advisory: one that cannot be made is a warning, never a failed run.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ns_core.artifacts import Paths, load, localize
from ns_core.evaluation.gallery import test_gain_interval
from ns_core.evaluation.report import ACCURACY, RunPaths, champion, render_html, render_markdown
from ns_core.storage import Storage, open_storage
from tasks.run import Run
from tasks.tracking import child_of, tracker

PREFECT_KEY = "noisy-student-report"


@task(name="write-report", cache_policy=NO_CACHE)
def write_report(run: Run, document: dict[str, Any]) -> str:
    """Writes `runs/<run_id>/` and returns the URI of its `report.html`. `run.json` is written last."""
    storage, paths = open_storage(run.store), RunPaths(run.run_id)
    uri = f"{storage.uri}/{paths.html}"
    document = {**document, "report": uri}
    files = _Files(storage, document)
    if winner := champion(document):
        reports = (files("evaluate-robustness", 0), files("evaluate-robustness", winner))
        document["test_gain_interval"] = test_gain_interval(files("prepare-dataset", 0), *reports)
    with tempfile.TemporaryDirectory(prefix="ns-report-") as name:
        folder = Path(name)
        pictures = _pictures(files, document, folder)
        for title, picture in pictures.items():
            storage.put_file(paths.picture(title), picture)
            generation = _generation(title)
            target = run.mlflow_run if generation is None else child_of(run, generation)
            tracker(run).artifact(target, picture, "report")
        page = folder / "report.html"
        page.write_text(
            render_html(document, {title: file.read_bytes() for title, file in pictures.items()}), encoding="utf-8"
        )
        storage.put_file(paths.html, page)
        tracker(run).artifact(run.mlflow_run, page, "report")
    text = render_markdown(document)
    storage.put_bytes(paths.markdown, text.encode())
    create_markdown_artifact(key=PREFECT_KEY, markdown=text, description=f"Report of {run.run_id}")
    storage.put_bytes(paths.document, json.dumps(document, indent=1).encode())
    return uri


def _generation(title: str) -> int | None:
    """`confidence_histogram-g2` belongs to generation 2; a title without a number to the whole run."""
    _, dash, number = title.rpartition("-g")
    return int(number) if dash else None


class _Files:
    """Local folders of the artifacts of a run, by stage and generation."""

    def __init__(self, storage: Storage, document: Mapping[str, Any]) -> None:
        self._storage = storage
        self._cache = Path(os.environ.get("NS_CACHE", Path.home() / ".cache" / "noisy-student"))
        self._places = {(one["stage"], one["generation"]): one["fingerprint"] for one in document["stages"]}

    def __call__(self, stage: str, generation: int) -> Path:
        record = load(self._storage, Paths(stage, self._places[stage, generation]))
        assert record is not None, f"{stage} of generation {generation} was in the store a moment ago"
        return localize(self._storage, record, self._cache)


def _pictures(files: _Files, document: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Title -> PNG file of every picture that could be made."""
    from ns_core.evaluation import gallery, pictures

    def corruptions(path: Path) -> None:
        reports = [files("evaluate-robustness", index) for index in (0, indexes[-1])]
        pictures.corruption_bars(path, *map(gallery.corruption_errors, reports))

    def confidence(path: Path, index: int) -> None:
        pictures.confidence_histogram(path, *gallery.confidences(files("filter-and-balance", index)))

    def examples(path: Path, index: int) -> None:
        groups = gallery.examples(files("prepare-dataset", 0), files("filter-and-balance", index))
        pictures.pseudo_label_gallery(path, groups)

    indexes = [entry["index"] for entry in document["generations"]]
    makers: dict[str, Callable[[Path], None]] = {ACCURACY: partial(pictures.accuracy_by_generation, document=document)}
    if indexes:
        makers["corruption_errors"] = corruptions
    for index in indexes:
        makers[f"confidence_histogram-g{index}"] = partial(confidence, index=index)
        makers[f"pseudo_labels-g{index}"] = partial(examples, index=index)
    return {title: file for title, make in makers.items() if (file := _made(title, make, folder)) is not None}


def _made(title: str, make: Callable[[Path], None], folder: Path) -> Path | None:
    path = folder / f"{title}.png"
    try:
        make(path)
    except Exception as error:  # whatever a drawing library raises: the run is done and must end well
        get_run_logger().warning("picture %s could not be made: %s: %s", title, type(error).__name__, error)
        return None
    return path
