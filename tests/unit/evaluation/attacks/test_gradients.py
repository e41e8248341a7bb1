"""FGSM and PGD on real small models: the right direction, the right distance, foolbox's images, and no traces left."""

import json

import foolbox
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ns_core.evaluation.attacks.gradients import Kind, adversarial, attack_settings, fgsm, pgd_linf

EPS255 = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0)
STEPS = 10


class Normalised(nn.Module):
    """[0, 1] images to logits, the normalisation inside."""

    def __init__(self, classifier: nn.Module, mean: float = 0.3, std: float = 0.4) -> None:
        super().__init__()
        self.classifier, self.mean, self.std = classifier, mean, std

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier((images.flatten(1) - self.mean) / self.std)
        return logits


def linear_model() -> Normalised:
    """3 classes on 2 x 2 grey images."""
    torch.manual_seed(0)
    return Normalised(nn.Linear(4, 3)).eval()


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network that knows its digits: (model, test images [N, 1, 8, 8] in [0, 1], labels)."""
    data = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(data.target)
    torch.manual_seed(0)
    model = Normalised(nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)))
    parameters = list(model.parameters())
    # Gradient descent by hand: importing torch.optim takes seconds.
    for _ in range(150):
        loss = nn.functional.cross_entropy(model(images[:1200]), labels[:1200])
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(0.5 * gradient)
    return model.eval(), images[1200:], labels[1200:]


def accuracy(model: nn.Module, clean: Tensor, adversarial: Tensor, labels: Tensor) -> float:
    """Right on the clean image and on the adversarial one."""
    with torch.no_grad():
        both = (model(clean).argmax(1) == labels) & (model(adversarial).argmax(1) == labels)
    return float(both.float().mean())


def test_fgsm_on_a_linear_model_follows_the_gradient_worked_out_by_hand() -> None:
    model = linear_model()
    images = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
    labels = torch.tensor([0, 1, 2, 0, 1])
    layer = model.classifier
    assert isinstance(layer, nn.Linear)
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    logits = (images.flatten(1).double().numpy() - 0.3) / 0.4 @ weight.T + bias
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradient = (softmax - np.eye(3)[labels.numpy()]) @ weight / 0.4
    expected = images + 0.05 * torch.tensor(np.sign(gradient), dtype=torch.float32).view_as(images)
    assert torch.equal(fgsm(model, images, labels, 0.05), expected)


def test_adversarial_images_stay_in_the_ball_and_in_the_pixel_range(
    digits: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, images, labels = digits
    generator = torch.Generator().manual_seed(0)
    for eps in (2 / 255, 0.3, 1.0):
        for seen in (
            fgsm(model, images, labels, eps),
            pgd_linf(model, images, labels, eps, [eps / 4] * 10, generator),
        ):
            assert (seen - images).abs().max().item() <= eps + 1e-6
            assert seen.min().item() >= 0
            assert seen.max().item() <= 1


def test_accuracy_does_not_rise_with_eps_and_falls_to_nothing(
    digits: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, images, labels = digits
    curve = [accuracy(model, images, fgsm(model, images, labels, eps / 255), labels) for eps in (0, 4, 8, 16, 32, 64)]
    assert curve[0] > 0.9
    assert curve == sorted(curve, reverse=True)
    assert curve[-1] < 0.05


def test_pgd_is_no_weaker_than_fgsm(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = digits
    eps = 24 / 255
    one_step = accuracy(model, images, fgsm(model, images, labels, eps), labels)
    ten_steps = accuracy(model, images, pgd_linf(model, images, labels, eps, [eps / 4] * 10), labels)
    assert ten_steps <= one_step
    assert ten_steps < accuracy(model, images, images, labels)


def test_the_attack_goes_against_the_true_labels_and_not_the_predictions() -> None:
    model = linear_model()
    images = torch.full((1, 1, 2, 2), 0.5)
    losses = []
    for label in range(3):
        target = torch.tensor([label])
        adversarial = fgsm(model, images, target, 0.1)
        clean_loss = nn.functional.cross_entropy(model(images), target)
        losses.append((nn.functional.cross_entropy(model(adversarial), target) - clean_loss).item())
    assert min(losses) > 0


def test_eps_0_gives_the_images_back_in_a_tensor_of_their_own() -> None:
    model, images = linear_model(), torch.rand(2, 1, 2, 2)
    adversarial = fgsm(model, images, torch.tensor([0, 1]), 0.0)
    assert torch.equal(adversarial, images)
    assert adversarial.data_ptr() != images.data_ptr()


def test_a_random_start_is_drawn_from_the_generator() -> None:
    model, images, labels = linear_model(), torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])

    def started(seed: int) -> Tensor:
        return pgd_linf(model, images, labels, 0.1, [0.01], torch.Generator().manual_seed(seed))

    assert torch.equal(started(1), started(1))
    assert not torch.equal(started(1), started(2))


def test_model_and_images_are_left_as_they_were(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = digits
    first = next(model.parameters())
    first.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = images.clone()
    fgsm(model, images, labels, 0.1)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(images, before)
    assert not images.requires_grad
    first.requires_grad_(True)


def test_requires_grad_comes_back_after_a_failure() -> None:
    model = linear_model()
    with pytest.raises(RuntimeError):
        fgsm(model, torch.rand(2, 1, 3, 3), torch.tensor([0, 1]), 0.1)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_confident_model_is_attacked_too_and_an_image_alone_as_in_its_batch() -> None:
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0] * 4, [-1.0] * 4]))
        # Class 0 leads by 98: its loss gradient is 3e-43, which a mean over 4,096 images makes 0.
        layer.bias.copy_(torch.tensor([97.0, 0.0]))
    model = Normalised(layer, mean=0.0, std=1.0).eval()
    images = torch.full((4096, 1, 2, 2), 0.125)
    adversarial = fgsm(model, images, torch.zeros(4096, dtype=torch.int64), 0.0625)
    assert (adversarial == 0.0625).all()
    assert torch.equal(fgsm(model, images[:1], torch.zeros(1, dtype=torch.int64), 0.0625), adversarial[:1])


def test_the_callers_no_grad_and_autocast_change_nothing(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = digits
    plain = fgsm(model, images, labels, 0.1)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        within = fgsm(model, images, labels, 0.1)
    assert torch.equal(plain, within)


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(AssertionError, match="eval mode"):
        fgsm(linear_model().train(), torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), 0.1)


def test_eps_in_255_units_and_normalised_images_are_refused() -> None:
    model, labels = linear_model(), torch.tensor([0, 1])
    with pytest.raises(AssertionError, match="divide by 255"):
        fgsm(model, torch.rand(2, 1, 2, 2), labels, 4)
    with pytest.raises(AssertionError, match="normalise inside"):
        fgsm(model, torch.rand(2, 1, 2, 2) - 0.5, labels, 0.1)


def test_inference_mode_is_refused() -> None:
    with torch.inference_mode(), pytest.raises(AssertionError, match="inference_mode"):
        fgsm(linear_model(), torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), 0.1)


def foolbox_images(model: nn.Module, images: Tensor, labels: Tensor, eps255: float, kind: Kind) -> Tensor:
    """foolbox's FGSM, or its PGD with our steps."""
    eps = eps255 / 255
    attack = (
        foolbox.attacks.LinfFastGradientAttack(random_start=False)
        if kind == "fgsm"
        else foolbox.attacks.LinfPGD(abs_stepsize=2.5 * eps / STEPS, steps=STEPS, random_start=False)
    )
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, clipped, _ = attack(wrapped, images, labels, epsilons=eps)
    assert isinstance(clipped, Tensor)
    return clipped


