"""The pool's class prior, found again from what a teacher says of it."""

import numpy as np
import pytest

from ns_core.audit.figures import HOLDOUT, HeldOut
from ns_core.audit.shift import bbse, class_weights, em, prior_of, same_predictions, tempered, told, unlike

CLASSES = 3
EVEN = np.full(CLASSES, 1 / CLASSES)
SKEWED = np.array([0.6, 0.3, 0.1])


def drawn(seed: int, images: int, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the exact posteriors under an even prior of points around three corners."""
    rng = np.random.default_rng(seed)
    label = rng.choice(CLASSES, images, p=prior)
    points = rng.normal(np.eye(CLASSES)[label] * 2.0, 1.0)
    powers = np.exp(2.0 * points)
    return label, powers / powers.sum(axis=1, keepdims=True)


def confusion(seed: int, images: int) -> HeldOut:
    label, said = drawn(seed, images, EVEN)
    top = said.max(axis=1)
    return HeldOut(label, said.argmax(axis=1), top, top, np.full(images, HOLDOUT))


def test_both_ways_find_a_skewed_prior() -> None:
    label, said = drawn(1, 4000, SKEWED)
    truth = prior_of(label, CLASSES)
    predicted = np.bincount(said.argmax(axis=1), minlength=CLASSES)
    assert np.abs(predicted / 4000 - truth).max() > 0.03, "counting predictions would not do"
    assert em(said, EVEN) == pytest.approx(truth, abs=0.02)
    by_confusion = bbse(confusion(2, 4000), predicted, CLASSES)
    assert by_confusion == pytest.approx(truth, abs=0.03)


def test_a_pool_of_the_same_make_up_keeps_its_prior() -> None:
    _, said = drawn(3, 4000, EVEN)
    assert em(said, EVEN) == pytest.approx(EVEN, abs=0.03)


def test_a_confusion_matrix_that_determines_nothing_is_told() -> None:
    held = confusion(4, 300)
    never = HeldOut(held.label, np.zeros_like(held.top1), held.confidence, held.calibrated, held.fold)
    assert bbse(never, np.array([10, 0, 0]), CLASSES) is None


def test_tempering_is_scaling_of_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(5, CLASSES)) * 3

    def softmax(values: np.ndarray) -> np.ndarray:
        return np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)

    assert tempered(softmax(logits), 2.5) == pytest.approx(softmax(logits / 2.5), abs=1e-9)


def test_weights_are_bounded_and_a_class_never_held_out_weighs_one() -> None:
    assert class_weights(np.array([0.01, 0.99, 0.0]), np.array([0.5, 0.4, 0.1])).tolist() == [10.0, 0.4 / 0.99, 1.0]


def test_a_shift_of_predictions_is_shown_and_none_is_not() -> None:
    p_value, real = same_predictions(np.array([100, 100, 100]), np.array([500, 250, 250]))
    assert p_value < 0.01
    assert real > 0.9
    p_value, real = same_predictions(np.array([100, 103, 98]), np.array([330, 335, 335]))
    assert p_value > 0.1
    assert real == 0.0
    assert same_predictions(np.array([5, 0, 0]), np.array([9, 0, 0])) == (1.0, 0.0)


def test_a_pool_of_other_images_is_told_from_one_of_other_classes() -> None:
    rng = np.random.default_rng(0)
    held, pool = rng.beta(8, 2, 400), rng.beta(8, 2, 3000)
    same = unlike(held, np.ones(400), pool)
    other = unlike(held, np.ones(400), np.concatenate([pool, rng.beta(2, 4, 3000)]))
    assert same[1] > 0.01
    assert other[0] > 0.3
    assert other[1] < 1e-6
    assert told(0.0, 1.0, same, []) == []
    (note,) = told(0.0, 1.0, other, [])
    assert "the pool holds other images" in note
    assert "Nothing was held out of 1 classes: zebra." in told(0.3, 1e-9, same, ["zebra"])
