"""Examples of a class as strips of thumbnails for an HTML page, and how their figures are written."""

from collections.abc import Sequence
from itertools import groupby

from ns_core.evaluation.reports.gallery import Thumbnail
from ns_core.evaluation.reports.page import html_image
from ns_core.evaluation.reports.selection_survey import JUDGED


def confident(confidence: float | None) -> str:
    """A confidence with three decimals, cut and not rounded: 0.9996 is not certain. A dash where there is none."""
    if confidence is None:
        return "-"
    # float32's 0.9 is 0.89999998.
    return f"{int(1000 * confidence + 1e-4) / 1000:.3f}"


def words(group: str) -> str:
    """`class_full` as `class full`."""
    return group.replace("_", " ")


def strips(name: str, shots: Sequence[Thumbnail]) -> list[str]:
    """The kept images of a class, group by group, and below them the dropped ones."""
    parts = []
    for dropped in (False, True):
        mine = [shot for shot in shots if (shot.group in JUDGED) == dropped]
        found = [_strip(name, group, list(these)) for group, these in groupby(mine, lambda shot: shot.group)]
        parts.append(f'<div class="strips">{"".join(found)}</div>' if found else "")
    return parts


def _strip(name: str, group: str, shots: Sequence[Thumbnail]) -> str:
    label = f"dropped: {words(group)}" if group in JUDGED else group
    images = (
        f"<figure>{html_image(shot.image, f'{name}, {label}, confidence {confident(shot.confidence)}')}"
        f"<figcaption>{confident(shot.confidence)}</figcaption></figure>"
        for shot in shots
    )
    return f'<div class="strip"><p>{label}</p><div>{"".join(images)}</div></div>\n'
