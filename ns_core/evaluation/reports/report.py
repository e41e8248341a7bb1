"""The report of a run as HTML and as Markdown, and where a run leaves its files.

In: the document of a run, a plain dict as `noisy-student run --json` prints it: `run_id`, `recipe`, `seed`,
`stages`, `first_teacher`, `generations` (`index`, `teacher`, `student`, `pseudo_labels`, `gate`), `report`, and
`robustness` (`comparison.Row`s of the student that `compared` names against the first teacher), and `mlflow` (`run`,
`compare` and `table`: addresses of pages, None where MLflow is no server).
Shares are 0 to 1, and None where a figure was not measured. Intervals, [low, high], may stand beside what
`--json` prints: `holdout_interval` and `test_interval` among a model's figures, and `test_gain_interval`, the
paired one of the headline's gain. Out: text. Loads neither numpy, matplotlib nor torch.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ns_core.errors import UserError, nearest
from ns_core.evaluation.reports import comparison
from ns_core.evaluation.reports.page import Table, html_figure, html_list, html_table, markdown_table, page, plain
from ns_core.fingerprint import SHORT
from ns_core.storage import Storage

Document = Mapping[str, Any]

ACCURACY = "accuracy_by_generation"
"""The picture that opens the report."""

_NOTES = (
    "The test split is for this report only: every choice, such as the gate's, is made on the holdout.",
    "Holdout and test are top-1 accuracies with 95 % Wilson intervals; the gain's is a paired bootstrap.",
    "ECE, on the test split, is the expected calibration error: the mean gap of confidence and accuracy.",
    "Mean corruption error is the plain mean of top-1 errors on this run's own corrupted test images. It is "
    "relative: good for comparing models on the same data, not comparable with published mCE.",
    "Mean flip probability is how often predictions change along this run's own perturbation sequences, not mFR.",
    "FGSM and PGD are accuracies under the recipe's strongest attacks: one step along the sign of the gradient, and "
    "several.",
    "The student against the first teacher: on the same images, with paired bootstrap intervals over source images, "
    "and McNemar's exact test where an image is either right or wrong.",
    "Pseudo-labels: the images kept, and the rows the student sees, repeats in rare classes included.",
    "Gate: promote (the student teaches next), keep-teacher (it does not), stop (it is significantly worse).",
    "A cached stage was in the store already: its seconds are those of looking it up.",
)

_ROBUSTNESS = ("mean_corruption_error", "mean_flip_probability", "fgsm_strongest_top1", "pgd_strongest_top1")
"""Figures of a model in the order of their columns."""

_WORDS = 3
"""Columns of the tables that are words; figures follow."""


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

    def selection(self, generation: int) -> str:
        """The page of what was selected for a generation."""
        return f"{self.folder}/selection-g{generation}.html"

    def robustness(self, generation: int) -> str:
        """The page of the evaluation of a generation's student; 0: of the first teacher."""
        return f"{self.folder}/robustness-g{generation}.html"


def find_run(storage: Storage, name: str) -> str:
    """The run id that `name` stands for: a whole id, the beginning of just one, or `latest`.

    Ids end in a UTC timestamp (`{recipe}-{YYYYmmdd}-{HHMMSS}-{4 hex}`), which decides what is latest.
    Raises `UserError` when the store has no such run, several of them, or none at all.
    """
    parts = [(key, key.split("/")[1]) for key in storage.list("runs/")]
    runs = sorted((run for key, run in parts if key == RunPaths(run).document), key=_age, reverse=True)
    if not runs:
        raise UserError(f"{storage.uri} holds no finished run: start one with `noisy-student run RECIPE`")
    if name == "latest":
        return runs[0]
    matches = [name] if name in runs else [run for run in runs if run.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"{len(matches)} runs begin with '{name}', write more of one: {_first(matches)}")
    raise UserError(f"no run '{name}' in {storage.uri}{nearest(name, runs)}; the most recent: {_first(runs)}")


def _age(run: str) -> tuple[str, str]:
    """Sorts by time; a name without one counts as older than all."""
    match = re.search(r"-(\d{8}-\d{6})-[0-9a-f]{4}$", run)
    return match[1] if match else "", run


