"""The report of a run as HTML and as Markdown, and where a run leaves its files.

In: the document of a run, a plain dict as `noisy-student run --json` prints it: `run_id`, `recipe`, `seed`,
`stages`, `first_teacher`, `generations` (`index`, `teacher`, `student`, `pseudo_labels`, `gate`), `report`.
Shares are 0 to 1, and None where a figure was not measured. Intervals, [low, high], may stand beside what
`--json` prints: `holdout_interval` and `test_interval` among a model's figures, and `test_gain_interval`, the
paired one of the headline's gain. Out: text. Loads neither numpy, matplotlib nor torch.
"""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

from ns_core.errors import UserError, nearest
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
    "FGSM is the accuracy under the recipe's strongest attack, one step along the sign of the gradient.",
    "Pseudo-labels: the images kept, and the rows the student sees, repeats in rare classes included.",
    "Gate: promote (the student teaches next), keep-teacher (it does not), stop (it is significantly worse).",
    "A cached stage was in the store already: its seconds are those of looking it up.",
)

_PAGE = """<!doctype html>
<html lang="en"><head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1d1d1f; --quiet: #63636a; --line: #d9d9de; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e9e9ec; --quiet: #a3a3ab; --line: #3c3c42; --paper: #17171a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.3; margin: 0; text-wrap: balance; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p, li, figcaption { color: var(--quiet); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1rem .35rem 0; text-align: left; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 500; vertical-align: bottom; }
td { white-space: nowrap; } .number { text-align: right; }
figure { margin: 1.5rem 0; } img { max-width: 100%; background: #fff; border-radius: 6px; }
</style>
</head><body>
$body
</body></html>
"""

_Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Heads and rows, as plain text; from column `_NUMBERS` on they stand at the right."""
_NUMBERS = 3


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
    return teacher_of(document, len(document["generations"]) + 1)


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


def _generations(document: Document) -> _Table:
    """Two rows a generation, its teacher and its student; the first teacher alone where there is none."""
    heads = ("generation", "role", "model", "holdout", "test", "ECE", "mean corruption error", "FGSM")
    rows = list[tuple[str, ...]]()
    for entry in document["generations"]:
        index, labels = str(entry["index"]), entry["pseudo_labels"]
        teacher = {**figures_of(document, teacher_of(document, entry["index"])), **entry["teacher"]}
        rows.append((index, "teacher", *_measured(teacher), "", ""))
        pseudo = f"{labels['kept']:,} / {labels['rows']:,}"
        rows.append((index, "student", *_measured(entry["student"]), pseudo, entry["gate"]["verdict"]))
    alone = ("0", "first teacher", *_measured(document["first_teacher"]), "", "")
    return (*heads, "pseudo-labels kept / rows", "gate"), rows or [alone]


def _measured(figures: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        figures["model"],
        percent(figures["holdout_top1"], figures.get("holdout_interval")),
        percent(figures["test_top1"], figures.get("test_interval")),
        "-" if figures["ece"] is None else f"{figures['ece']:.3f}",
        percent(figures["mean_corruption_error"]),
        percent(figures["fgsm_strongest_top1"]),
    )


def _stages(document: Document) -> _Table:
    """One row a stage in the order they ended, and their sum."""
    rows, stages = list[tuple[str, ...]](), document["stages"]
    for one in stages:
        words = (one["stage"], one["state"], one["fingerprint"][:SHORT])
        rows.append((*words, str(one["generation"]), f"{one['seconds']:.1f}"))
    cached, seconds = sum(one["state"] == "cached" for one in stages), sum(one["seconds"] for one in stages)
    rows.append(("all", f"{cached} of {len(stages)} cached", "", "", f"{seconds:.1f}"))
    return ("stage", "state", "fingerprint", "generation", "seconds"), rows


def _remarks(document: Document) -> list[str]:
    """Where the report comes from, and why each student was promoted or not."""
    origin = f"Run {document['run_id']} of recipe {document['recipe']}, seed {document['seed']}."
    return [
        origin,
        *(f"Generation {one['index']}: {one['gate']['reason']}" for one in document["generations"]),
    ]


def render_html(document: Document, pictures: Mapping[str, bytes]) -> str:
    """One page that needs nothing else: style and pictures (PNG by name) inside, no script, no request."""
    figures = {name: _figure(name, png) for name, png in pictures.items()}
    body = [
        f"<h1>{html.escape(headline(document))}</h1>",
        _html_list(_remarks(document)),
        figures.pop(ACCURACY, ""),
        "<h2>Generations</h2>",
        _html_table(_generations(document)),
        *figures.values(),
        "<h2>Stages</h2>",
        _html_table(_stages(document)),
        "<h2>How to read this</h2>",
        _html_list(_NOTES),
    ]
    return Template(_PAGE).substitute(title=html.escape(document["run_id"]), body="\n".join(filter(None, body)))


def caption(name: str) -> str:
    """`confidence_histogram-g1` as `Confidence histogram, generation 1`."""
    return re.sub(r"-g(\d+)$", r", generation \1", name).replace("_", " ").capitalize()


def _figure(name: str, png: bytes) -> str:
    text, data = html.escape(caption(name)), base64.b64encode(png).decode("ascii")
    image = f'<img src="data:image/png;base64,{data}" alt="{text}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def _html_table(table: _Table) -> str:
    def row(tag: str, cells: Sequence[str]) -> str:
        words = [f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells[:_NUMBERS]]
        numbers = [f'<{tag} class="number">{html.escape(cell)}</{tag}>' for cell in cells[_NUMBERS:]]
        return f"<tr>{''.join(words + numbers)}</tr>"

    body = "\n".join(row("td", cells) for cells in table[1])
    return f'<div class="wide"><table>\n{row("th", table[0])}\n{body}\n</table></div>'


def _html_list(items: Sequence[str]) -> str:
    return f"<ul>\n{''.join(f'<li>{html.escape(item)}</li>' for item in items)}\n</ul>"


def render_markdown(document: Document) -> str:
    """The same without pictures, as GitHub-flavoured Markdown that reads well in a terminal too."""
    parts = [
        f"# {_plain(headline(document))}",
        "\n".join(f"- {_plain(remark)}" for remark in _remarks(document)),
        f"## Generations\n\n{_markdown_table(_generations(document))}",
        f"## Stages\n\n{_markdown_table(_stages(document))}",
        "## How to read this\n\n" + "\n".join(f"- {_plain(note)}" for note in _NOTES),
    ]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: _Table) -> str:
    cells = [[_plain(cell) for cell in row] for row in (table[0], *table[1])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = ["<" if column < _NUMBERS else ">" for column in range(len(widths))]
    lines = [" | ".join(f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)) for row in cells]
    rule = " | ".join("-" * (w - 1) + ("-" if s == "<" else ":") for s, w in zip(sides, widths, strict=True))
    return "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:]))


def _plain(text: str) -> str:
    """Text of one line in which Markdown finds nothing to act on."""
    return re.sub(r"[\\`*\[\]<>&|#~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(text.split()))
