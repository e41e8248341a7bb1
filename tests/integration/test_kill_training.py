"""Training killed with SIGKILL at random updates, ten times, alone and as two processes over gloo.

Real processes: `tests/train_in_ranks.py`, by itself or under torchrun. What counts is the ledger, the images of
each update by the attempt that made it last, and the final weights, bit for bit.
"""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from ns_core.config import StudentConfig
from tests.factories import TINY, TINY_MODEL
from tests.rank_processes import Training, pseudo_labelled

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

STEPS, KILLS = 150, 10
LARGEST_LEAP = 13
"""Updates between two kills."""
CHECKPOINT_STEPS = 7
LOST = 2 * CHECKPOINT_STEPS + 2
"""Updates that a kill undoes at most: the last checkpoint may still be on its way to the disk."""


def _config(**settings: Any) -> StudentConfig:
    tiny = {**TINY, "model": TINY_MODEL, "batch_size": 4, "ratio": 3, "steps": STEPS, "epoch_steps": 40}
    return StudentConfig(**{**tiny, "checkpoint_steps": CHECKPOINT_STEPS, **settings})


@pytest.fixture
def arguments(digits_folder: Path, tmp_path: Path) -> list[str]:
    return pseudo_labelled(digits_folder, tmp_path / "selection")


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_ten_times_the_ledger_and_the_weights_are_those_of_a_run_left_alone(
    tmp_path: Path, arguments: list[str], processes: int
) -> None:
    config, draw = _config(), random.Random(processes)
    alone, killed = (Training(tmp_path / name, arguments) for name in ("alone", "killed"))
    alone.finish(config, processes)
    reached, kills = 0, 0
    while kills < KILLS:
        reached = killed.kill_at(reached + draw.randrange(1, LARGEST_LEAP), config, processes, draw)
        assert reached < STEPS - 1
        kills += 1
    killed.finish(config, processes)

    made = sum(line["rank"] == 0 for line in killed.lines())
    assert STEPS < made < STEPS + KILLS * LOST, "each attempt goes on from one of the last two checkpoints"
    ledger = killed.ledger()
    assert sorted(ledger) == list(range(STEPS))
    assert ledger == alone.ledger()
    expected = alone.weights()
    assert expected.keys() == killed.weights().keys()
    for name, tensor in killed.weights().items():
        assert torch.equal(tensor, expected[name]), name


def test_begun_by_two_processes_and_ended_by_one_each_image_is_seen_as_often(
    tmp_path: Path, arguments: list[str]
) -> None:
    config, draw = _config(steps=60), random.Random(0)
    alone, moved = (Training(tmp_path / name, arguments) for name in ("alone", "moved"))
    alone.finish(config, 1)
    moved.kill_at(31, config, 2, draw)
    moved.finish(config, 1)
    moved_ledger = {step: sorted(keys) for step, keys in moved.ledger().items()}
    assert moved_ledger == {step: sorted(keys) for step, keys in alone.ledger().items()}
