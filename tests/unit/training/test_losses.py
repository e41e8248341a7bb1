"""The joint losses against their formulas, the gradient that each leaves to the labels, and pseudo-labels."""

import pytest
import torch
from torch import Tensor

from ns_core.training.losses import LossForm, joint_loss, pseudo_targets, soft_cross_entropy

LABELLED, RATIO = 4, 3


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Logits and soft targets of 4 labelled and 12 pseudo-labelled images of 5 classes."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(LABELLED * (1 + RATIO), 5, generator=generator)
    return logits, torch.randn(len(logits), 5, generator=generator).softmax(dim=1)


def _means(batch: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Mean cross-entropy of the labelled and of the pseudo-labelled part, by torch's own function."""
    logits, targets = batch
    each = torch.nn.functional.cross_entropy(logits.double(), targets.double(), reduction="none")
    return each[:LABELLED].mean().item(), each[LABELLED:].mean().item()


def test_soft_cross_entropy_is_minus_the_sum_of_q_log_p() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    targets = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    log_p = torch.tensor([2.0 - 2.126928, 0.0 - 2.126928])
    expected = [-(0.25 * log_p[0] + 0.75 * log_p[1]).item(), 0.693147]
    assert soft_cross_entropy(logits, targets).tolist() == pytest.approx(expected, abs=1e-5)


def test_soft_cross_entropy_is_in_float32_whatever_the_network_computed_in() -> None:
    logits = torch.tensor([[40.0, -40.0]], dtype=torch.bfloat16)
    assert soft_cross_entropy(logits, torch.tensor([[0.0, 1.0]])).dtype == torch.float32


@pytest.mark.parametrize(
    ("form", "of_labelled", "of_pseudo"),
    [("concat", 1 / (1 + RATIO), RATIO / (1 + RATIO)), ("official", 1, RATIO), ("algorithm1", 1, 1), ("pseudo", 0, 1)],
)
def test_each_form_weighs_the_two_means_as_documented(
    batch: tuple[Tensor, Tensor], form: LossForm, of_labelled: float, of_pseudo: float
) -> None:
    labelled, pseudo = _means(batch)
    loss = joint_loss(*batch, LABELLED, form).item()
    assert loss == pytest.approx(of_labelled * labelled + of_pseudo * pseudo, rel=1e-6)


def test_concat_is_the_mean_over_the_whole_batch_and_official_1_plus_ratio_times_it(
    batch: tuple[Tensor, Tensor],
) -> None:
    concat = joint_loss(*batch, LABELLED, "concat")
    assert concat.item() == pytest.approx(soft_cross_entropy(*batch).mean().item(), rel=1e-6)
    assert joint_loss(*batch, LABELLED, "official").item() == pytest.approx((1 + RATIO) * concat.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("form", "share"), [("concat", 1 / 4), ("official", 1 / 4), ("algorithm1", 1 / 2), ("pseudo", 0)]
)
def test_the_labelled_share_of_the_gradient_is_one_in_1_plus_ratio_but_half_in_algorithm1(
    form: LossForm, share: float
) -> None:
    """Images that are all alike pull with the weight that the form gives their part."""
    logits = torch.zeros(LABELLED * (1 + RATIO), 2, requires_grad=True)
    targets = torch.tensor([[1.0, 0.0]]).expand(len(logits), 2)
    (gradient,) = torch.autograd.grad(joint_loss(logits, targets, LABELLED, form), logits)
    pull = gradient.norm(dim=1)
    assert (pull[:LABELLED].sum() / pull.sum()).item() == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize("form", ["concat", "official", "algorithm1"])
def test_without_pseudo_labelled_images_every_form_is_the_plain_mean(
    batch: tuple[Tensor, Tensor], form: LossForm
) -> None:
    logits, targets = batch
    loss = joint_loss(logits, targets, len(logits), form)
    assert loss.item() == pytest.approx(soft_cross_entropy(logits, targets).mean().item(), rel=1e-6)


def test_soft_labels_at_temperature_1_are_the_teachers_probabilities_made_to_sum_to_1() -> None:
    stored = torch.tensor([[0.7001, 0.2, 0.1], [0.0, 1.0, 0.0]]).half().float()
    targets = pseudo_targets(stored, "soft", 1.0)
    assert targets.dtype == torch.float32
    assert torch.allclose(targets, stored / stored.sum(dim=1, keepdim=True), atol=1e-7)
    assert torch.allclose(targets.sum(dim=1), torch.ones(2), atol=1e-6)


@pytest.mark.parametrize(
    ("temperature", "expected"), [(0.5, [0.64 / 0.68, 0.04 / 0.68, 0.0]), (2.0, [2 / 3, 1 / 3, 0])]
)
def test_a_temperature_raises_to_its_inverse_and_normalises(temperature: float, expected: list[float]) -> None:
    targets = pseudo_targets(torch.tensor([[0.8, 0.2, 0.0]]), "soft", temperature)
    assert targets[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [1e-4, 0.01, 0.1, 10.0, 1e4])
def test_no_temperature_turns_a_label_into_nan_or_zeros(temperature: float) -> None:
    """0.3^100 is below the smallest float32: a sum of such powers is 0."""
    targets = pseudo_targets(torch.tensor([[0.3, 0.25, 0.25, 0.2]]), "soft", temperature)
    assert targets.sum().item() == pytest.approx(1, abs=1e-6)
    assert targets.argmax().item() == 0


def test_hard_labels_are_the_one_hot_of_the_largest_whatever_the_temperature() -> None:
    stored = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    for temperature in (0.1, 1.0, 5.0):
        assert pseudo_targets(stored, "hard", temperature).tolist() == [[0, 1, 0], [1, 0, 0]]
