"""The report of a selection as HTML and as Markdown: what the student will see of the pool, and what it will not.

In: the result document and settings of filter-and-balance, the figures of the classes, a `Survey`, thumbnails and
pictures. Out: text. Loads no matplotlib.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ns_core.evaluation.reports.gallery import Thumbnail
from ns_core.evaluation.reports.page import (
    Table,
    html_figure,
    html_list,
    html_table,
    markdown_table,
    page,
    plain,
)
from ns_core.evaluation.reports.report import readers
from ns_core.evaluation.reports.selection_classes import ClassFigures, worst_first
from ns_core.evaluation.reports.selection_survey import JUDGED, Survey
from ns_core.evaluation.reports.strips import confident, strips, words
from ns_core.fingerprint import SHORT

ALL_CLASSES, WORST_CLASSES, NAMED = 100, 20, 5
"""Up to so many classes are all in the table; of more the worst ones are. Names in a sentence."""
GALLERY_CLASSES = 30
"""Classes with examples on the page."""
GALLERY = "pseudo_labels"
"""The picture that a page has as thumbnails instead."""
PICTURES = {
    "confidence_histogram": "Images of the pool by confidence",
    "selected_classes": "Images by class",
    GALLERY: "Examples, kept and dropped",
}
"""Name of a picture (`runs/<run_id>/<name>-g<N>.png`) -> its caption."""


@dataclass(frozen=True)
class Selected:
    """Everything that the report of one selection tells."""

    run_id: str
    generation: int
    """0: the selection is for all generations."""
    fingerprint: str
    settings: Mapping[str, Any]
    """Science settings of the stage."""
    result: Mapping[str, Any]
    """Its result document."""
    classes: Sequence[ClassFigures]
    survey: Survey

    @property
    def title(self) -> str:
        """In a sentence, what came out."""
        kept, pool = self.result["kept"], self.result["pool"]
        return f"{kept:,} of the pool's {pool:,} images were selected for {readers(self.generation)}"


def share(part: float, whole: float) -> str:
    """`12.3 %`; a dash of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def render_html(selected: Selected, pictures: Mapping[str, bytes], shots: Mapping[int, Sequence[Thumbnail]]) -> str:
    """One page that needs nothing else. `pictures`: PNG by caption. `shots`: class index -> thumbnails."""
    body = [
        f"<h1>{html.escape(selected.title)}</h1>",
        html_list(_remarks(selected)),
        "<h2>What became of the pool</h2>",
        html_table(_outcomes(selected)),
        *(html_figure(caption, png) for caption, png in pictures.items()),
        "<h2>Classes that deserve a look</h2>",
        html_list(_worst(selected)),
        html_table(_classes(selected)),
        html_list(_left_out(selected)),
        *_gallery(selected, shots),
        "<h2>How to read this</h2>",
        html_list(_notes(selected)),
    ]
    return page(f"{selected.run_id}: selection for {readers(selected.generation)}", body)


