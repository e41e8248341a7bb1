"""The fast predict path gives the plain one's labels: folded, in bfloat16, padded and compiled."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ns_core.errors import UserError
from ns_core.models import fast
from ns_core.models.checkpoint import ModelCard
from ns_core.models.factory import create_network
from ns_core.models.fast import fast_predictor
from ns_core.models.predict import Predictor

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


def _card(model: str = "ns_efficientnet_xs", size: int = 32) -> ModelCard:
    return ModelCard(model=model, class_names=tuple("abcd"), train_size=size, test_size=size, crop_pct=1.0)


def _images(count: int, size: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture
def network() -> nn.Module:
    """With statistics of BatchNorm that differ from a batch's own."""
    torch.manual_seed(0)
    network = create_network("ns_efficientnet_xs", 4, dropout=0.5, stochastic_depth=0.5).train()
    with torch.no_grad():
        network(torch.randn(8, 3, 32, 32) * 2 + 1)
    return network.eval()


@pytest.fixture
def wanted(network: nn.Module) -> NDArray[np.float32]:
    """Of `_images(7)`."""
    return Predictor(network, _card(), CPU).logits(_images(7))


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03)])
def test_the_logits_are_the_plain_predictors_and_float32(
    network: nn.Module, wanted: Any, precision: str, tolerance: float
) -> None:
    predictor = fast_predictor(network, _card(), CPU, precision)
    logits, features = predictor.outputs(_images(7))
    assert features is None
    assert logits.dtype == np.float32
    assert np.abs(logits - wanted).max() <= tolerance * np.abs(wanted).max()
    assert np.array_equal(predictor.logits(_images(7)), logits)
    assert not any(isinstance(module, _BatchNorm) for module in predictor.modules())


def test_bfloat16_is_what_the_convolutions_compute_in_and_the_classifier_does_not(network: nn.Module) -> None:
    exact = fast_predictor(network, _card(), CPU, "float32").logits(_images(7))
    predictor = fast_predictor(network, _card(), CPU, "bfloat16", features=True)
    logits, features = predictor.outputs(_images(7))
    assert features is not None
    assert not np.array_equal(logits, exact)
    head = network.get_submodule("classifier")
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        assert np.allclose(head(torch.from_numpy(features)).numpy(), logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "size"), [("ns_efficientnet_xs", 32), ("resnet18", 32), ("mobilenetv3_small_050", 32), ("test_vit", 160)]
)
def test_features_are_what_the_classifier_of_the_network_sees(model: str, size: int) -> None:
    torch.manual_seed(0)
    network = create_network(model, 4).eval()
    seen: list[torch.Tensor] = []
    network.get_classifier().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # type: ignore[operator]
    wanted = Predictor(network, _card(model, size), CPU).logits(_images(3, size))
    [expected] = seen
    logits, features = fast_predictor(network, _card(model, size), CPU, features=True).outputs(_images(3, size))
    assert features is not None
    assert features.shape == expected.shape
    assert np.allclose(features, expected.numpy(), rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert np.allclose(logits, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_a_network_without_one_input_to_its_classifier_labels_but_gives_no_features() -> None:
    model, size = "deit_tiny_distilled_patch16_224", 224
    network = create_network(model, 4).eval()
    card = _card(model, size)
    with pytest.raises(UserError, match=f"model '{model}' has no classifier with one input.*infer.embeddings=false"):
        fast_predictor(network, card, CPU, features=True)
    wanted = Predictor(network, card, CPU).logits(_images(1, size))
    assert np.allclose(fast_predictor(network, card, CPU).logits(_images(1, size)), wanted, atol=1e-4)


def test_a_batch_that_is_computed_in_parts_gives_the_same_rows(
    network: nn.Module, wanted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "_CPU_PIXELS", 3 * 32 * 32)
    logits, features = fast_predictor(network, _card(), CPU, features=True).outputs(_images(7))
    assert features is not None
    assert len(features) == 7
    assert np.allclose(logits, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_the_network_that_was_given_stays_as_it_is(network: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fast_predictor(network, _card(), CPU, "bfloat16").logits(_images(2))
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_every_batch_is_refused_while_a_module_is_in_training_mode(network: nn.Module) -> None:
    predictor = fast_predictor(network, _card(), CPU)
    predictor.logits(_images(2))
    next(module for module in predictor.modules() if isinstance(module, nn.Conv2d)).train()
    with pytest.raises(AssertionError, match="training mode while labelling"):
        predictor.outputs(_images(2))


WITHOUT_COMPILER = """
import torch
from ns_core.errors import UserError
from ns_core.models.checkpoint import ModelCard
from ns_core.models.factory import create_network
from ns_core.models.fast import fast_predictor
card = ModelCard(model="ns_efficientnet_xs", class_names=("a", "b"), train_size=32, test_size=32, crop_pct=1)
network = create_network("ns_efficientnet_xs", 2).eval()
try:
    fast_predictor(network, card, torch.device("cpu"), compile=True).expect(4)
except UserError as error:
    print(error)
"""


def test_a_compiled_predictor_that_does_not_compile_says_which_setting_asks_for_it(tmp_path: Path) -> None:
    """In a process of its own: which compiler there is, torch asks once."""
    environment = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", WITHOUT_COMPILER]
    answer = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    [line] = answer.stdout.splitlines()
    assert line.startswith("torch.compile cannot compile the network here (")
    assert "no-such-compiler" in line
    assert "set compute.compile=false" in line


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_predictor_pads_the_last_batch_and_compiles_once(network: nn.Module, wanted: Any) -> None:
    """By torch's own compiler: half a minute for the smallest network."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    predictor = fast_predictor(network, _card(), CPU, compile=True, features=True)
    predictor.expect(4)
    parts = [predictor.outputs(_images(7)[:4]), predictor.outputs(_images(7)[4:])]
    assert [len(part.logits) for part in parts] == [4, 3]
    assert np.allclose(np.concatenate([part.logits for part in parts]), wanted, atol=1e-4 * np.abs(wanted).max())
    assert [None if part.features is None else part.features.shape for part in parts] == [(4, 64), (3, 64)]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
