"""AlexNet's figures: what was entered agrees with itself and with what is published elsewhere."""

from typing import get_args

import pytest

from ns_core.config.evaluation import CORRUPTIONS, PERTURBATIONS
from ns_core.evaluation.figures.baselines import (
    ALEXNET_ERRORS,
    ALEXNET_FLIP_PROBABILITIES,
    CLEAN_ERROR,
    SEVERITIES,
    alexnet_means,
    counted_corruptions,
    counted_perturbations,
)

AVERAGES = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
    "speckle_noise": 0.845388,
    "gaussian_blur": 0.787108,
    "spatter": 0.717512,
    "saturate": 0.658248,
}
"""The README's own column of averages; of the first 15 the constants of augmix."""


def test_errors_by_severity_average_to_the_published_averages() -> None:
    means = alexnet_means(dict.fromkeys(ALEXNET_ERRORS, SEVERITIES))
    assert means == pytest.approx(AVERAGES, abs=5e-7)


def test_every_corruption_has_its_errors_and_every_counted_perturbation_its_flips() -> None:
    assert tuple(ALEXNET_ERRORS) == get_args(CORRUPTIONS)
    assert tuple(ALEXNET_FLIP_PROBABILITIES) == counted_perturbations("imagenet_p") == get_args(PERTURBATIONS)[:10]


def test_every_corruption_costs_alexnet_something_at_every_severity() -> None:
    assert all(error > CLEAN_ERROR for levels in ALEXNET_ERRORS.values() for error in levels)


def test_some_severities_are_normalised_by_alexnets_errors_at_the_same() -> None:
    assert alexnet_means({"fog": ["1", "5"]}) == {"fog": pytest.approx((0.67474 + 0.94500) / 2)}


def test_the_four_extra_corruptions_do_not_count() -> None:
    assert len(counted_corruptions()) == 15
    assert not set(counted_corruptions()) & {"speckle_noise", "gaussian_blur", "spatter", "saturate"}


def test_cifar_counts_spatter_where_imagenet_counts_snow() -> None:
    imagenet, cifar = set(counted_perturbations("imagenet_p")), set(counted_perturbations("cifar10_p"))
    assert imagenet - cifar == {"snow"}
    assert cifar - imagenet == {"spatter"}
    assert set(counted_perturbations("perturbations")) == imagenet