def render_markdown(selected: Selected) -> str:
    """The same without pictures, as GitHub-flavoured Markdown."""

    def bullets(items: Sequence[str]) -> str:
        return "\n".join(f"- {plain(item)}" for item in items)

    parts = [
        f"# {plain(selected.title)}",
        bullets(_remarks(selected)),
        f"## What became of the pool\n\n{markdown_table(_outcomes(selected))}",
        f"## Classes that deserve a look\n\n{bullets(_worst(selected))}",
        markdown_table(_classes(selected)),
        bullets(_left_out(selected)),
        f"## How to read this\n\n{bullets(_notes(selected))}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _remarks(selected: Selected) -> list[str]:
    result, copies = selected.result, selected.survey.copies
    kept, repeated, effective = result["kept"], int(copies[2:].sum()), result["effective_images"]
    return [
        f"Run {selected.run_id}, filter-and-balance {selected.fingerprint[:SHORT]}.",
        f"The student sees {result['rows']:,} rows: each kept image {result['duplication']:.2f} times on average (the "
        f"duplication factor).",
        f"{repeated:,} images, {share(repeated, kept)} of those kept, are repeated, at most {len(copies) - 1:,} times."
        if repeated
        else "No image is repeated.",
        f"Effective number of unique images: {effective:,.0f}, {share(effective, kept)} of those kept.",
    ]


def _outcomes(selected: Selected) -> Table:
    settings, result = selected.settings, selected.result
    one_for_all = f"less confident than the threshold of {settings['threshold']:g}"
    meaning = {
        "below_threshold": "less confident than its class's threshold" if _target(selected) else one_for_all,
        "class_full": f"its class had enough surer images, {settings['per_class']:,} being wanted",
        "duplicate": "an image that counts as the same is surer",
        "corrupt": "it could not be read",
        "leak": "it also stands in the holdout or test split",
    }
    if "too_confident" in result["dropped"]:
        meaning["too_confident"] = f"as confident as {settings['max_confidence']:g} or more"
    if "not_sampled" in result["dropped"]:
        meaning["not_sampled"] = f"{100 * settings['pool_fraction']:.3g} % of the pool were drawn, without it"
    everything = result["came_in"]
    rows: list[tuple[str, ...]] = [
        ("kept", "the surest of their class", f"{result['kept']:,}", share(result["kept"], everything))
    ]
    assert result["dropped"].keys() == meaning.keys(), result["dropped"]
    for reason, because in meaning.items():
        images = result["dropped"][reason]
        rows.append((f"dropped: {words(reason)}", because, f"{images:,}", share(images, everything)))
    rows.append(("all", "", f"{everything:,}", share(everything, everything)))
    return Table(2, ("outcome", "because", "images", "share"), rows)


def _target(selected: Selected) -> float:
    """The precision that each class has its own threshold for; 0: one threshold for all."""
    return float(selected.settings.get("target_precision", 0.0))


def _worst(selected: Selected) -> list[str]:
    """Three lists of a few classes, and those of which nothing was kept."""
    some = [one for one in selected.classes if one.kept]
    none = [one.name for one in selected.classes if not one.kept]
    full = max((one.kept for one in some), default=0)
    fewest = [one for one in worst_first(some) if one.kept < full]
    cut = sorted(some, key=lambda one: (one.cut or 0.0, one.label))
    repeated = sorted((one for one in some if one.rows > one.kept), key=lambda one: (-one.rows / one.kept, one.label))
    sentences = {
        "Fewest kept": [f"{one.name} ({one.kept:,})" for one in fewest],
        "Lowest confidence that was kept": [f"{one.name} ({confident(one.cut)})" for one in cut],
        "Most often repeated": [f"{one.name} ({one.rows / one.kept:.1f} times)" for one in repeated],
        f"Classes of which nothing was kept ({len(none):,})": none,
    }
    return [f"{start}: {', '.join(names[:NAMED])}{_more(names)}." for start, names in sentences.items() if names]


def _more(names: Sequence[str]) -> str:
    return f", and {len(names) - NAMED:,} more" if len(names) > NAMED else ""


def _classes(selected: Selected) -> Table:
    """The worst first."""
    order = worst_first(selected.classes)
    rows = [
        (
            one.name,
            *(f"{count:,}" for count in (one.pool, one.kept, one.rows)),
            "-" if one.factor is None else f"{one.factor:.2f}",
            *(f"{one.dropped[reason]:,}" for reason in JUDGED),
            *([confident(one.threshold)] if _target(selected) else []),
            confident(one.cut),
            confident(one.mean),
        )
        for one in (order if len(order) <= ALL_CLASSES else order[:WORST_CLASSES])
    ]
    own = ["threshold"] if _target(selected) else []
    heads = (
        "class",
        "in the pool",
        "kept",
        "rows",
        "duplication",
        *map(words, JUDGED),
        *own,
        "lowest kept",
        "mean kept",
    )
    return Table(1, heads, rows)


def _left_out(selected: Selected) -> list[str]:
    more = len(selected.classes) - WORST_CLASSES
    if len(selected.classes) <= ALL_CLASSES:
        return []
    return [f"{more:,} more classes, of which as much or more was kept, are in the selection's classes.parquet."]


def _gallery(selected: Selected, shots: Mapping[int, Sequence[Thumbnail]]) -> list[str]:
    """A heading for each class, and strips of its images; nothing when there are no thumbnails."""
    shown = [one for one in worst_first(selected.classes) if one.label in shots]
    if not shown:
        return []
    parts = ["<h2>Examples, kept and dropped</h2>", "<p>Below each image, the teacher's confidence.</p>"]
    if hidden := len(selected.classes) - len(shown):
        parts.append(
            f"<p>Half of these classes are the worst, half are spread over the others; {hidden:,} more have "
            "no examples here.</p>"
        )
    for one in shown:
        parts.append(f"<h3>{html.escape(one.name)}</h3>")
        parts += strips(one.name, shots[one.label])
    return parts


def _notes(selected: Selected) -> list[str]:
    settings = selected.settings
    which = "after temperature scaling" if settings.get("confidence") == "calibrated" else "its largest probability"
    return [
        f"Confidence is the teacher's, {which}; a class is what the teacher predicts.",
        f"Settings: threshold {settings['threshold']:g}, {settings['per_class']:,} images a class, repeated at most "
        f"{settings['max_copies']:,} times where there are fewer.",
        *_of_thresholds(selected),
        "Effective number of unique images: (sum of copies)² / (sum of squared copies), Kish's effective sample size: "
        "so many images, all seen equally often, weigh as evenly as these do.",
        "Corrupt images and leaks that prepare-dataset kept out of the pool are counted among all images.",
        "Examples: of the kept images the surest and the least sure; of the dropped ones the surest for each reason, "
        "those nearest to being kept.",
    ]


def _of_thresholds(selected: Selected) -> list[str]:
    if not (target := _target(selected)):
        return []
    rule = selected.settings.get("target_rule", "estimated")
    shown = (
        "the share of right labels reaches it, which is often too good to be true"
        if rule == "estimated"
        else "the chance that a class does not reach it is 5 % at most"
    )
    without = selected.result["classes_without_threshold"]
    none = f" Of {without:,} classes that show it nowhere nothing is kept." if without else ""
    return [
        f"Threshold: for a precision of {100 * target:g} % in each class, {rule} on the holdout ({shown}), and no "
        f"lower than {selected.settings['threshold']:g}.{none}"
    ]