def _first(runs: Sequence[str], count: int = 5) -> str:
    return ", ".join(runs[:count]) + (", ..." if len(runs) > count else "")


def teacher_of(document: Document, generation: int) -> int:
    """The generation whose model taught `generation`: the last promoted before it; 0 is the first teacher."""
    promoted = [entry["index"] for entry in document["generations"] if entry["gate"]["verdict"] == "promote"]
    return max((index for index in promoted if index < generation), default=0)


def champion(document: Document) -> int:
    """The generation whose model stands at the end, as the gate chose on the holdout."""
    return teacher_of(document, max((entry["index"] for entry in document["generations"]), default=0) + 1)


def compared(document: Document) -> int:
    """The generation whose student is held against the first teacher: the champion, or the last when no gate promoted
    one; 0 without generations."""
    return champion(document) or max((entry["index"] for entry in document["generations"]), default=0)


def figures_of(document: Document, generation: int) -> Mapping[str, Any]:
    """The figures of a generation's student; of the first teacher for generation 0."""
    students = {entry["index"]: entry["student"] for entry in document["generations"]}
    figures: Mapping[str, Any] = students[generation] if generation else document["first_teacher"]
    return figures


def headline(document: Document) -> str:
    """What came out, in a sentence or two."""
    generation = champion(document)
    before, after = (figures_of(document, each)["test_top1"] for each in (0, generation))
    if not document["generations"]:
        return f"Supervised only: the first teacher reached {percent(before)} on the test split."
    if generation == 0:
        last = percent(document["generations"][-1]["student"]["test_top1"])
        return f"No student replaced the first teacher: test accuracy {percent(before)}, last student's {last}."
    if before is None or after is None:
        return f"The student of generation {generation} stands; its gain on the test split was not measured."
    spread = doubt = ""
    if interval := document.get("test_gain_interval"):
        spread = f" (95 % interval {100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})"
        doubt = " The interval holds 0: the change may be chance." if interval[0] <= 0 <= interval[1] else ""
    return (
        f"The student of generation {generation} {change(after - before)} the first teacher on the test split"
        f"{spread}: {percent(after)} after {percent(before)}.{doubt}"
    )


def change(gain: float) -> str:
    """A share in words: `gained 4.5 points over`, `lost 0.5 points against` or `gained nothing over`."""
    points = round(100 * gain, 1)
    if points < 0:
        return f"lost {-points} points against"
    return f"gained {points} points over" if points else "gained nothing over"


def percent(share: float | None, interval: Sequence[float] | None = None) -> str:
    """`93.3 %` or `93.3 % (90.4-95.3)`; a dash where nothing was measured."""
    if share is None:
        return "-"
    spread = f" ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})" if interval else ""
    return f"{100 * share:.1f} %{spread}"


def _generations(document: Document) -> Table:
    """Two rows a generation, its teacher and its student; the first teacher alone where there is none."""
    heads = ("generation", "role", "model", "holdout", "test", "ECE", "mean corruption error")
    more = ("mean flip probability", "FGSM", "PGD", "pseudo-labels kept / rows", "gate")
    rows = list[tuple[str, ...]]()
    for entry in document["generations"]:
        index, labels = str(entry["index"]), entry["pseudo_labels"]
        teacher = {**figures_of(document, teacher_of(document, entry["index"])), **entry["teacher"]}
        rows.append((index, "teacher", *_measured(teacher), "", ""))
        pseudo = f"{labels['kept']:,} / {labels['rows']:,}"
        rows.append((index, "student", *_measured(entry["student"]), pseudo, entry["gate"]["verdict"]))
    alone = ("0", "first teacher", *_measured(document["first_teacher"]), "", "")
    return Table(_WORDS, (*heads, *more), rows or [alone])


def _measured(figures: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        figures["model"],
        percent(figures["holdout_top1"], figures.get("holdout_interval")),
        percent(figures["test_top1"], figures.get("test_interval")),
        "-" if figures["ece"] is None else f"{figures['ece']:.3f}",
        *(percent(figures.get(name)) for name in _ROBUSTNESS),
    )


