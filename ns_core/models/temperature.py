"""Temperature scaling (Guo et al. 2017): one number that makes a network's confidence mean what it says.

In: logits float32[N,C] and labels int[N] of images it was not trained on. Out: T, by which logits are divided; the
most probable class of an image stays the same. Computed in float64.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from ns_core.stage import log

LOWEST, HIGHEST = 0.05, 20.0
"""Between these T is sought. A network that is right on every image wants 0, one that knows nothing infinity."""
_DIGITS = 4
"""Significant ones that are kept: below what a holdout can tell, above what differs between two machines' rounding."""
_AT_BOUND = 1.01
"""A T that comes so near to a bound has run into it."""


def negative_log_likelihood(
    logits: NDArray[np.float32], labels: NDArray[np.integer], temperature: float = 1.0
) -> float:
    """Mean over the images, in nats."""
    scaled = logits.astype(np.float64) / temperature
    own = scaled[np.arange(len(labels)), labels]
    return float(np.mean(logsumexp(scaled, axis=1) - own))


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.integer]) -> float:
    """The T of least negative log-likelihood, to four digits.

    The likelihood is concave in 1/T, so that the search over log T finds the one minimum. 1.0, with a warning, where
    these images do not determine it: none, one class, all answers right (T would be 0), or a minimum at a bound
    (answers no better than chance).
    """
    right = int((logits.argmax(axis=1) == labels).sum()) if logits.size else 0
    if right < len(labels) and logits.shape[1] > 1:
        temperature = math.exp(
            minimize_scalar(
                lambda exponent: negative_log_likelihood(logits, labels, math.exp(exponent)),
                bounds=(math.log(LOWEST), math.log(HIGHEST)),
                method="bounded",
                options={"xatol": 1e-6},
            ).x
        )
        if LOWEST * _AT_BOUND < temperature < HIGHEST / _AT_BOUND:
            return float(f"{temperature:.{_DIGITS}g}")
    log.warning(
        "the holdout determines no temperature (%d of %d images are right): calibrated confidence is the raw one; more "
        "holdout images would help",
        *(right, len(labels)),
    )
    return 1.0
