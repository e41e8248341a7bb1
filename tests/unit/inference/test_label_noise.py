"""Noise on the teacher that labels: each image's own, whatever is beside it, with the rates that were asked for."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ns_core.config import InferConfig, Recipe
from ns_core.config.training import Augmentation
from ns_core.data.image_source import ImageSource
from ns_core.data.rows import Rows
from ns_core.errors import UserError
from ns_core.inference.label_noise import LabelNoise
from ns_core.inference.labelling import Labeller
from ns_core.models.checkpoint import ModelCard
from ns_core.models.factory import create_network, drop_paths
from ns_core.models.predict import Predictor
from tests.factories import TINY_MODEL

CARD = ModelCard(model=TINY_MODEL, class_names=tuple("0123456789"), train_size=32, test_size=32, crop_pct=1.0)
CPU = torch.device("cpu")
SHIFTED = Augmentation(min_area=1.0, hflip=0.0, pad=3, randaugment_ops=0)


def _noised(config: InferConfig, card: ModelCard = CARD) -> tuple[nn.Module, LabelNoise]:
    torch.manual_seed(0)
    network = create_network(card.model, 10, stochastic_depth=config.stochastic_depth).eval()
    return network, LabelNoise(config, network, card)


def _label(
    source: ImageSource, rows: Rows, config: InferConfig, batch: int = 8, workers: int = 2
) -> NDArray[np.float32]:
    network, noise = _noised(config)
    view = (CARD.test_size, CARD.crop_pct)
    return Labeller(source, Predictor(network, CARD, CPU), view, batch, workers, noise).label(rows).logits


ALL = InferConfig(dropout=0.3, stochastic_depth=0.4, augmentation=SHIFTED, seed=7)
EACH = [InferConfig(dropout=0.3), InferConfig(stochastic_depth=0.4), InferConfig(augmentation=SHIFTED)]


@pytest.mark.parametrize(("batch", "workers"), [(1, 0), (7, 3), (50, 1)])
def test_a_label_depends_neither_on_the_batch_nor_on_threads(
    source: ImageSource, rows: Rows, batch: int, workers: int
) -> None:
    wanted, found = _label(source, rows, ALL), _label(source, rows, ALL, batch, workers)
    assert np.allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("config", EACH)
def test_each_kind_of_noise_moves_labels_and_another_seed_moves_them_otherwise(
    source: ImageSource, rows: Rows, config: InferConfig
) -> None:
    network, _ = _noised(InferConfig())
    clean = Labeller(source, Predictor(network, CARD, CPU), (32, 1.0), 8, 2).label(rows).logits
    found = _label(source, rows, config)
    other = _label(source, rows, config.model_copy(update={"seed": 1}))
    moved = np.abs(found - clean).max(axis=1) > 1e-3
    assert moved.mean() > 0.5
    assert np.abs(found - other).max(axis=1).mean() > 1e-3


def test_features_are_dropped_and_kept_ones_are_made_up_for() -> None:
    """Of the classifier's input, seen by a hook after the noise's own: 0.3 of 400 x D values, within 5 deviations."""
    network, noise = _noised(InferConfig(dropout=0.3))
    seen: list[torch.Tensor] = []
    head = network.get_classifier()  # type: ignore[operator]
    head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    plain: list[torch.Tensor] = []
    network.global_pool.register_forward_hook(lambda module, inputs, output: plain.append(output))  # type: ignore[union-attr]
    images = torch.rand(400, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    noise.draw([str(number) for number in range(400)])
    with torch.inference_mode():
        network(images)
    factors = (seen[0] / plain[0]).round(decimals=3)
    assert torch.allclose(factors.unique(), torch.tensor([0.0, 1 / 0.7]), atol=1e-3), factors.unique()
    dropped = (factors == 0).float().mean().item()
    assert abs(dropped - 0.3) < 5 * (0.3 * 0.7 / factors.numel()) ** 0.5


def test_branches_are_skipped_as_often_as_in_training_by_block() -> None:
    network, noise = _noised(InferConfig(stochastic_depth=0.4))
    layers = drop_paths(network)
    skipped = torch.zeros(len(layers))
    calls = torch.zeros(len(layers))
    for place, layer in enumerate(layers):

        def look(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor, place: int = place) -> None:
            skipped[place] += (output.flatten(1).abs().sum(dim=1) == 0).sum()
            calls[place] += 1

        layer.register_forward_hook(look)
    noise.draw([str(number) for number in range(400)])
    with torch.inference_mode():
        network(torch.rand(400, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert calls.tolist() == [1.0] * len(layers)
    rates = torch.tensor([layer.drop_prob for layer in layers])
    assert ((skipped / 400 - rates).abs() < 5 * (rates * (1 - rates) / 400).sqrt()).all()
    assert (skipped > 0).all()


def test_noise_that_was_drawn_for_another_batch_is_an_error() -> None:
    network, noise = _noised(InferConfig(dropout=0.3))
    noise.draw(["a", "b"])
    with pytest.raises(AssertionError, match="noise for 2 images, and a batch of 3"):
        network(torch.zeros(3, 3, 32, 32))


def test_a_network_without_branches_is_told() -> None:
    network = create_network("ns_efficientnet_xs", 10, stochastic_depth=0.0)
    with pytest.raises(UserError, match="no residual branch to drop: set stochastic_depth=0"):
        LabelNoise(InferConfig(stochastic_depth=0.2), network, CARD)


@pytest.mark.parametrize("other", [{"embeddings": True}, {"precision": "bfloat16"}])
def test_noise_goes_with_the_plain_path_alone(other: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"goes with (embeddings=false|precision=float32) alone"):
        InferConfig(dropout=0.1, **other)


def test_the_seed_of_the_noise_is_the_recipes_and_none_without_noise() -> None:
    plain, noised = Recipe(seed=5), Recipe(seed=5).override(["infer.dropout=0.1"])
    assert plain.for_generation(1).infer.seed == plain.for_generation(2).infer.seed == 0
    assert [noised.for_generation(number).infer.seed for number in (1, 2)] == [1005, 2005]


def test_without_noise_the_identity_is_what_it_was() -> None:
    assert set(InferConfig().science()) == {"top_k", "embeddings", "precision"}
    assert {"dropout", "stochastic_depth", "augmentation", "seed"} <= set(ALL.science())
