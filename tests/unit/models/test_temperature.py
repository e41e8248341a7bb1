"""The temperature of a network that is too sure of itself, or not sure enough, is found again."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ns_core.models.temperature import HIGHEST, LOWEST, fit_temperature, negative_log_likelihood

Sample = tuple[NDArray[np.float32], NDArray[np.int64]]


def _calibrated(images: int, classes: int, seed: int = 0) -> Sample:
    """Logits, and labels drawn from just the probabilities that they claim."""
    rng = np.random.default_rng(seed)
    logits = (1.5 * rng.standard_normal((images, classes))).astype(np.float32)
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, labels


@pytest.mark.parametrize("factor", [0.2, 0.5, 1.0, 2.5, 8.0])
def test_logits_that_were_multiplied_want_that_factor_as_temperature(factor: float) -> None:
    logits, labels = _calibrated(20_000, 10)
    assert fit_temperature(logits * np.float32(factor), labels) == pytest.approx(factor, rel=0.03)


@given(seed=st.integers(0, 1000), factor=st.floats(0.3, 5))
@settings(max_examples=25)
def test_no_other_temperature_is_more_likely(seed: int, factor: float) -> None:
    logits, labels = _calibrated(300, 5, seed)
    logits *= np.float32(factor)
    best = fit_temperature(logits, labels)
    found = negative_log_likelihood(logits, labels, best)
    others = [negative_log_likelihood(logits, labels, other) for other in np.geomspace(LOWEST, HIGHEST, 200)]
    assert found <= min(others) + 1e-6


def test_the_likelihood_is_that_of_the_definition() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 1.0]], np.float32)
    expected = np.mean([np.log1p(np.exp(-1.0)), np.log1p(np.exp(0.5))])
    assert negative_log_likelihood(logits, np.array([0, 0]), 2.0) == pytest.approx(expected, rel=1e-12)


def test_logits_of_any_size_have_a_finite_likelihood() -> None:
    logits = np.array([[3e38, -3e38], [1e4, 0]], np.float32)
    assert negative_log_likelihood(logits, np.array([0, 0]), 0.05) == 0
    assert np.isfinite(negative_log_likelihood(logits, np.array([1, 1]), 20.0))


def test_a_temperature_has_four_digits_so_that_roundings_of_two_machines_agree() -> None:
    logits, labels = _calibrated(500, 10)
    found = fit_temperature(logits, labels)
    assert found == float(f"{found:.4g}")
    assert fit_temperature(logits * np.float32(1 + 1e-6), labels) == found


def _sure(images: int, right: int, scale: float) -> Sample:
    """Class 0 is predicted by `scale` for all, and right for the first `right`."""
    logits = np.zeros((images, 3), np.float32)
    logits[:, 0] = scale
    return logits, (np.arange(images) >= right).astype(np.int64)


@pytest.mark.parametrize(
    "sample",
    [
        _sure(50, 50, 1.0),
        _sure(50, 50, 100.0),
        _sure(50, 0, 5.0),
        _sure(0, 0, 1.0),
        (np.zeros((9, 1), np.float32), np.zeros(9, np.int64)),
        (np.zeros((9, 3), np.float32), np.zeros(9, np.int64) + 1),
    ],
    ids=["all right", "all right and sure", "none right", "no image", "one class", "no opinion"],
)
def test_a_holdout_that_determines_none_gives_one_with_a_warning(
    sample: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert fit_temperature(*sample) == 1.0
    assert "the holdout determines no temperature" in caplog.text


def test_one_wrong_answer_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    logits, labels = _sure(50, 49, 20.0)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(20 / np.log(49 * 2), rel=0.2)
    assert not caplog.text
