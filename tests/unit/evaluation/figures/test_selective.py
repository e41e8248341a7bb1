"""Risk and coverage against their definitions, one image at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ns_core.evaluation.figures.selective import aurc, aurra, risk_coverage

IMAGES = st.lists(st.tuples(st.integers(1, 20), st.booleans()), min_size=1, max_size=60)


@given(IMAGES)
def test_areas_are_means_over_how_many_are_answered(images: list[tuple[int, bool]]) -> None:
    ranked = sorted(images, key=lambda image: -image[0])
    accuracies = [sum(hit for _, hit in ranked[:k]) / k for k in range(1, len(ranked) + 1)]
    confidence, right = np.array([one / 20 for one, _ in images]), np.array([hit for _, hit in images])
    assert aurra(confidence, right) == pytest.approx(sum(accuracies) / len(accuracies))
    assert aurc(confidence, right) == pytest.approx(1 - sum(accuracies) / len(accuracies))


@given(IMAGES)
def test_a_curve_ends_with_every_image_and_the_plain_error(images: list[tuple[int, bool]]) -> None:
    confidence, right = np.array([one / 20 for one, _ in images]), np.array([hit for _, hit in images])
    curve = risk_coverage(confidence, right)
    assert len(curve) == min(20, len(images))
    assert curve[-1] == (1.0, pytest.approx(1 - right.mean()))
    assert [coverage for coverage, _ in curve] == sorted({coverage for coverage, _ in curve})


def test_a_network_that_knows_its_mistakes_errs_on_none_that_it_answers() -> None:
    right = np.arange(100) < 80
    confidence = np.linspace(1, 0, 100)
    curve = dict(risk_coverage(confidence, right))
    assert curve[0.8] == 0
    assert curve[0.9] == pytest.approx(10 / 90)
    assert aurc(confidence, right) < aurc(confidence[::-1], right)
