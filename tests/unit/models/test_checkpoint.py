"""A checkpoint gives back the very network that was saved, the same network gives the same files, and one that is
not whole does not load."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ns_core.config import TrainConfig
from ns_core.errors import StageFailed
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


def test_batchnorms_eps_comes_back_with_the_weights_that_were_trained_with_it(tmp_path: Path) -> None:
    card = _card("ns_efficientnet_xs").model_copy(update={"bn_eps": 0.05})
    save_checkpoint(tmp_path, create_network(card.model, 3, bn_eps=0.05), card)
    network, loaded = load_checkpoint(tmp_path)
    assert loaded.bn_eps == 0.05
    assert {m.eps for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.05}
    assert _card("ns_efficientnet_xs").bn_eps == TrainConfig().bn_eps


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path, _used("ns_efficientnet_xs"), _card("ns_efficientnet_xs"))
    return tmp_path


def _refusal(folder: Path) -> str:
    """What loading says, in one line."""
    with pytest.raises(StageFailed) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _edit_weights(folder: Path, **changed: torch.Tensor | None) -> None:
    """Puts tensors in place of others; None takes one out. `__` in a name stands for a dot."""
    state = load_file(folder / WEIGHTS)
    for name, tensor in changed.items():
        key = name.replace("__", ".")
        if tensor is None:
            del state[key]
        else:
            state[key] = tensor
    save_file(state, folder / WEIGHTS)


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    assert re.match(f"no checkpoint: cannot read {re.escape(str(saved / name))}: No such file", _refusal(saved))


def test_weights_of_another_network_or_another_number_of_classes_are_not_loaded(saved: Path) -> None:
    card = _card("ns_efficientnet_s")
    (saved / CARD).write_text(card.model_dump_json())
    told = _refusal(saved)
    assert told.startswith(f"wrong checkpoint: {saved / WEIGHTS} is not of a 'ns_efficientnet_s'")
    assert re.search(r"float32\[\d.*\] instead of float32\[\d.*\] \(and \d+ more\)$", told)
    two = _card("ns_efficientnet_xs").model_copy(update={"class_names": ("ant", "bee")})
    (saved / CARD).write_text(two.model_dump_json())
    assert "classifier.bias is float32[3] instead of float32[2] (and 1 more)" in _refusal(saved)


def test_a_tensor_too_few_too_many_or_of_another_type_is_named(saved: Path) -> None:
    bias = load_file(saved / WEIGHTS)["classifier.bias"]
    _edit_weights(saved, classifier__bias=None)
    assert _refusal(saved).endswith("classifier.bias is missing")
    _edit_weights(saved, classifier__bias=bias, teacher__bias=bias.clone())
    assert _refusal(saved).endswith("teacher.bias is unexpected")
    _edit_weights(saved, teacher__bias=None, classifier__bias=bias.half())
    assert _refusal(saved).endswith("classifier.bias is float16[3] instead of float32[3]")
    _edit_weights(saved, classifier__bias=bias)
    assert torch.equal(load_checkpoint(saved)[0].get_submodule("classifier").bias, bias)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["classifier.bias", "bn1.running_var"])
def test_a_weight_or_a_statistic_that_is_not_finite_is_named(saved: Path, name: str, value: float) -> None:
    tensor = load_file(saved / WEIGHTS)[name]
    tensor[1] = value
    _edit_weights(saved, **{name.replace(".", "__"): tensor})
    assert _refusal(saved) == f"broken checkpoint: {saved / WEIGHTS} holds weights that are not finite, first in {name}"


@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_a_damaged_weights_file_is_not_loaded(saved: Path, kept: int) -> None:
    (saved / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:kept])
    assert _refusal(saved).startswith(f"damaged checkpoint: {saved / WEIGHTS} holds no weights: ")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'"model"'])
def test_a_damaged_card_is_not_loaded(saved: Path, content: bytes) -> None:
    (saved / CARD).write_bytes(content)
    assert _refusal(saved).startswith(f"damaged checkpoint: {saved / CARD} describes no model: ")


def test_a_card_with_a_field_too_many_or_too_few_is_refused(saved: Path) -> None:
    document = json.loads((saved / CARD).read_text())
    (saved / CARD).write_text(json.dumps({**document, "extra": 1}))
    assert "describes no model: extra: " in _refusal(saved)
    del document["test_size"]
    (saved / CARD).write_text(json.dumps(document))
    assert "describes no model: test_size: " in _refusal(saved)


def test_normalising_takes_bytes_or_unit_floats_to_mean_0_and_std_1_of_the_card() -> None:
    card = _card("ns_efficientnet_xs").model_copy(update={"mean": (0.5, 0.25, 0.0), "std": (0.5, 0.25, 1.0)})
    pixels = torch.tensor([[[[0, 255, 51]]]], dtype=torch.uint8)
    expected = torch.tensor([-1.0, 3.0, 0.2]).view(1, 3, 1, 1)
    normalised = Normalize(card)(pixels)
    assert torch.allclose(normalised, expected)
    assert torch.equal(Normalize(card)(pixels.permute(0, 3, 1, 2).float() / 255), normalised)


def test_the_weights_may_be_read_by_whoever_may_read_the_card(tmp_path: Path) -> None:
    """safetensors itself would keep them from everybody but their owner."""
    network = create_network("ns_efficientnet_xs", 3)
    card = ModelCard(model="ns_efficientnet_xs", class_names=("a", "b", "c"), train_size=32, test_size=32, crop_pct=1.0)
    save_checkpoint(tmp_path, network, card)
    modes = {(tmp_path / name).stat().st_mode for name in (WEIGHTS, CARD)}
    assert len(modes) == 1
