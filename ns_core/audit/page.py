"""The report of an audit as HTML and as Markdown: what a selection would be worth, before a student is trained on it.

In: an `Audit`, pictures, thumbnails of the selection's examples. Out: text. Loads no matplotlib.
"""

import html
from collections.abc import Mapping, Sequence

from ns_core.audit.audit import Audit, ClassAudit
from ns_core.audit.figures import CLASS_THRESHOLDS, Share
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
from ns_core.evaluation.reports.strips import confident, strips
from ns_core.selection.precision import LEVEL, RISK

ALL_CLASSES, WORST_CLASSES = 100, 20
"""Up to so many classes are all in the tables; of more the least precise ones are, and the rest in `audit.json`."""
PICTURES = {
    "precision": "Precision and coverage by threshold",
    "reliability": "Confidence and accuracy on the holdout, before and after temperature scaling",
    "prior": "Class prior of the holdout and of the pool",
}
"""Name of a picture (`audits/{id}/<name>.png`) -> its caption."""
UNKNOWN = "-"


def percent(value: float | None) -> str:
    """`97.1 %`; a dash of nothing."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def spanned(share: Share) -> str:
    """`97.1 % (95.6 to 98.3)`."""
    if share.value is None:
        return UNKNOWN
    return f"{percent(share.value)} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def title(audit: Audit) -> str:
    """In a sentence, what came out."""
    if audit.precision.value is None:
        return f"Of the pool's {audit.pool:,} images {audit.kept:,} would be kept, and nothing held out tells how right"
    return (
        f"Of the pool's {audit.pool:,} images {audit.kept:,} would be kept, and about {percent(audit.precision.value)} "
        "of their labels are right"
    )


def remarks(audit: Audit) -> list[str]:
    """The main figures, and what to beware of, a sentence each."""
    said = [
        f"Estimated precision {spanned(audit.precision)}, {LEVEL:.0%} interval, from {audit.precision.images:,} "
        f"held-out images above the cut; coverage {percent(audit.kept / audit.pool)} of the pool.",
    ]
    if audit.seen is not None:
        said.append(f"Of the {audit.rows:,} rows that a student sees, repeats counted, about {percent(audit.seen)}.")
    if audit.unseen:
        said.append(
            f"Of {audit.unseen:,} kept images, whose classes no held-out image above the cut is taken for, nothing is "
            "known: they are taken to be as right as the others."
        )
    if audit.folds_on_holdout:
        mean = sum(audit.folds_on_holdout) / len(audit.folds_on_holdout)
        said.append(
            f"The {len(audit.folds_on_holdout)} teachers of the folds, each trained with fewer labels, reach "
            f"{percent(mean)} on the holdout, the standing one {percent(audit.holdout_top1)}: what the folds say of it "
            "is off by about as much."
        )
    return [*said, *audit.shift.notes]


def sources_table(audit: Audit) -> Table:
    """The precision by what it was told from."""
    rows: list[tuple[str, ...]] = [
        (name, told, f"{audit.held_out[name]:,}", f"{audit.by_source[name].images:,}", spanned(audit.by_source[name]))
        for name, told in (
            ("holdout", "the standing teacher on the holdout, which it was not trained on"),
            ("folds", "teachers that were trained without a fold of the labelled images, on that fold"),
        )
        if name in audit.by_source
    ]
    everything = sum(audit.held_out.values())
    rows.append(("both", "", f"{everything:,}", f"{audit.precision.images:,}", spanned(audit.precision)))
    return Table(2, ("held out", "which", "images", "above the cut", "precision of the selection"), rows)


def classes_table(audit: Audit) -> Table:
    """The least precise first."""
    rows: list[tuple[str, ...]] = [
        (
            one.name,
            f"{one.pool:,}",
            f"{one.kept:,}",
            confident(one.cut),
            spanned(one.precision),
            f"{one.precision.images:,}",
            percent(one.found),
            percent(audit.shift.held[one.label]),
            percent(audit.shift.pool[one.label]),
        )
        for one in _shown(audit)
    ]
    heads = ("class", "in the pool", "kept", "cut", "precision", "held out", "found", "holdout prior", "pool prior")
    return Table(1, heads, rows)


def class_curves_table(audit: Audit) -> Table:
    """Precision by class and threshold, in percent with the interval."""
    rows: list[tuple[str, ...]] = []
    for one in _shown(audit):
        cells = (
            UNKNOWN
            if (share := point.precision).value is None
            else f"{100 * share.value:.0f} ({100 * share.low:.0f}-{100 * share.high:.0f})"
            for point in one.curve
        )
        rows.append((one.name, *cells))
    return Table(1, ("class", *(f"{threshold:.2f}" for threshold in CLASS_THRESHOLDS)), rows)


def thresholds_table(audit: Audit) -> Table:
    """A confidence for each class, and what it would keep."""
    rows = list[tuple[str, ...]]()
    for one in _shown(audit):
        mine = one.threshold
        rows.append(
            (
                one.name,
                confident(mine.assured),
                confident(mine.estimated),
                UNKNOWN if mine.precision is None else spanned(mine.precision),
                f"{mine.images:,}",
                f"{mine.needed:,}",
            )
        )
    heads = ("class", "assured", "estimated", "precision above", "images of the pool", "held-out images needed")
    return Table(1, heads, rows)


def curve_table(audit: Audit) -> Table:
    """One threshold for all classes."""
    rows: list[tuple[str, ...]] = [
        (
            f"{point.threshold:.2f}",
            spanned(point.precision),
            f"{point.images:,}",
            percent(point.coverage),
            percent(point.recall),
        )
        for point in audit.curve
    ]
    return Table(0, ("threshold", "precision", "images of the pool", "coverage", "kept and right"), rows)


def calibration_table(audit: Audit) -> Table:
    """Before and after temperature scaling, on the holdout."""
    found = audit.calibration
    rows: list[tuple[str, ...]] = [
        (name, percent(found.mean_confidence[place]), percent(found.accuracy.value), f"{100 * found.ece[place]:.1f}")
        for place, name in enumerate(("as it is", f"after scaling, T = {audit.temperature:g}"))
    ]
    return Table(1, ("confidence", "mean", "accuracy", "calibration error (points)"), rows)


def _shown(audit: Audit) -> list[ClassAudit]:
    order = sorted(
        audit.classes, key=lambda one: (one.precision.value is not None, one.precision.value or 0, one.label)
    )
    return order if len(order) <= ALL_CLASSES else order[:WORST_CLASSES]


def _sections(audit: Audit) -> list[tuple[str, list[Table], list[str], str]]:
    """Heading, tables, sentences and the name of a picture."""
    more = len(audit.classes) - WORST_CLASSES if len(audit.classes) > ALL_CLASSES else 0
    left = [f"{more:,} more classes, of which more is right, are in audit.json."] if more else []
    return [
        ("At the chosen cut", [sources_table(audit)], [], ""),
        ("By class", [classes_table(audit)], left, "prior"),
        ("With another threshold", [curve_table(audit)], [], "precision"),
        ("Precision by class and threshold, in percent", [class_curves_table(audit)], [], ""),
        (
            f"A threshold for each class, for a precision of {100 * audit.target:g} %",
            [thresholds_table(audit)],
            _of_thresholds(audit),
            "",
        ),
        ("Calibration", [calibration_table(audit)], [], "reliability"),
    ]


def _of_thresholds(audit: Audit) -> list[str]:
    return [
        f"Assured: the chance that what a class keeps is worse is {RISK:.0%} at most. It takes so many held-out images "
        "of the class, all right, as the last column says; where there are fewer, label more.",
        "Estimated: the lowest confidence at which the estimate reaches the target. It is the best-looking of many, "
        "and often too low.",
        to_select_by_them(audit),
    ]


def to_select_by_them(audit: Audit) -> str:
    """The settings that make a selection go by thresholds of classes."""
    assured = sum(one.threshold.assured is not None for one in audit.classes)
    return (
        f"To select by a threshold for each class: select.target_precision={audit.target:g} for the estimated ones; "
        f"with select.target_rule=assured for the assured ones, of which {assured:,} of {len(audit.classes):,} classes "
        "have one here. filter-and-balance finds them anew, by the holdout alone and with all its images of equal "
        "weight, so that they may differ a little; it takes none below select.threshold, and keeps nothing of a class "
        "without one."
    )


def notes(audit: Audit) -> list[str]:
    """How to read it."""
    confidence = "after temperature scaling" if audit.calibrated else "the largest probability, as it is"
    cut = f"select.threshold ({audit.threshold:g})"
    if audit.target_precision:
        cut = f"its own threshold (select.target_precision={audit.target_precision:g})"
    return [
        f"Confidence: {confidence}. A class is what the teacher predicts; its cut is {cut}, or the last image that is "
        "kept of a class that had more than enough.",
        "Precision: of what is kept, the share whose label is right. Held-out images count by how frequent their class "
        "is in the pool, estimated by expectation-maximisation (Saerens et al. 2002) from calibrated probabilities, "
        "and each predicted class by what is kept of it. Intervals: Clopper and Pearson's with the effective number of "
        "images (Korn and Graubard 1998), for the luck of the held-out images and of the pool's.",
        "Found: of the pool's images of the class, the share that is kept with its label.",
        "All of it takes a class to look in the pool as it does among the labelled images. What the pool has of no "
        "class at all is counted as right as the rest.",
    ]


def render_html(audit: Audit, pictures: Mapping[str, bytes], shots: Mapping[int, Sequence[Thumbnail]]) -> str:
    """One page that needs nothing else. `pictures`: PNG by name of `PICTURES`. `shots`: class index -> thumbnails."""
    body = [f"<h1>{html.escape(title(audit))}</h1>", html_list(remarks(audit))]
    for head, tables, sentences, picture in _sections(audit):
        body += [f"<h2>{html.escape(head)}</h2>", *map(html_table, tables), html_list(sentences)]
        if picture in pictures:
            body.append(html_figure(PICTURES[picture], pictures[picture]))
    body += [*_gallery(audit, shots), "<h2>How to read this</h2>", html_list(notes(audit))]
    return page(f"{audit.run_id}: what the pseudo-labels are worth", body)


def render_markdown(audit: Audit) -> str:
    """The same without pictures, as GitHub-flavoured Markdown."""
    parts = [f"# {plain(title(audit))}", _bullets(remarks(audit))]
    for head, tables, sentences, _ in _sections(audit):
        parts += [f"## {plain(head)}", *map(markdown_table, tables), _bullets(sentences)]
    parts += ["## How to read this", _bullets(notes(audit))]
    return "\n\n".join(filter(None, parts)) + "\n"


def _bullets(items: Sequence[str]) -> str:
    return "\n".join(f"- {plain(item)}" for item in items)


def _gallery(audit: Audit, shots: Mapping[int, Sequence[Thumbnail]]) -> list[str]:
    """What would be selected and what dropped, by class; nothing without thumbnails."""
    shown = [one for one in _shown(audit) if shots.get(one.label)]
    if not shown:
        return []
    parts = ["<h2>What would be selected, and what dropped</h2>", "<p>Below each image, the teacher's confidence.</p>"]
    for one in shown:
        parts.append(f"<h3>{html.escape(one.name)}: precision {html.escape(spanned(one.precision))}</h3>")
        parts += strips(one.name, shots[one.label])
    return parts
