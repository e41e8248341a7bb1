"""A checkpoint gives back the very network that was saved, and the same network gives the same files."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from ns_core.models.checkpoint import CARD, WEIGHTS, ModelCard, Normalize, load_checkpoint, save_checkpoint
from ns_core.models.factory import create_network, drop_paths


def _card(model: str) -> ModelCard:
    return ModelCard(model=model, class_names=("ant", "bee", "cat"), train_size=24, test_size=32, crop_pct=0.9)


def _used(model: str) -> nn.Module:
    """A network whose BatchNorm statistics and counters have moved."""
    torch.manual_seed(0)
    network = create_network(model, 3).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, 3, 32, 32))
    return network


@pytest.mark.parametrize("model", ["ns_efficientnet_xs", "efficientnet_b0", "resnet18", "convnext_atto"])
def test_every_weight_buffer_and_counter_comes_back_bit_for_bit(model: str, tmp_path: Path) -> None:
    network = _used(model)
    save_checkpoint(tmp_path, network, _card(model))
    loaded, card = load_checkpoint(tmp_path)
    assert card == _card(model)
    before, after = network.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert torch.equal(after[name], tensor), name
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), loaded(images))


def test_a_loaded_network_is_in_eval_mode_and_carries_the_noise_it_is_given(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _used("ns_efficientnet_xs"), _card("ns_efficientnet_xs"))
    quiet, _ = load_checkpoint(tmp_path)
    noisy, _ = load_checkpoint(tmp_path, dropout=0.3, stochastic_depth=0.2, bn_momentum=0.02)
    assert not any(module.training for network in (quiet, noisy) for module in network.modules())
    assert [network.drop_rate for network in (quiet, noisy)] == [0, 0.3]
    assert [len(drop_paths(network)) for network in (quiet, noisy)] == [0, 2]
    assert {m.momentum for m in noisy.modules() if isinstance(m, nn.BatchNorm2d)} == {0.02}


def test_the_same_network_gives_the_same_bytes_however_its_memory_lies(tmp_path: Path) -> None:
    files = []
    for place, layout in enumerate((torch.channels_last, torch.contiguous_format)):
        folder = tmp_path / str(place)
        folder.mkdir()
        save_checkpoint(folder, _used("ns_efficientnet_xs").to(memory_format=layout), _card("ns_efficientnet_xs"))
        files.append([(folder / name).read_bytes() for name in (WEIGHTS, CARD)])
    assert files[0] == files[1]


def test_a_loaded_network_saves_to_the_bytes_it_came_from(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _used("ns_efficientnet_xs"), _card("ns_efficientnet_xs"))
    before = [(tmp_path / name).read_bytes() for name in (WEIGHTS, CARD)]
    save_checkpoint(tmp_path, *load_checkpoint(tmp_path))
    assert [(tmp_path / name).read_bytes() for name in (WEIGHTS, CARD)] == before


def test_weights_of_another_network_are_not_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _used("ns_efficientnet_xs"), _card("ns_efficientnet_s"))
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_checkpoint(tmp_path)


def test_a_card_with_a_field_too_many_or_too_few_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _used("ns_efficientnet_xs"), _card("ns_efficientnet_xs"))
    document = json.loads((tmp_path / CARD).read_text())
    for broken in ({**document, "extra": 1}, {name: value for name, value in document.items() if name != "test_size"}):
        (tmp_path / CARD).write_text(json.dumps(broken))
        with pytest.raises(ValidationError):
            load_checkpoint(tmp_path)


def test_normalising_takes_bytes_or_unit_floats_to_mean_0_and_std_1_of_the_card() -> None:
    card = _card("ns_efficientnet_xs").model_copy(update={"mean": (0.5, 0.25, 0.0), "std": (0.5, 0.25, 1.0)})
    pixels = torch.tensor([[[[0, 255, 51]]]], dtype=torch.uint8)
    expected = torch.tensor([-1.0, 3.0, 0.2]).view(1, 3, 1, 1)
    normalised = Normalize(card)(pixels)
    assert torch.allclose(normalised, expected)
    assert torch.equal(Normalize(card)(pixels.permute(0, 3, 1, 2).float() / 255), normalised)
