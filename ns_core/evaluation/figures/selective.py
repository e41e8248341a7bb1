"""What is gained by leaving the least confident predictions to a person: risk and coverage.

In: `confidence` float [N] and `right` bool [N] of readable images. Out: a curve or the area below it. Images of the
same confidence stand in the order of the scene (natural-adv-examples leaves it to an unstable sort).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Right = npt.NDArray[np.bool_]


def accuracy_of_most_confident(confidence: Floats, right: Right) -> npt.NDArray[np.float64]:
    """float64 [N]: at k - 1 the accuracy of the k most confident images."""
    assert confidence.shape == right.shape, f"{len(confidence)} confidences for {len(right)} images"
    assert len(right), "no images to measure"
    order = np.argsort(-confidence, kind="stable")
    return np.asarray(np.cumsum(right[order]) / np.arange(1, len(right) + 1))


def aurra(confidence: Floats, right: Right) -> float:
    """Area under the response-rate accuracy curve: mean over k of the accuracy of the k most confident images
    (Hendrycks et al., ImageNet-A)."""
    return float(accuracy_of_most_confident(confidence, right).mean())


def aurc(confidence: Floats, right: Right) -> float:
    """Area under the risk-coverage curve (Geifman & El-Yaniv 2017), 0 at best: mean over k of the error of the k most
    confident images. With as many steps as images this is 1 - `aurra`; both names are in use."""
    return float((1 - accuracy_of_most_confident(confidence, right)).mean())


def risk_coverage(confidence: Floats, right: Right, steps: int = 20) -> list[tuple[float, float]]:
    """(coverage, error) where the share `coverage` of the images is answered, the most confident first.

    At every 1 / `steps` of the images, rounded up to whole ones; fewer points with fewer images.
    """
    images = len(right)
    counts = np.unique(-(-np.arange(1, steps + 1) * images // steps))
    accuracy = accuracy_of_most_confident(confidence, right)
    return [(float(count / images), float(1 - accuracy[count - 1])) for count in counts]
