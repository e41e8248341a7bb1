"""selection-report: what filter-and-balance kept and dropped, for a person, as soon as it is known.

One page `runs/<run_id>/selection-g<N>.html`, pictures beside it and in MLflow, tables in Prefect. Advisory as a
whole: what cannot be made is a warning. A selection that came from the store gets them too, in each run.
"""

import tempfile
from functools import partial
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from ns_core.artifacts import Artifact, Selection
from ns_core.data.index import INDEX
from ns_core.data.reading import SELECTED
from ns_core.evaluation.reports import gallery
from ns_core.evaluation.reports.report import RunPaths
from ns_core.evaluation.reports.selection_classes import ClassFigures, read_classes, shown_classes
from ns_core.evaluation.reports.selection_report import (
    GALLERY,
    GALLERY_CLASSES,
    PICTURES,
    Selected,
    render_html,
    render_markdown,
)
from ns_core.evaluation.reports.selection_survey import survey
from ns_core.storage import Storage, open_storage
from tasks.advisory import show_in_prefect, tried
from tasks.artifact_files import ArtifactFiles
from tasks.run import StageCall
from tasks.tracker import tracker


@task(name="selection-report", task_run_name="selection-report-g{call.generation}", cache_policy=NO_CACHE)
def report_selection(call: StageCall, selection: Selection) -> None:
    """To be called with filter-and-balance's own call once that has ended. Never fails.

    Reads the narrow columns of the selection once, and a few hundred images.
    """
    tried(f"the report of the selection of generation {call.generation}", lambda: _report(call, selection))


def _report(call: StageCall, selection: Selection) -> None:
    run, generation = call.run, call.generation
    storage, paths = open_storage(run.store), RunPaths(run.run_id)
    files = _Files(storage, call.inputs["dataset"], selection, run.places)
    selected, shown = _selected(call, selection, files)
    shots = tried("the gallery", lambda: gallery.thumbnails(selected.survey.examples, files.image)) or {}
    with tempfile.TemporaryDirectory(prefix="ns-selection-") as name:
        folder = Path(name)
        drawn = _drawn(selected, shown, shots, folder)
        inside = {PICTURES[title]: file.read_bytes() for title, file in drawn.items() if title != GALLERY}
        page = folder / Path(paths.selection(generation)).name
        page.write_text(render_html(selected, inside, shots), encoding="utf-8")
        storage.put_file(paths.selection(generation), page)
        for file in drawn.values():
            storage.put_file(paths.picture(file.stem), file)
        for file in (*drawn.values(), page):
            tracker(run).artifact(call.mlflow_run, file, "report")
    key, description = f"noisy-student-selection-g{generation}", f"Selection of generation {generation} of {run.run_id}"
    uri, picture = f"{storage.uri}/{paths.selection(generation)}", next(iter(inside.values()), None)
    show_in_prefect(key, description, render_markdown(selected), uri, picture)


def _selected(call: StageCall, selection: Selection, files: "_Files") -> tuple[Selected, list[ClassFigures]]:
    """What the report tells, and the classes that it gives examples of."""
    dataset = call.inputs["dataset"]
    with files.open(selection, "classes.parquet") as stream:
        classes = read_classes(stream)
    shown = shown_classes(classes, GALLERY_CLASSES)
    kept, dropped = (partial(files.open, selection, f"{name}.parquet") for name in ("selection", "dropped"))
    labels = [one.label for one in shown]
    found = survey(kept, dropped, partial(files.open, dataset, INDEX), len(classes), labels)
    return Selected(
        run_id=call.run.run_id,
        generation=call.generation,
        fingerprint=selection.fingerprint,
        settings=files.record(selection).science,
        result=selection.result,
        classes=classes,
        survey=found,
    ), shown


def _drawn(
    selected: Selected, shown: list[ClassFigures], shots: dict[int, list[gallery.Thumbnail]], folder: Path
) -> dict[str, Path]:
    """Name of `PICTURES` -> PNG file, of those that could be made."""
    from ns_core.evaluation.reports import selection_pictures as pictures

    makers = {
        "confidence_histogram": partial(pictures.confidence_histogram, survey=selected.survey),
        "selected_classes": partial(pictures.class_sizes, classes=selected.classes),
        GALLERY: partial(
            pictures.selection_gallery, classes=shown, shots=shots, hidden=len(selected.classes) - len(shots)
        ),
    }
    assert makers.keys() == PICTURES.keys()
    files = {name: folder / f"{name}-g{selected.generation}.png" for name in makers}
    for name, make in makers.items():
        tried(f"picture {files[name].stem}", partial(make, files[name]))
    return {name: file for name, file in files.items() if file.exists()}


class _Files(ArtifactFiles):
    """Files of a dataset and of a selection, and the images that these name."""

    def __init__(self, storage: Storage, dataset: Artifact, selection: Artifact, places: dict[str, str]) -> None:
        super().__init__(storage, dataset, selection)
        shards = {"": dataset, SELECTED: selection}
        self._roots = {field: (storage, self.record(one).prefix + "/") for field, one in shards.items()}
        """Place of shards (`data.reading`) -> the store and where in it."""
        self._roots |= {field: (open_storage(uri), "") for field, uri in places.items()}

    def image(self, shard: str, offset: int, size: int) -> bytes:
        """The bytes of one image, in a shard of the dataset's, of the selection's or of the person's own."""
        field, slash, path = shard.partition("/")
        storage, folder = self._roots[field if slash else ""]
        return storage.read_range(folder + (path if slash else shard), offset, size)
