"""Two processes over gloo train as one does: the same images of an update, the same weights but for rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ns_core.config import StudentConfig
from tests.factories import TINY, TINY_MODEL
from tests.rank_processes import Training, pseudo_labelled

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

NO_DRAWS = {"dropout": 0.0, "stochastic_depth": 0.0}
"""Each process draws its own; all else is the same."""


def _config(**settings: Any) -> StudentConfig:
    return StudentConfig(**{**TINY, **NO_DRAWS, "model": TINY_MODEL, "batch_size": 8, "ratio": 3, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accumulation": 2},
        pytest.param({"optimizer": "rmsproptf", "lr": 0.001, "loss": "official"}, marks=pytest.mark.long),
        pytest.param({"model": "test_efficientnet_gn"}, marks=pytest.mark.long),
    ],
    ids=["batchnorm", "micro-batches", "rmsprop", "groupnorm"],
)
def test_two_processes_end_in_the_weights_of_one(digits_folder: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    config, arguments = _config(**settings), pseudo_labelled(digits_folder, tmp_path / "selection")
    one, two = (Training(tmp_path / name, arguments) for name in ("one", "two"))
    one.finish(config, 1)
    two.finish(config, 2)
    assert {step: sorted(keys) for step, keys in two.ledger().items()} == {
        step: sorted(keys) for step, keys in one.ledger().items()
    }
    begun, expected = _first_weights(config), one.weights()
    for name, tensor in two.weights().items():
        if tensor.is_floating_point():
            moved = float((expected[name] - begun[name]).abs().max()) if name in begun else 0.0
            assert torch.allclose(tensor, expected[name], rtol=1e-3, atol=1e-3 * moved + 1e-6), name


def _first_weights(config: StudentConfig) -> dict[str, torch.Tensor]:
    from ns_core.training.job import fresh_network, seed_worker

    seed_worker(config.seed, 1)
    network, _ = fresh_network(config, tuple("0123456789"))
    return dict(network.state_dict())
