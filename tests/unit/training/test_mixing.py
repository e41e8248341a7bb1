"""Mixup and CutMix: what goes into an image and its target, and from where."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ns_core.config import TrainConfig
from ns_core.training.mixing import mix

SIDE, CLASSES = 16, 5


def _config(**settings: Any) -> TrainConfig:
    return TrainConfig(**settings)


def _numbered(rows: int) -> Tensor:
    """Image i is i everywhere."""
    return torch.arange(rows).float()[:, None, None, None].expand(rows, 3, SIDE, SIDE).contiguous()


def _mixed(images: Tensor, targets: Tensor, labelled: int, seed: int, **settings: float) -> tuple[Tensor, Tensor]:
    return mix(images, targets, labelled, _config(**settings), np.random.default_rng(seed))


def _partners(rows: int, labelled: int) -> list[int]:
    return [labelled - 1 - i if i < labelled else rows - 1 - (i - labelled) for i in range(rows)]


@pytest.mark.parametrize("labelled", [0, 1, 3, 4, 12])
def test_mixup_blends_each_image_and_target_with_the_mirror_image_of_its_stream(labelled: int) -> None:
    rows = 12
    images, targets = torch.randn(rows, 3, SIDE, SIDE), torch.eye(rows)
    mixed, blended = _mixed(images, targets, labelled, 3, mixup=1.0)
    share = float(np.random.default_rng(3).beta(1.0, 1.0))
    assert 0.01 < share < 0.99
    for i, j in enumerate(_partners(rows, labelled)):
        assert torch.allclose(mixed[i], share * images[i] + (1 - share) * images[j], atol=1e-5)
        assert torch.allclose(blended[i], share * targets[i] + (1 - share) * targets[j], atol=1e-6)


@pytest.mark.parametrize("seed", range(30))
def test_cutmix_pastes_one_rectangle_and_the_target_has_the_share_of_the_pixels(seed: int) -> None:
    rows, labelled = 7, 3
    mixed, blended = _mixed(_numbered(rows), torch.eye(rows), labelled, seed, cutmix=1.0)
    boxes = set()
    for i, j in enumerate(_partners(rows, labelled)):
        pixels = mixed[i, 0]
        assert torch.equal(mixed[i], pixels.expand(3, SIDE, SIDE))
        assert set(pixels.flatten().tolist()) <= {float(i), float(j)}
        own = (pixels == i).double().mean().item()
        assert blended[i, i].item() == pytest.approx(own, abs=1e-6)
        assert blended[i].sum().item() == pytest.approx(1, abs=1e-6)
        if i != j:
            pasted = (pixels == j).nonzero()
            if len(pasted):
                top, left = pasted.min(dim=0).values.tolist()
                bottom, right = pasted.max(dim=0).values.tolist()
                assert len(pasted) == (bottom - top + 1) * (right - left + 1)
                boxes.add((top, left, bottom, right))
    assert len(boxes) <= 1


@pytest.mark.parametrize("settings", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_no_labelled_pixel_or_class_gets_into_a_pseudo_labelled_image_nor_back(settings: dict[str, float]) -> None:
    labelled, rows = 4, 16
    images = torch.ones(rows, 3, SIDE, SIDE)
    images[labelled:] = -1
    targets = torch.zeros(rows, 2)
    targets[:labelled, 0] = targets[labelled:, 1] = 1
    for seed in range(20):
        mixed, blended = _mixed(images, targets, labelled, seed, **settings)
        assert torch.equal(mixed, images)
        assert torch.equal(blended, targets)


@pytest.mark.parametrize("settings", [{"mixup": 0.2}, {"cutmix": 0.2}, {"mixup": 5.0, "cutmix": 5.0}])
def test_soft_targets_keep_their_sum_of_1_and_images_their_range(settings: dict[str, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(10, 3, SIDE, SIDE, generator=generator)
    targets = torch.softmax(3 * torch.randn(10, CLASSES, generator=generator), dim=1)
    for seed in range(50):
        mixed, blended = _mixed(images, targets, 4, seed, **settings)
        assert torch.allclose(blended.sum(dim=1), torch.ones(10), atol=1e-6)
        assert blended.min() >= 0
        assert images.min() <= mixed.min()
        assert mixed.max() <= images.max()


def test_shares_are_of_the_beta_distribution_and_rectangles_lose_what_lies_over_the_edge() -> None:
    """Beta(1, 1) is uniform: mean 1/2, variance 1/12. A square of side c = sqrt(1 - lambda) centred anywhere has
    c - c^2/4 of each side inside on average, hence an area of 1/2 - 1/5 + 1/48."""
    rng, targets = np.random.default_rng(0), torch.eye(2)
    images = torch.zeros(2, 3, 64, 64)
    shares = [float(mix(images, targets, 2, _config(mixup=1.0), rng)[1][0, 0]) for _ in range(2000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / 12, abs=0.01)
    pasted = [1 - float(mix(images, targets, 2, _config(cutmix=1.0), rng)[1][0, 0]) for _ in range(2000)]
    assert np.mean(pasted) == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.025)


def test_with_both_set_a_fair_coin_chooses_between_them() -> None:
    """Of two images, of zeros and of ones, CutMix makes zeros and ones, and mixup none of them."""
    rng, config, images = np.random.default_rng(1), _config(mixup=1.0, cutmix=1.0), _numbered(2)
    batches = [mix(images, torch.eye(2), 2, config, rng)[0] for _ in range(400)]
    whole = [bool((batch == batch.round()).all()) for batch in batches]
    assert 160 < sum(whole) < 240
    assert not any(bool((batch == batch.round()).any()) for batch, cut in zip(batches, whole, strict=True) if not cut)


def test_one_draw_of_one_generator_gives_one_result_and_another_another() -> None:
    images, targets = torch.randn(6, 3, SIDE, SIDE), torch.eye(6)
    settings = {"mixup": 0.5, "cutmix": 0.5}
    first, second = (_mixed(images, targets, 2, 9, **settings) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], _mixed(images, targets, 2, 10, **settings)[0])


def test_with_neither_set_the_inputs_come_back_and_no_number_is_drawn() -> None:
    images, targets, rng = torch.randn(4, 3, SIDE, SIDE), torch.eye(4), np.random.default_rng(0)
    before = rng.bit_generator.state
    mixed, blended = mix(images, targets, 2, _config(), rng)
    assert mixed is images
    assert blended is targets
    assert rng.bit_generator.state == before


@pytest.mark.parametrize("settings", [{"mixup": 1.0}, {"cutmix": 1.0}])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_inputs_stay_as_they_are_and_the_memory_format_is_kept(
    settings: dict[str, float], layout: torch.memory_format
) -> None:
    images, targets = torch.randn(6, 3, SIDE, SIDE).contiguous(memory_format=layout), torch.eye(6)
    kept = images.clone(), targets.clone()
    mixed, _ = _mixed(images, targets, 2, 1, **settings)
    assert mixed.is_contiguous(memory_format=layout)
    assert torch.equal(images, kept[0])
    assert torch.equal(targets, kept[1])
    assert not torch.equal(mixed, images)


@pytest.mark.parametrize("settings", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_one_more_batch_is_allocated_and_hardly_anything_else(settings: dict[str, float]) -> None:
    images, targets = torch.randn(32, 3, 64, 64).contiguous(memory_format=torch.channels_last), torch.eye(32)
    batch = images.numel() * 4
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        _mixed(images, targets, 8, 1, **settings)
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
    assert batch <= allocated < 1.3 * batch
