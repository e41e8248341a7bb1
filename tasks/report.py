"""write-report: what a run leaves for a person, in the store, in MLflow and in Prefect.

Pictures are advisory: one that cannot be made is a warning, never a failed run.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from ns_core.artifacts import Paths, load
from ns_core.evaluation import gallery
from ns_core.evaluation.report import ACCURACY, RunPaths, champion, render_html, render_markdown
from ns_core.evaluation.selection_report import GALLERY, PICTURES
from ns_core.localize import localize
from ns_core.stage import cache_folder
from ns_core.storage import Storage, open_storage
from tasks.advisory import show_in_prefect, tried
from tasks.run import Run
from tasks.tracking import tracker

PREFECT_KEY = "noisy-student-report"


@task(name="write-report", cache_policy=NO_CACHE)
def write_report(run: Run, document: dict[str, Any]) -> str:
    """Writes `runs/<run_id>/` and returns the URI of its `report.html`. `run.json` is written last."""
    storage, paths = open_storage(run.store), RunPaths(run.run_id)
    document = {**document, "report": f"{storage.uri}/{paths.html}"}
    files = _Files(storage, document)
    shown = {**document, "test_gain_interval": tried("the interval of the gain", lambda: _gain(files, document))}
    with tempfile.TemporaryDirectory(prefix="ns-report-") as name:
        folder = Path(name)
        pictures = _pictures(files, shown, folder)
        for title, picture in pictures.items():
            storage.put_file(paths.picture(title), picture)
            tracker(run).artifact(run.mlflow_run, picture, "report")
        page = folder / "report.html"
        drawn = {title: file.read_bytes() for title, file in pictures.items()}
        indexes = range(len(document["generations"]) + 1)  # 0: one for all of them
        selections = [index for index in indexes if storage.size(paths.selection(index)) is not None]
        page.write_text(
            render_html(shown, drawn | _drawn_before(storage, paths, selections), selections), encoding="utf-8"
        )
        storage.put_file(paths.html, page)
        tracker(run).artifact(run.mlflow_run, page, "report")
    text = render_markdown(shown)
    storage.put_bytes(paths.markdown, text.encode())
    show_in_prefect(PREFECT_KEY, f"Report of {run.run_id}", text, document["report"], drawn.get(ACCURACY))
    storage.put_bytes(paths.document, json.dumps(document, indent=1).encode())
    return str(document["report"])


def _drawn_before(storage: Storage, paths: RunPaths, generations: Sequence[int]) -> dict[str, bytes]:
    """Title -> PNG of what the reports of the selections have drawn; their galleries are on their own pages."""
    titles = [f"{name}-g{index}" for index in generations for name in PICTURES if name != GALLERY]
    return {title: storage.read(paths.picture(title)) for title in titles if storage.size(paths.picture(title))}


class _Files:
    """Local folders of the artifacts of a run, by stage and generation."""

    def __init__(self, storage: Storage, document: Mapping[str, Any]) -> None:
        self._storage, self._cache = storage, cache_folder()
        self._places = {(one["stage"], one["generation"]): one["fingerprint"] for one in document["stages"]}

    def __call__(self, stage: str, generation: int) -> Path:
        record = load(self._storage, Paths(stage, self._places[stage, generation]))
        assert record is not None, f"{stage} of generation {generation} was in the store a moment ago"
        return localize(self._storage, record, self._cache)

    def index(self) -> Path:
        """The dataset's folder; from a remote store it comes without shards."""
        return self("prepare-dataset", 0)


def _gain(files: _Files, document: Mapping[str, Any]) -> tuple[float, float] | None:
    """The interval of what the standing student gained over the first teacher; None when the teacher stands."""
    winner = champion(document)
    if not winner:
        return None
    return gallery.gain_interval(files.index(), *(files("evaluate-robustness", index) for index in (0, winner)))


def _pictures(files: _Files, document: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Title -> PNG file of every picture that could be made."""
    from ns_core.evaluation import pictures

    def corruptions(path: Path) -> None:
        reports = [files("evaluate-robustness", index) for index in (0, champion(document) or indexes[-1])]
        pictures.corruption_bars(path, *map(gallery.corruption_errors, reports))

    indexes = [entry["index"] for entry in document["generations"]]
    makers: dict[str, Callable[[Path], None]] = {ACCURACY: partial(pictures.accuracy_by_generation, document=document)}
    if indexes and document["first_teacher"]["mean_corruption_error"] is not None:
        makers["corruption_errors"] = corruptions
    made = {title: folder / f"{title}.png" for title in makers}
    for title, make in makers.items():
        tried(f"picture {title}", partial(make, made[title]))
    return {title: path for title, path in made.items() if path.exists()}
