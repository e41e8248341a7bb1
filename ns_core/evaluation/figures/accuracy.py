"""What predictions on single images tell: accuracy, calibration, selective prediction; and against a baseline.

In: readable `Predictions`, those of an attack too. Out: `Accuracy`, `Paired`.
"""

import numpy as np

from ns_core.evaluation.figures import calibration, selective
from ns_core.evaluation.figures.metrics import most_confused, per_class_accuracy, top5
from ns_core.evaluation.figures.paired import common_rows, compared, share_estimate
from ns_core.evaluation.results import Accuracy, Paired
from ns_core.evaluation.tables import Predictions

MOST_CONFUSED = 50
"""Pairs of classes."""


def accuracy(predictions: Predictions, classes: int, among: int) -> Accuracy:
    """All figures of a scene, but `against_baseline`.

    Args:
        predictions: readable ones, all with a label.
        classes: of the checkpoint.
        among: classes that the network had to choose from, drawn or not; of 5 and fewer there is no top-5 accuracy.
    """
    label, top1, right = predictions.label, predictions.top1, predictions.right
    confidence = predictions.confidence
    by_class = per_class_accuracy(label, top1, classes)
    enough = len(predictions) >= 2 * calibration.RMS_BIN
    return Accuracy(
        top1=share_estimate(right),
        top5=top5(predictions.rank) if among > 5 else None,
        ece=calibration.ece(confidence, right),
        rms_calibration_error=calibration.rms_calibration_error(confidence, right) if enough else None,
        nll=calibration.nll(predictions.label_probability),
        brier=calibration.brier(predictions.squares, predictions.label_probability),
        aurc=selective.aurc(confidence, right),
        aurra=selective.aurra(confidence, right),
        risk_coverage=selective.risk_coverage(confidence, right),
        reliability=calibration.reliability(confidence, right),
        per_class=[None if np.isnan(share) else share for share in by_class.tolist()],
        balanced=float(np.nanmean(by_class)),
        confused=most_confused(label, top1, MOST_CONFUSED),
    )


def against(ours: Predictions, baseline: Predictions) -> Paired | None:
    """The comparison on the images that both could read; None when too few are common (`paired.common_rows`)."""
    rows = common_rows(ours.key, baseline.key)
    if rows is None:
        return None
    assert np.array_equal(ours.label[rows[0]], baseline.label[rows[1]]), "an image has another label in the baseline"
    return compared(ours.right[rows[0]], baseline.right[rows[1]])
