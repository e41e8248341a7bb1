"""The lowest confidence that is kept of each class, so that its labels have a wanted precision.

In: `holdout.parquet` of the labels, labelled images as their teacher predicted them, who was not trained on them; the
settings `target_precision`, `target_rule` and `threshold`. Out: float32[C].

How frequent the classes are among what is taken for a class is taken to be the same in the pool as on the holdout. An
audit looks into that, and weighs the images by it.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ns_core.config import SelectConfig
from ns_core.errors import StageFailed, UserError
from ns_core.selection.precision import lowest, needed_images
from ns_core.stage import StageContext

HOLDOUT_FILE = "holdout.parquet"


def class_thresholds(config: SelectConfig, context: StageContext, classes: int) -> NDArray[np.float32]:
    """float32[`classes`], none below `config.threshold`; infinite for a class in which the precision is not shown.

    Raises `UserError` where it is shown in none, `StageFailed` where the labels have no holdout, or one of other
    classes.
    """
    assert config.target_precision, "else there is one threshold for all"
    table = _holdout(config, context)
    label, top1 = table["label"].to_numpy(), table["top1"].to_numpy()
    if max(label.max(initial=0), top1.max(initial=0)) >= classes:
        raise StageFailed(f"{context.inputs['pseudo_labels']}/{HOLDOUT_FILE} knows other classes than the dataset")
    confidence, right = table["confidence"].to_numpy(), label == top1
    found = np.full(classes, np.inf, np.float32)
    for one in range(classes):
        mine = top1 == one
        least = lowest(confidence[mine], right[mine], np.ones(int(mine.sum())), config.target_precision)
        value = getattr(least, config.target_rule)
        if value is not None:
            found[one] = max(np.float32(value), np.float32(config.threshold))
    if not np.isfinite(found).any():
        raise _shown_nowhere(config, table.num_rows, classes)
    return found


def _holdout(config: SelectConfig, context: StageContext) -> pa.Table:
    """Label, predicted class and the confidence that the selection goes by, of images that it would not leave out."""
    if HOLDOUT_FILE not in context.files("pseudo_labels", HOLDOUT_FILE):
        raise StageFailed(
            f"{context.inputs['pseudo_labels']} has no {HOLDOUT_FILE}, by which select.target_precision goes: label "
            "the pool again"
        )
    columns = ["label", "top1", "confidence" if config.confidence == "raw" else "calibrated"]
    with context.open("pseudo_labels", HOLDOUT_FILE) as stream, pq.ParquetFile(stream) as file:
        table = file.read(columns).select(columns).rename_columns(["label", "top1", "confidence"])
    if config.max_confidence == 1:
        return table
    return table.filter(pc.less(table["confidence"], pa.scalar(config.max_confidence, pa.float32())))


def _shown_nowhere(config: SelectConfig, images: int, classes: int) -> UserError:
    needed = needed_images(config.target_precision)
    hint = (
        f"it takes {needed} images that are taken for a class, all of them rightly; prepare a larger holdout, lower "
        "the target, or set select.target_rule=estimated"
        if config.target_rule == "assured"
        else "even the surest labels are wrong too often; lower the target or train the teacher longer"
    )
    return UserError(
        f"select.target_precision={config.target_precision:g} ({config.target_rule}) is shown for none of the "
        f"{classes} classes by the {images} images of the holdout: {hint}"
    )
