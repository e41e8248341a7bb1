"""The report of a run as HTML and as Markdown, and where a run leaves its files.

In: the document of a run, a plain dict as `noisy-student run --json` prints it: `run_id`, `recipe`, `seed`,
`stages`, `first_teacher`, `generations` (`index`, `teacher`, `student`, `pseudo_labels`, `gate`), `report`.
Shares are 0 to 1, and None where a figure was not measured. Two things may stand beside what `--json` prints:
`holdout_interval` and `test_interval`, [low, high], in the figures of a model, and `test_gain_interval`,
[low, high], the paired interval of the headline's gain.
Out: text. Nothing here loads numpy, matplotlib or torch but `test_gain_interval`, when it is called.
"""

import base64
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from ns_core.errors import UserError, nearest
from ns_core.fingerprint import SHORT
from ns_core.storage import Storage

Document = Mapping[str, Any]

ACCURACY = "accuracy_by_generation"
CAPTIONS = {
    ACCURACY: "Accuracy by generation",
    "confidence_histogram": "How confident the teacher was",
    "pseudo_label_gallery": "What the teacher labelled",
    "corruption_bars": "Errors on corrupted images",
}
"""What a picture shows, by the start of its name; `picture_name` adds the generation."""

NOTES = (
    "The test split is used for this report only. Every choice (the gate, which model goes on) is made on the "
    "holdout.",
    "Accuracy is top-1. The interval beside an accuracy is Wilson's at 95 %; the interval of the gain is a paired "
    "bootstrap over the test images.",
    "ECE is the expected calibration error on the test split: the mean gap between confidence and accuracy; "
    "0 is perfect.",
    "The mean corruption error is the plain mean of top-1 errors over this run's corruptions and severities, made "
    "from this run's test images. Such errors are relative: they compare models on the same data, and are not "
    "comparable with published mCE, which is scaled by AlexNet's errors on fixed files.",
    "FGSM is the accuracy under the strongest attack of the recipe, one step along the sign of the gradient.",
    "Of the pseudo-labels, the kept are images; the rows are what the student sees, copies of rare classes included.",
    "The gate's verdicts: promote (the student teaches the next generation), keep-teacher (it does not), stop (it "
    "is significantly worse, and the run ends).",
    "A cached stage was in the store already: its seconds are those of looking it up.",
)

_CANDIDATES = 5
_TIMESTAMP = re.compile(r"-(\d{8}-\d{6})-[0-9a-f]{4}$")


@dataclass(frozen=True)
class RunPaths:
    """Every key that belongs to one run. `document` is written last: a run without it has no report."""

    run_id: str

    @property
    def folder(self) -> str:
        return f"runs/{self.run_id}"

    @property
    def document(self) -> str:
        return f"{self.folder}/run.json"

    @property
    def html(self) -> str:
        return f"{self.folder}/report.html"

    @property
    def markdown(self) -> str:
        return f"{self.folder}/report.md"

    def picture(self, name: str) -> str:
        return f"{self.folder}/{name}.png"


def find_run(storage: Storage, name: str) -> str:
    """The run id that `name` stands for: a whole id, the beginning of just one, or `latest`.

    Ids end in a UTC timestamp (`{recipe}-{YYYYmmdd}-{HHMMSS}-{4 hex}`), which decides what is latest.
    Raises `UserError` when the store has no such run, several of them, or none at all.
    """
    pattern = re.compile(re.escape(RunPaths("\n").document).replace(re.escape("\n"), "([^/]+)"))
    found = [match[1] for key in storage.list("runs/") if (match := pattern.fullmatch(key))]
    runs = sorted(found, key=lambda run: (_timestamp(run), run), reverse=True)
    if not runs:
        raise UserError(f"{storage.uri} holds no finished run: start one with `noisy-student run`, or set --store")
    if name == "latest":
        return runs[0]
    if name in runs:
        return name
    matches = [run for run in runs if run.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"{len(matches)} runs begin with '{name}': write more of {_some(matches)}")
    raise UserError(f"{storage.uri} holds no run '{name}'{nearest(name, runs)}; the most recent: {_some(runs)}")


def _timestamp(run: str) -> str:
    match = _TIMESTAMP.search(run)
    return match[1] if match else ""


def _some(runs: Sequence[str]) -> str:
    return ", ".join(runs[:_CANDIDATES]) + (", ..." if len(runs) > _CANDIDATES else "")


def picture_name(kind: str, generation: int) -> str:
    """Name of a generation's picture, one of `CAPTIONS`."""
    assert kind in CAPTIONS, kind
    return f"{kind}-g{generation}"


def caption(name: str) -> str:
    """What the picture of this name shows."""
    kind, _, generation = name.partition("-g")
    return CAPTIONS[kind] + (f", generation {generation}" if generation else "")


def teacher_of(document: Document, generation: int) -> int:
    """The generation whose model taught `generation`: the last one promoted before it, else 0, the first teacher."""
    promoted = [entry["index"] for entry in document["generations"] if entry["gate"]["verdict"] == "promote"]
    return max((index for index in promoted if index < generation), default=0)


def champion(document: Document) -> int:
    """The generation whose model stands at the end; 0 is the first teacher. The gate chose it, on the holdout."""
    last = max((entry["index"] for entry in document["generations"]), default=0)
    return teacher_of(document, last + 1)


