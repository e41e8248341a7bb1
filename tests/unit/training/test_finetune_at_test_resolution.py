"""Finetuning: shallow layers keep every bit, the others move, and the card carries the new resolution."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ns_core.config import FinetuneConfig
from ns_core.errors import UserError
from ns_core.models.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from ns_core.models.factory import create_network
from ns_core.training import finetune_at_test_resolution as finetune
from tests.factories import TINY, TINY_MODEL, training_context

FROZEN = {0: ("conv_stem.", "bn1."), 1: ("conv_stem.", "bn1.", "blocks.0.")}
"""By `frozen_blocks`, of our EfficientNets."""


def _config(**settings: Any) -> FinetuneConfig:
    plain = FinetuneConfig().augmentation
    changes = {"image_size": 24, "crop_pct": 0.9, "steps": 6, "epoch_steps": 3, "augmentation": plain, **settings}
    return FinetuneConfig(**{**TINY, **changes})


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A checkpoint whose BatchNorm statistics have moved."""
    torch.manual_seed(0)
    network = create_network(TINY_MODEL, 10).train()
    with torch.no_grad():
        network(torch.randn(8, 3, 16, 16))
    folder = tmp_path / "student"
    folder.mkdir()
    names = tuple("0123456789")
    save_checkpoint(
        folder, network, ModelCard(model=TINY_MODEL, class_names=names, train_size=16, test_size=16, crop_pct=1)
    )
    return folder


@pytest.mark.parametrize("blocks", [0, 1])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_parts_keep_weights_and_statistics_bit_for_bit_and_the_others_move(
    digits_folder: Path, student: Path, tmp_path: Path, blocks: int, optimizer: str
) -> None:
    """A large weight decay would move a frozen weight that the optimiser still held."""
    context = training_context(tmp_path, dataset=digits_folder, student=student)
    finetune.run(_config(frozen_blocks=blocks, optimizer=optimizer, weight_decay=0.1), context)
    before, after = load_checkpoint(student)[0].state_dict(), load_checkpoint(context.output)[0].state_dict()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == name.startswith(FROZEN[blocks]), name


def test_the_card_carries_the_test_resolution_and_keeps_the_training_one(
    digits_folder: Path, student: Path, tmp_path: Path
) -> None:
    context = training_context(tmp_path, dataset=digits_folder, student=student)
    result = finetune.run(_config(), context)
    before, after = load_checkpoint(student)[1], load_checkpoint(context.output)[1]
    assert after == before.model_copy(update={"test_size": 24, "crop_pct": 0.9})
    assert (result["train_size"], result["test_size"]) == (16, 24)
    assert {point["key"].partition("/")[0] for point in context.history} == {"finetune"}


def test_it_starts_from_the_students_weights(digits_folder: Path, student: Path, tmp_path: Path) -> None:
    context = training_context(tmp_path, dataset=digits_folder, student=student)
    finetune.run(_config(lr=1e-9, steps=1, weight_decay=0.0), context)
    before, after = load_checkpoint(student)[0].state_dict(), load_checkpoint(context.output)[0].state_dict()
    assert torch.allclose(before["classifier.weight"], after["classifier.weight"], atol=1e-7)


def test_more_groups_than_the_network_has_cannot_be_frozen(digits_folder: Path, student: Path, tmp_path: Path) -> None:
    context = training_context(tmp_path, dataset=digits_folder, student=student)
    with pytest.raises(UserError, match=r"finetune.frozen_blocks=3: 'ns_efficientnet_xs' has 2 groups of blocks"):
        finetune.run(_config(frozen_blocks=3, stochastic_depth=0.0), context)


def test_all_groups_can_be_frozen_but_not_while_stochastic_depth_asks_for_one(
    digits_folder: Path, student: Path, tmp_path: Path
) -> None:
    context = training_context(tmp_path / "a", dataset=digits_folder, student=student)
    with pytest.raises(UserError, match=r"finetune.frozen_blocks=2 freezes every branch .*finetune.stochastic_depth=0"):
        finetune.run(_config(frozen_blocks=2), context)
    context = training_context(tmp_path / "b", dataset=digits_folder, student=student)
    finetune.run(_config(frozen_blocks=2, stochastic_depth=0.0), context)
    before, after = load_checkpoint(student)[0].state_dict(), load_checkpoint(context.output)[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("blocks."))
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