def _stages(document: Document) -> Table:
    """One row a stage in the order they ended, and their sum."""
    rows, stages = list[tuple[str, ...]](), document["stages"]
    for one in stages:
        words = (one["stage"], one["state"], one["fingerprint"][:SHORT])
        rows.append((*words, str(one["generation"]), f"{one['seconds']:.1f}"))
    cached, seconds = sum(one["state"] == "cached" for one in stages), sum(one["seconds"] for one in stages)
    rows.append(("all", f"{cached} of {len(stages)} cached", "", "", f"{seconds:.1f}"))
    return Table(_WORDS, ("stage", "state", "fingerprint", "generation", "seconds"), rows)


def _remarks(document: Document) -> list[str]:
    """Where the report comes from, and why each student was promoted or not."""
    origin = f"Run {document['run_id']} of recipe {document['recipe']}, seed {document['seed']}."
    return [
        origin,
        *(f"Generation {one['index']}: {one['gate']['reason']}" for one in document["generations"]),
    ]


def _elsewhere(document: Document) -> dict[str, str]:
    """Address -> what is there, of the pages in MLflow. A document of before they were in it has none."""
    found = document.get("mlflow") or {}
    words = {"run": "This run", "compare": "Charts of its recipe's runs", "table": "Compared with other runs"}
    return {found[name]: f"{text}, in MLflow" for name, text in words.items() if found.get(name)}


def _compared(document: Document) -> tuple[str, list[comparison.Row]]:
    """Heading and rows of what became of robustness."""
    stands = "last standing student" if champion(document) else "last student, which was not promoted,"
    head = f"Robustness: the {stands} of generation {compared(document)} against the first teacher"
    return head, comparison.rows_of(document)


def render_html(
    document: Document,
    pictures: Mapping[str, bytes],
    selections: Sequence[int] = (),
    evaluations: Sequence[int] = (),
) -> str:
    """One page that needs nothing else: style and pictures (PNG by name) inside, no script, no request.

    `selections`: the generations whose page (`RunPaths.selection`) lies beside this one; 0 has one for all of them.
    `evaluations`: the same of `RunPaths.robustness`; 0 has the first teacher's.
    """
    links = {RunPaths("").selection(each): f"What was selected for {readers(each)}" for each in selections}
    links |= {RunPaths("").robustness(each): f"Robustness of {_evaluated(each)}" for each in evaluations}
    figures = {name: html_figure(caption(name), png) for name, png in pictures.items()}
    body = [
        f"<h1>{html.escape(headline(document))}</h1>",
        html_list(_remarks(document)),
        figures.pop(ACCURACY, ""),
        "<h2>Generations</h2>",
        html_table(_generations(document)),
        *comparison.as_html(*_compared(document)),
        *(f'<p><a href="{key.rpartition("/")[2]}">{words}</a></p>' for key, words in links.items()),
        *(f'<p><a href="{html.escape(url)}">{words}</a></p>' for url, words in _elsewhere(document).items()),
        *figures.values(),
        "<h2>Stages</h2>",
        html_table(_stages(document)),
        "<h2>How to read this</h2>",
        html_list(_NOTES),
    ]
    return page(document["run_id"], body)


def readers(generation: int) -> str:
    """Whose students see what was selected among the stages of a generation."""
    return f"generation {generation}" if generation else "all generations"


def _evaluated(generation: int) -> str:
    return f"the student of generation {generation}" if generation else "the first teacher"


def caption(name: str) -> str:
    """`confidence_histogram-g1` as `Confidence histogram, generation 1`."""
    return re.sub(r"-g(\d+)$", r", generation \1", name).replace("_", " ").capitalize()


def render_markdown(document: Document) -> str:
    """The same without pictures, as GitHub-flavoured Markdown that reads well in a terminal too."""
    parts = [
        f"# {plain(headline(document))}",
        "\n".join(f"- {plain(remark)}" for remark in _remarks(document)),
        f"## Generations\n\n{markdown_table(_generations(document))}",
        comparison.as_markdown(*_compared(document)),
        "\n".join(f"- {words}: <{url}>" for url, words in _elsewhere(document).items()),
        f"## Stages\n\n{markdown_table(_stages(document))}",
        "## How to read this\n\n" + "\n".join(f"- {plain(note)}" for note in _NOTES),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"
