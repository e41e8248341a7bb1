"""What each stage leaves in the store, in bytes.

In: a stage's work, the settings, how many images are kept. Out: bytes, and how they come about.
"""

from ns_core.config import Recipe
from ns_core.planning.selected import Selected
from ns_core.planning.work import Counts, Work

INDEX_ROW = 120
"""Bytes of an image's row in `index.parquet`: key, shard, offset, digest."""
LABEL_ROW = 80
"""Of an image in a table of labels or of a selection, without the soft label: key, digest, class, confidence."""
PROBABILITY = 2
"""float16."""
LABEL_OF_TOP = 4
"""A probability with its class."""
PREDICTION_ROW = 40
"""Of an evaluation's table; compressed, the logits of a thousand classes not counted."""
WEIGHT = 4


def label_bytes(recipe: Recipe, classes: int) -> int:
    """Of an image's row with its soft label."""
    top = recipe.infer.top_k
    return LABEL_ROW + (LABEL_OF_TOP * top if top else PROBABILITY * classes)


def stored(one: Work, recipe: Recipe, counts: Counts, selection: Selected | None, weights: int) -> int:
    """Of the artifact. `selection`: the stage's own, or the student's; `weights`: of the stage's network."""
    if one.stage == "prepare-dataset":
        images = 0.0 if recipe.data.source == "webdataset" else counts.image_bytes
        return round(counts.images * (images + INDEX_ROW))
    if one.stage == "infer-unlabeled":
        return one.amount * label_bytes(recipe, counts.classes)
    if one.stage == "filter-and-balance":
        assert selection is not None, one
        images = counts.image_bytes if recipe.select.materialize else 0.0
        own = selection.kept * (label_bytes(recipe, counts.classes) + images)
        return round(own + (one.amount - selection.kept) * LABEL_ROW)
    if one.stage == "evaluate-robustness":
        return one.amount * PREDICTION_ROW
    return WEIGHT * weights
