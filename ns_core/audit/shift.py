"""Whether the pool is made up as the held-out images are: its class prior, and whether its images look like them.

In: confusion of held-out images, and what the standing teacher says of the pool. Out: estimated priors, float64[C],
and the weight of each true class. Label shift is assumed: classes may be more or less frequent, but look the same
(Lipton et al. 2018). `unlike` looks for the contrary; a pool with images of no class breaks it.

    em      maximum likelihood from calibrated probabilities, by expectation-maximisation (Saerens et al. 2002; with
            calibration it beat the others in Alexandari et al. 2020): what the weights are made of, drawn towards the
            held-out images' prior as far as the counts of predictions do not tell the two apart (`same_predictions`)
    bbse    from the confusion matrix alone (Lipton et al. 2018, black-box shift estimation), by non-negative least
            squares: told beside it, since it asks nothing of the probabilities
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import chi2_contingency, ks_2samp

from ns_core.artifacts import Frozen
from ns_core.audit.figures import Floats, HeldOut, Ints

STEPS = 500
"""Of expectation-maximisation, at most."""
_STEADY = 1e-8
_FLOOR = 1e-6
"""Of a prior: a class is rare, never impossible."""
HEAVIEST = 10.0
"""A held-out image counts for so many at most: one of a class that the pool has ten times as often tells too little."""
SHOWN = 0.01
"""p-value below which a difference is taken for shown."""
NOTABLE = 0.1
"""Distance of confidences below which nothing is said: in a large pool the smallest one can be shown."""


class Shift(Frozen):
    """The pool against the held-out images."""

    held: list[float]
    """Class prior of the held-out images."""
    pool: list[float]
    """Of the pool, estimated: `em`, shrunk."""
    em: list[float]
    """Of the pool by expectation-maximisation alone."""
    bbse: list[float] | None
    """The same from the confusion matrix; None where some class is never right."""
    distance: float
    """Total variation distance between `held` and `pool`, 0..1."""
    p_value: float
    """That held-out and pool images are predicted as often as each class (chi-squared)."""
    unlike: tuple[float, float]
    """Distance (Kolmogorov-Smirnov) of the confidences of the pool from those of the held-out images of its make-up,
    and its p-value."""
    mean_confidence: tuple[float, float]
    """Calibrated: of held-out images, weighted, and of the pool."""
    notes: list[str] = []


def tempered(probabilities: Floats, temperature: float) -> NDArray[np.float64]:
    """Probabilities [N,C] after temperature scaling: p^(1/T), normalised again."""
    scaled = np.power(np.maximum(probabilities.astype(np.float64), 1e-12), 1 / temperature)
    result: NDArray[np.float64] = scaled / scaled.sum(axis=1, keepdims=True)
    return result


def em(pool: Floats, source: Floats) -> NDArray[np.float64]:
    """The pool's prior from calibrated probabilities [N,C] and the prior [C] that these take for granted."""
    source = np.maximum(source.astype(np.float64), _FLOOR)
    prior = source / source.sum()
    ratio = pool.astype(np.float64) / source
    for _ in range(STEPS):
        posterior = ratio * prior
        posterior /= np.maximum(posterior.sum(axis=1, keepdims=True), 1e-300)
        new = np.maximum(posterior.mean(axis=0), _FLOOR)
        new /= new.sum()
        moved, prior = float(np.abs(new - prior).sum()), new
        if moved < _STEADY:
            break
    result: NDArray[np.float64] = prior
    return result


def bbse(held: HeldOut, predicted: Ints, classes: int) -> NDArray[np.float64] | None:
    """The pool's prior from how often each class is predicted in it, int[C]; None where that does not determine it."""
    joint = np.zeros((classes, classes))
    np.add.at(joint, (held.top1, held.label), 1 / max(1, len(held)))
    if not predicted.sum() or np.linalg.matrix_rank(joint) < classes:
        return None
    ratio, _ = nnls(joint, predicted / predicted.sum())
    prior = ratio * joint.sum(axis=0)
    result: NDArray[np.float64] = prior / prior.sum()
    return result


def class_weights(held: Floats, pool: Floats) -> NDArray[np.float64]:
    """By true class, how much more frequent it is in the pool, `HEAVIEST` at most; 1 of a class never held out."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(held > 0, pool / held, 1.0)
    result: NDArray[np.float64] = np.minimum(ratio, HEAVIEST)
    return result


def prior_of(labels: Ints, classes: int) -> NDArray[np.float64]:
    """Shares of each class."""
    counts = np.bincount(labels, minlength=classes)
    result: NDArray[np.float64] = counts / max(1, counts.sum())
    return result


def same_predictions(held: Ints, pool: Ints) -> tuple[float, float]:
    """(p-value that two counts of predictions, int[C], are of one distribution; the share of a difference to be kept).

    The test is Lipton et al.'s (2018, section 5). The share is James and Stein's, with its positive part: chi-squared
    is as large as its degrees of freedom where there is no difference, so that 1 - df / chi-squared of it is real.
    """
    both = np.array([held, pool])
    both = both[:, both.sum(axis=0) > 0]
    if both.shape[1] < 2 or not both.sum(axis=1).all():
        return 1.0, 0.0
    found = chi2_contingency(both)
    return float(found.pvalue), max(0.0, 1 - float(found.dof) / max(float(found.statistic), 1e-12))


def unlike(held: Floats, weights: Floats, pool: Floats) -> tuple[float, float]:
    """(distance, p-value) of confidences. `weights`: of the held-out images, which are drawn anew by them, seeded."""
    if not len(held) or not len(pool) or not weights.sum():
        return 0.0, 1.0
    drawn = np.random.default_rng(0).choice(held, len(held), p=weights / weights.sum())
    found = ks_2samp(drawn, pool)
    return float(found.statistic), float(found.pvalue)


def told(distance: float, p_value: float, apart: tuple[float, float], missing: list[str]) -> list[str]:
    """What a person should know, a sentence each. `apart`: what `unlike` gave. `missing`: classes never held out."""
    notes = []
    if p_value < SHOWN:
        notes.append(
            f"The pool is made up otherwise than the held-out images (total variation distance {distance:.3f}): "
            "estimates are weighted by the pool's estimated class prior."
        )
    if apart[1] < SHOWN and apart[0] >= NOTABLE:
        notes.append(
            f"The teacher is not as sure of the pool as of held-out images of the same classes (distance {apart[0]:.2f}"
            "): the pool holds other images than these, and the estimates are too high if so."
        )
    if missing:
        notes.append(f"Nothing was held out of {len(missing)} classes: {', '.join(missing[:5])}.")
    return notes
