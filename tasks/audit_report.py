"""audit-report: what the pseudo-labels are worth, for a person: in the store, in Prefect and in MLflow.

`audits/{run_id}/` has `report.html`, `report.md`, pictures, and `audit.json`, which is written last.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from ns_core.artifacts import Artifact, Dataset, Frozen, PseudoLabels, Selection
from ns_core.audit import reading
from ns_core.audit.audit import Audit, Material, audited
from ns_core.audit.page import PICTURES, render_html, render_markdown, title
from ns_core.config import Recipe
from ns_core.data.index import CLASSES, INDEX
from ns_core.data.pseudo_labels import LABEL_FILES
from ns_core.data.reading import SELECTED
from ns_core.evaluation.reports import gallery
from ns_core.evaluation.reports.selection_classes import ClassFigures, read_classes, shown_classes
from ns_core.evaluation.reports.selection_report import GALLERY_CLASSES
from ns_core.evaluation.reports.selection_survey import survey
from ns_core.fingerprint import digest
from ns_core.storage import Storage, open_storage
from ns_core.tracking import Point
from tasks.advisory import show_in_prefect, tried
from tasks.artifact_files import ArtifactFiles
from tasks.run import Run
from tasks.tracker import tracker
from tasks.tracking import prefect_tags, recipe_tags, run_name

PREFECT_KEY = "audit-report"


class Labelled(Frozen):
    """What an audit reads: artifacts of this store."""

    dataset: Dataset
    labels: PseudoLabels
    """Of the pool, by the standing teacher."""
    selection: Selection
    folds: list[PseudoLabels]
    """Of each fold, by the teacher that was trained without it."""


@task(name="audit-report", cache_policy=NO_CACHE)
def report_audit(run: Run, recipe: Recipe, labelled: Labelled, target: float) -> Audit:
    """The figures, and everything that people are shown of them. Pictures and pages elsewhere are advisory."""
    storage, folder = open_storage(run.store), f"audits/{run.run_id}"
    files = _Files(storage, labelled, run.places)
    material = _material(run, recipe, labelled, files)
    made = audited(material, target)
    made = made.model_copy(update={"report": f"{storage.uri}/{folder}/report.html"})
    shots = tried("the gallery", lambda: _shots(labelled, files, material.selected)) or {}
    with tempfile.TemporaryDirectory(prefix="ns-audit-") as name:
        drawn = _drawn(made, Path(name))
        pictures = {picture: file.read_bytes() for picture, file in drawn.items()}
        page, text = Path(name) / "report.html", render_markdown(made)
        page.write_text(render_html(made, pictures, shots), encoding="utf-8")
        for file in (*drawn.values(), page):
            storage.put_file(f"{folder}/{file.name}", file)
        storage.put_bytes(f"{folder}/report.md", text.encode())
        tried("the audit in MLflow", lambda: _tell_mlflow(run, recipe, made, [*drawn.values(), page]))
    show_in_prefect(PREFECT_KEY, title(made), text, made.report, pictures.get("precision"))
    storage.put_bytes(f"{folder}/audit.json", made.model_dump_json(indent=1).encode())
    return made


def _material(run: Run, recipe: Recipe, labelled: Labelled, files: "_Files") -> Material:
    names = tuple(json.loads(files.read(labelled.dataset, CLASSES)))
    labels, classes = partial(files.open, labelled.labels), len(names)
    held, probabilities = reading.holdout(labels, classes)
    with files.open(labelled.dataset, INDEX) as index:
        truth = reading.labelled(index) if labelled.folds else {}
    with files.open(labelled.selection, "classes.parquet") as stream:
        selected = read_classes(stream)
    folds = [
        reading.fold(partial(files.open, one), files.matching(one, LABEL_FILES), truth, number)
        for number, one in enumerate(labelled.folds)
    ]
    of_pool = files.matching(labelled.labels, LABEL_FILES)
    return Material(
        run_id=run.run_id,
        selection=labelled.selection.fingerprint,
        recipe=recipe.name,
        seed=recipe.seed,
        class_names=names,
        settings=files.record(labelled.selection).science,
        selected=selected,
        holdout=held,
        holdout_probabilities=probabilities,
        temperature=labelled.labels.result["temperature"],
        folds=folds,
        folds_on_holdout=[one.result["holdout_top1"] for one in labelled.folds],
        pool=reading.pool(labels, of_pool, labelled.labels.result["images"], classes),
    )


def _shots(
    labelled: Labelled, files: "_Files", selected: Sequence[ClassFigures]
) -> Mapping[int, list[gallery.Thumbnail]]:
    """Thumbnails of what is kept and what dropped of some classes, by class."""
    kept, dropped = (partial(files.open, labelled.selection, f"{name}.parquet") for name in ("selection", "dropped"))
    shown = [one.label for one in shown_classes(selected, GALLERY_CLASSES)]
    found = survey(kept, dropped, partial(files.open, labelled.dataset, INDEX), len(selected), shown)
    return gallery.thumbnails(found.examples, files.image)


def _drawn(audit: Audit, folder: Path) -> dict[str, Path]:
    """Name of `PICTURES` -> PNG file, of those that could be made."""
    files = {name: folder / f"{name}.png" for name in PICTURES}

    def draw(name: str) -> None:
        from ns_core.audit import pictures

        getattr(pictures, name)(files[name], audit)

    for name in files:
        tried(f"picture {name}", partial(draw, name))
    return {name: file for name, file in files.items() if file.exists()}


def _tell_mlflow(run: Run, recipe: Recipe, audit: Audit, files: Sequence[Path]) -> None:
    """A run of its own beside those of campaigns, which `ns.generation` tells it from."""
    key = digest({"audit": recipe.science(), "folds": len(audit.folds_on_holdout), "target": audit.target})
    tags = recipe_tags(recipe) | {"ns.generation": "audit", "ns.run": run.run_id, **prefect_tags()}
    line = tracker(run)
    params = {"folds": len(audit.folds_on_holdout), "target": audit.target, "threshold": audit.threshold}
    mine = line.parent(f"{run_name(recipe)}-audit", key, params, tags)
    figures = {
        "precision": audit.precision.value,
        "precision_low": audit.precision.low,
        "precision_high": audit.precision.high,
        "coverage": audit.kept / audit.pool,
        "ece": audit.calibration.ece[0],
        "ece_calibrated": audit.calibration.ece[1],
        "prior_shift": audit.shift.distance,
    }
    line.log(mine, [Point(f"audit/{name}", value, 0, 0) for name, value in figures.items() if value is not None])
    for file in files:
        line.artifact(mine, file, "report")
    line.finish(mine, "FINISHED")


class _Files(ArtifactFiles):
    """Files of the audited artifacts, and the images of the pool."""

    def __init__(self, storage: Storage, labelled: Labelled, places: Mapping[str, str]) -> None:
        super().__init__(storage, labelled.dataset, labelled.labels, labelled.selection, *labelled.folds)
        shards = {"": labelled.dataset, SELECTED: labelled.selection}
        self._roots = {field: (storage, self.record(one).prefix + "/") for field, one in shards.items()}
        self._roots |= {field: (open_storage(uri), "") for field, uri in places.items()}

    def matching(self, artifact: Artifact, pattern: str) -> list[str]:
        """Names of files, sorted."""
        return sorted(name for name in self.record(artifact).files if Path(name).match(pattern))

    def image(self, shard: str, offset: int, size: int) -> bytes:
        """The bytes of one image, in a shard of the dataset's, of the selection's or of the person's own."""
        field, slash, path = shard.partition("/")
        storage, folder = self._roots[field if slash else ""]
        return storage.read_range(folder + (path if slash else shard), offset, size)
