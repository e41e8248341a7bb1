"""AutoAttack through its library: stronger than PGD, seeded, quiet, and told in one line where it is missing."""

import logging
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ns_core.errors import UserError
from ns_core.evaluation.attacks import autoattack_package
from ns_core.evaluation.attacks.gradients import adversarial, attack_settings

EPS255 = 12.0


def network(classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear network that knows its digits below `classes`, 20 of its test images [20, 1, 8, 8], their labels."""
    data = load_digits()
    chosen = data.target < classes
    images = torch.tensor(data.images[chosen] / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(data.target[chosen])
    torch.manual_seed(0)
    layer = nn.Linear(64, classes)
    for _ in range(100):
        loss = nn.functional.cross_entropy(layer(images[20:].flatten(1)), labels[20:])
        gradients = torch.autograd.grad(loss, [layer.weight, layer.bias])
        with torch.no_grad():
            layer.weight.sub_(gradients[0])
            layer.bias.sub_(gradients[1])
    return nn.Sequential(nn.Flatten(), layer).eval(), images[:20], labels[:20]


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    return network(10)


def right(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    with torch.no_grad():
        return int((model(images).argmax(1) == labels).sum())


def test_it_leaves_no_more_right_than_pgd_and_stays_in_the_ball(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = digits
    seen = adversarial("autoattack", model, images, labels, EPS255, 10)
    pgd = adversarial("pgd", model, images, labels, EPS255, 10)
    assert right(model, seen, labels) <= right(model, pgd, labels) < right(model, images, labels)
    assert (seen - images).abs().max().item() <= EPS255 / 255 + 1e-6
    assert seen.min().item() >= 0
    assert seen.max().item() <= 1


def test_it_is_seeded_quiet_and_leaves_no_traces(
    digits: tuple[nn.Module, Tensor, Tensor],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, images, labels = digits
    caplog.set_level(logging.INFO)
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    first = adversarial("autoattack", model, images, labels, 4.0, 10)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(first, adversarial("autoattack", model, images, labels, 4.0, 10))
    assert [record.message for record in caplog.records if record.levelno < logging.WARNING] == []
    assert capsys.readouterr() == ("", "")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_few_classes_are_attacked_too(classes: int, caplog: pytest.LogCaptureFixture) -> None:
    model, images, labels = network(classes)
    seen = adversarial("autoattack", model, images, labels, 32.0, 10)
    assert right(model, seen, labels) <= right(model, adversarial("pgd", model, images, labels, 32.0, 10), labels)
    assert "possible" not in caplog.text, "it aims at more classes than there are"


def test_eps_0_gives_the_images_back_and_no_images_give_none(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = digits
    assert torch.equal(adversarial("autoattack", model, images, labels, 0.0, 10), images)
    assert adversarial("autoattack", model, images[:0], labels[:0], 4.0, 10).shape == (0, 1, 8, 8)


def test_its_settings_name_library_version_and_seed() -> None:
    settings = attack_settings("autoattack", 10, 32)
    assert str(settings["library"]).startswith("pyautoattack 0")
    assert (settings["version"], settings["seed"], settings["size"]) == ("standard", 0, 32)


def test_without_its_library_the_command_that_installs_it_is_told(
    digits: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(autoattack_package, "version", absent)
    with pytest.raises(UserError, match=r"pip install 'noisy-student\[autoattack\]'") as told:
        adversarial("autoattack", *digits, 4.0, 10)
    assert "\n" not in str(told.value)
