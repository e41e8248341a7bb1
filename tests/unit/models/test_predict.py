"""The predict path: softmax of an eval-mode network, the same from bytes and from floats, and never with noise."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ns_core.models.checkpoint import ModelCard
from ns_core.models.factory import create_network
from ns_core.models.predict import Predictor, assert_noise_free, choose_device, set_threads

CARD = ModelCard(
    model="ns_efficientnet_xs",
    class_names=tuple("abcd"),
    train_size=32,
    test_size=32,
    crop_pct=1.0,
    mean=(0.1, 0.2, 0.3),
)
CPU = torch.device("cpu")


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def network(images: NDArray[np.uint8]) -> nn.Module:
    """With noise to turn off, and statistics of BatchNorm that differ from a batch's own."""
    torch.manual_seed(0)
    network = create_network(CARD.model, 4, dropout=0.5, stochastic_depth=0.5).train()
    with torch.no_grad():
        network(torch.randn(8, 3, 32, 32) * 2 + 1)
    return network


def test_probabilities_are_the_softmax_of_the_normalised_pictures(network: nn.Module, images: Any) -> None:
    probabilities = Predictor(network, CARD, CPU).probabilities(images)
    pixels = (images / 255.0 - np.array(CARD.mean)) / np.array(CARD.std)
    with torch.no_grad():
        logits = network.eval()(torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)).double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities, expected, atol=1e-5)


def test_floats_between_0_and_1_give_the_very_logits_of_the_bytes(network: nn.Module, images: Any) -> None:
    predictor = Predictor(network, CARD, CPU)
    bytes_ = torch.from_numpy(images)
    floats = bytes_.permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        assert torch.equal(predictor(floats), predictor(bytes_))


def test_an_image_is_labelled_alike_alone_and_in_a_batch_and_every_time(network: nn.Module, images: Any) -> None:
    predictor = Predictor(network, CARD, CPU)
    together = predictor.probabilities(images)
    assert np.array_equal(predictor.probabilities(images), together)
    alone = np.concatenate([predictor.probabilities(images[row : row + 1]) for row in range(len(images))])
    assert np.allclose(alone, together, atol=1e-6)


@pytest.mark.parametrize("noisy", ["", "network.bn1", "network.blocks.1.1.drop_path"])
def test_nothing_is_labelled_while_any_module_is_in_training_mode(network: nn.Module, images: Any, noisy: str) -> None:
    predictor = Predictor(network, CARD, CPU)
    assert_noise_free(predictor)
    predictor.get_submodule(noisy).train()
    with pytest.raises(AssertionError, match=f"training mode while labelling or evaluating: {noisy or 'Predictor'}"):
        predictor.probabilities(images)


def test_labelling_leaves_no_trace_in_the_network(network: nn.Module, images: Any) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Predictor(network, CARD, CPU).probabilities(images)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_the_wanted_device_is_taken_and_auto_finds_one() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_threads_are_as_many_as_asked_for() -> None:
    before = torch.get_num_threads()
    try:
        set_threads(3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