def figures_of(document: Document, generation: int) -> dict[str, Any]:
    """The figures of a generation's student, or of the first teacher for 0."""
    if generation == 0:
        figures: dict[str, Any] = document["first_teacher"]
        return figures
    (figures,) = (entry["student"] for entry in document["generations"] if entry["index"] == generation)
    return figures


def test_gain_interval(dataset: Path, before: Path, after: Path) -> tuple[float, float]:
    """95 % paired bootstrap interval of the test accuracy of `after` minus that of `before`, as shares.

    `dataset` is a folder with the index and the class names, the others hold `predictions.npz` with `test`
    float32[N,C] in the order of the index.
    """
    import numpy as np

    from ns_core.data.index import DatasetIndex
    from ns_core.evaluation.gate import paired_interval
    from ns_core.evaluation.metrics import correct

    labels = DatasetIndex.load(dataset).split("test").labels
    first, last = (correct(np.load(folder / "predictions.npz")["test"], labels) for folder in (before, after))
    return paired_interval(first, last)


def headline(document: Document) -> str:
    """What came out, in a sentence or two."""
    generation = champion(document)
    before = figures_of(document, 0)["test_top1"]
    if not document["generations"]:
        return f"Supervised only: the first teacher reached {percent(before)} on the test split."
    if generation == 0:
        last = document["generations"][-1]["student"]["test_top1"]
        return (
            f"No student took the place of the first teacher, which has {percent(before)} on the test split; "
            f"the last student has {percent(last)}."
        )
    after = figures_of(document, generation)["test_top1"]
    if before is None or after is None:
        return f"The student of generation {generation} stands; its accuracy on the test split was not measured."
    interval = document.get("test_gain_interval")
    spread = f" (95 % interval {_points(interval[0])} to {_points(interval[1])})" if interval else ""
    doubt = " The interval includes 0: the change may be chance." if interval and not _clear(interval) else ""
    return (
        f"The student of generation {generation} {change(after - before)} over the first teacher on the test "
        f"split{spread}: {percent(after)} after {percent(before)}.{doubt}"
    )


def change(gain: float) -> str:
    """`gained 4.5 points`, `lost 0.5 points` or `gained nothing`, from a share."""
    points = round(100 * gain, 1)
    return f"{'gained' if points > 0 else 'lost'} {abs(points):.1f} points" if points else "gained nothing"


def percent(share: float | None) -> str:
    """`93.3 %`; a dash where nothing was measured."""
    return "–" if share is None else f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _clear(interval: Sequence[float]) -> bool:
    return interval[0] > 0 or interval[1] < 0


@dataclass(frozen=True)
class Table:
    """Cells as plain text; from column `numbers` on they are right-aligned."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]
    numbers: int


def generations_table(document: Document) -> Table:
    """Two rows a generation, its teacher and its student; the first teacher alone where there is none."""
    heads = ("generation", "role", "model", "holdout", "test", "ECE", "mean corruption error", "FGSM")
    rows = [("0", "first teacher", *_measured(document["first_teacher"]), "–", "–")]
    for entry in document["generations"]:
        index, labels = str(entry["index"]), entry["pseudo_labels"]
        taught = figures_of(document, teacher_of(document, entry["index"]))
        teacher = {**taught, **{name: value for name, value in entry["teacher"].items() if value is not None}}
        rows.append((index, "teacher", *_measured(teacher), "", ""))
        pseudo = f"{labels['kept']:,} / {labels['rows']:,}"
        rows.append((index, "student", *_measured(entry["student"]), pseudo, entry["gate"]["verdict"]))
    if document["generations"]:
        del rows[0]
    return Table("Generations", (*heads, "pseudo-labels kept / rows", "gate"), rows, numbers=3)


def _measured(figures: Mapping[str, Any]) -> tuple[str, ...]:
    ece = figures["ece"]
    return (
        figures["model"],
        _with_interval(figures["holdout_top1"], figures.get("holdout_interval")),
        _with_interval(figures["test_top1"], figures.get("test_interval")),
        "–" if ece is None else f"{ece:.3f}",
        percent(figures["mean_corruption_error"]),
        percent(figures["fgsm_strongest_top1"]),
    )


def _with_interval(share: float | None, interval: Sequence[float] | None) -> str:
    if share is None or not interval:
        return percent(share)
    return f"{percent(share)} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"


def stages_table(document: Document) -> Table:
    """One row a stage in the order they ran, and their sum."""
    stages = document["stages"]
    rows = [
        (
            stage["stage"],
            stage["state"],
            stage["fingerprint"][:SHORT],
            str(stage["generation"]),
            f"{stage['seconds']:.1f}",
        )
        for stage in stages
    ]
    cached = sum(stage["state"] == "cached" for stage in stages)
    total = sum(stage["seconds"] for stage in stages)
    rows.append(("all", f"{cached} of {len(stages)} cached", "", "", f"{total:.1f}"))
    return Table("Stages", ("stage", "state", "fingerprint", "generation", "seconds"), rows, numbers=3)


def gate_reasons(document: Document) -> list[str]:
    """Why each generation's student was promoted or not."""
    return [f"Generation {entry['index']}: {entry['gate']['reason']}" for entry in document["generations"]]
