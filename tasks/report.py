"""write-report: what a run leaves for a person, in the store, in MLflow and in Prefect.

Pictures are advisory: one that cannot be made is a warning, never a failed run.
"""

import base64
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ns_core.artifacts import Paths, Record, load
from ns_core.evaluation import gallery
from ns_core.evaluation.report import ACCURACY, RunPaths, champion, render_html, render_markdown
from ns_core.localize import localize
from ns_core.stage import cache_folder
from ns_core.storage import Storage, open_storage
from tasks.run import Run
from tasks.tracking import child_of, tracker

PREFECT_KEY = "noisy-student-report"
PREFECT_PICTURE_BYTES = 60_000
"""Prefect refuses the event of an artifact that is much larger than this in base64."""

T = TypeVar("T")


@task(name="write-report", cache_policy=NO_CACHE)
def write_report(run: Run, document: dict[str, Any]) -> str:
    """Writes `runs/<run_id>/` and returns the URI of its `report.html`. `run.json` is written last."""
    storage, paths = open_storage(run.store), RunPaths(run.run_id)
    document = {**document, "report": f"{storage.uri}/{paths.html}"}
    files = _Files(storage, document, run.places)
    shown = {**document, "test_gain_interval": _tried("the interval of the gain", lambda: _gain(files, document))}
    with tempfile.TemporaryDirectory(prefix="ns-report-") as name:
        folder = Path(name)
        pictures = _pictures(files, shown, folder)
        for title, picture in pictures.items():
            storage.put_file(paths.picture(title), picture)
            generation = _generation(title)
            target = run.mlflow_run if generation is None else child_of(run, generation)
            tracker(run).artifact(target, picture, "report")
        page = folder / "report.html"
        drawn = {title: file.read_bytes() for title, file in pictures.items()}
        page.write_text(render_html(shown, drawn), encoding="utf-8")
        storage.put_file(paths.html, page)
        tracker(run).artifact(run.mlflow_run, page, "report")
    text = render_markdown(shown)
    storage.put_bytes(paths.markdown, text.encode())
    _show_in_prefect(run.run_id, text, document["report"], drawn.get(ACCURACY))
    storage.put_bytes(paths.document, json.dumps(document, indent=1).encode())
    return str(document["report"])


def _show_in_prefect(run_id: str, text: str, uri: str, picture: bytes | None) -> None:
    """The tables as a Markdown artifact, with the opening picture while it fits."""
    image = ""
    if picture is not None and len(picture) < PREFECT_PICTURE_BYTES:
        image = f"\n\n![accuracy](data:image/png;base64,{base64.b64encode(picture).decode()})"
    markdown = f"{text}{image}\n\nThe whole report: `{uri}`"
    create_markdown_artifact(key=PREFECT_KEY, markdown=markdown, description=f"Report of {run_id}")


def _generation(title: str) -> int | None:
    """`confidence_histogram-g2` belongs to generation 2; a title without a number to the whole run."""
    _, dash, number = title.rpartition("-g")
    return int(number) if dash else None


class _Files:
    """Local folders of the artifacts of a run, by stage and generation."""

    def __init__(self, storage: Storage, document: Mapping[str, Any], places: Mapping[str, str]) -> None:
        self._storage, self._own = storage, places
        self._cache = cache_folder()
        self._places = {(one["stage"], one["generation"]): one["fingerprint"] for one in document["stages"]}

    def record(self, stage: str, generation: int) -> Record:
        record = load(self._storage, Paths(stage, self._places[stage, generation]))
        assert record is not None, f"{stage} of generation {generation} was in the store a moment ago"
        return record

    def __call__(self, stage: str, generation: int) -> Path:
        return localize(self._storage, self.record(stage, generation), self._cache)

    def index(self) -> Path:
        """The dataset's folder; from a remote store it comes without shards."""
        return self("prepare-dataset", 0)

    def image(self, shard: str, offset: int, size: int) -> bytes:
        """The bytes of one image of the dataset."""
        field, slash, path = shard.partition("/")
        if slash:  # a shard of the person's own, which was left where it lies
            return open_storage(self._own[field]).read_range(path, offset, size)
        return self._storage.read_range(f"{self.record('prepare-dataset', 0).prefix}/{shard}", offset, size)


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

    def confidence(path: Path, index: int) -> None:
        pictures.confidence_histogram(path, *gallery.confidences(files("filter-and-balance", index)))

    def examples(path: Path, index: int) -> None:
        selection = files("filter-and-balance", index)
        groups = gallery.examples(files.index(), selection, files.image, pictures.GALLERY_CLASSES)
        pictures.pseudo_label_gallery(path, groups)

    indexes = [entry["index"] for entry in document["generations"]]
    makers: dict[str, Callable[[Path], None]] = {ACCURACY: partial(pictures.accuracy_by_generation, document=document)}
    if indexes and document["first_teacher"]["mean_corruption_error"] is not None:
        makers["corruption_errors"] = corruptions
    for index in indexes:
        makers[f"confidence_histogram-g{index}"] = partial(confidence, index=index)
        makers[f"pseudo_labels-g{index}"] = partial(examples, index=index)
    made = {title: folder / f"{title}.png" for title in makers}
    for title, make in makers.items():
        _tried(f"picture {title}", partial(make, made[title]))
    return {title: path for title, path in made.items() if path.exists()}


def _tried(what: str, make: Callable[[], T]) -> T | None:
    """What `make` gives; None with a warning when it fails: the run is done and has to end well."""
    try:
        return make()
    except Exception as error:  # whatever a drawing library raises
        get_run_logger().warning("%s could not be made: %s: %s", what, type(error).__name__, error)
        return None