@pytest.mark.parametrize("kind", ["fgsm", "pgd"])
@pytest.mark.parametrize("eps255", [1.0, 2.0, 4.0])
def test_the_images_are_foolboxs_bit_for_bit(
    digits: tuple[nn.Module, Tensor, Tensor], kind: Kind, eps255: float
) -> None:
    model, images, labels = digits
    ours = adversarial(kind, model, images, labels, eps255, STEPS)
    assert not torch.equal(ours, images)
    assert torch.equal(ours, foolbox_images(model, images, labels, eps255, kind))


@pytest.mark.parametrize("kind", ["fgsm", "pgd"])
@pytest.mark.parametrize("eps255", [8.0, 16.0, 48.0])
def test_the_accuracy_is_foolboxs_at_large_eps_too(
    digits: tuple[nn.Module, Tensor, Tensor], kind: Kind, eps255: float
) -> None:
    model, images, labels = digits
    ours = accuracy(model, images, adversarial(kind, model, images, labels, eps255, STEPS), labels)
    assert ours == accuracy(model, images, foolbox_images(model, images, labels, eps255, kind), labels)
    assert ours < accuracy(model, images, images, labels)


def test_no_named_attack_leaves_its_ball_and_pgd_is_the_stronger_at_every_eps(
    digits: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, images, labels = digits
    curves: dict[Kind, list[float]] = {"fgsm": [], "pgd": []}
    for kind, curve in curves.items():
        for eps255 in EPS255:
            seen = adversarial(kind, model, images, labels, eps255, STEPS)
            assert (seen - images).abs().max().item() <= eps255 / 255 + 1e-6
            curve.append(accuracy(model, images, seen, labels))
        assert curve == sorted(curve, reverse=True)
    assert all(ten <= one for one, ten in zip(curves["fgsm"], curves["pgd"], strict=True))
    assert curves["pgd"][-1] < curves["fgsm"][-1] or curves["fgsm"][-1] == 0
    assert curves["pgd"][0] == accuracy(model, images, images, labels), "eps 0 attacks nothing"


def test_pgd_reaches_the_border_of_its_ball_with_any_number_of_steps(
    digits: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, images, labels = digits
    for steps in (1, 3, 20):
        seen = adversarial("pgd", model, images, labels, 4.0, steps)
        assert (seen - images).abs().max().item() == pytest.approx(4 / 255, abs=1e-6)


def test_an_image_is_attacked_alone_as_in_its_batch_but_for_rounding(
    digits: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, images, labels = digits
    together = adversarial("pgd", model, images, labels, 2.0, STEPS)
    alone = torch.cat([adversarial("pgd", model, images[i : i + 1], labels[i : i + 1], 2.0, STEPS) for i in range(50)])
    assert accuracy(model, images[:50], alone, labels[:50]) == accuracy(model, images[:50], together[:50], labels[:50])
    assert (alone == together[:50]).float().mean().item() > 0.99


def test_the_settings_in_a_report_name_all_that_one_needs_to_attack_again() -> None:
    fast, strong = attack_settings("fgsm", 10, 32), attack_settings("pgd", 10, 224)
    assert (fast["steps"], fast["step_size"], fast["size"]) == (1, "eps", 32)
    assert (strong["steps"], strong["step_size"], strong["size"]) == (10, "2.5 * eps / 10", 224)
    for settings in (fast, strong):
        assert settings["norm"] == "Linf"
        assert settings["random_start"] is False
        assert "clean mistakes count as errors" in str(settings["counting"])
        json.dumps(settings)
