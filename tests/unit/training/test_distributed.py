"""Real processes over gloo agree, add up and average; one alone answers at once."""

import os
import signal
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from ns_core.errors import UserError
from ns_core.training.distributed import Ranks, join
from tests.groups import in_group


def conversation() -> dict[str, Any]:
    """What one rank of two sees; every call of `Ranks` in turn."""
    with join("cpu") as ranks:
        seen: dict[str, Any] = {
            "place": (ranks.rank, ranks.world, ranks.local_rank, ranks.leads, ranks.device),
            "sum": ranks.sum([0.1, 1e16, -float(ranks.rank)]),
            "gathered": ranks.gather({"rank": ranks.rank}),
            "agreed": [ranks.agree(ranks.rank == 1 and call == 2) for call in range(5)],
            "slice": ranks.slice_of(7),
        }
        torch.manual_seed(ranks.rank)
        layer = nn.Linear(2, 1, bias=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a person would read it
            wrapped = ranks.wrap(layer)
        seen["weight"] = layer.weight.detach().clone().numpy()
        wrapped(torch.full((1, 2), 1.0 + ranks.rank)).sum().backward()
        assert layer.weight.grad is not None
        seen["gradient"] = layer.weight.grad.numpy()
    seen["left"] = not dist.is_initialized()
    return seen


def defect_on_rank_1() -> None:
    with join("cpu") as ranks:
        if ranks.rank == 1:
            raise ValueError("the cause")
        ranks.gather(None)


def death_of_rank_1() -> None:
    with join("cpu") as ranks:
        ranks.agree(False)
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        ranks.agree(False)
        ranks.agree(False)


@pytest.fixture(scope="module")
def pair() -> list[dict[str, Any]]:
    return in_group(2, conversation)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def test_ranks_know_their_place(pair: list[dict[str, Any]]) -> None:
    cpu = torch.device("cpu")
    assert [seen["place"] for seen in pair] == [(0, 2, 0, True, cpu), (1, 2, 1, False, cpu)]


def test_sums_are_float64_and_the_same_bits_on_every_rank(pair: list[dict[str, Any]]) -> None:
    assert [seen["sum"] for seen in pair] == [[0.2, 2e16, -1.0]] * 2


def test_objects_are_gathered_in_rank_order(pair: list[dict[str, Any]]) -> None:
    assert [seen["gathered"] for seen in pair] == [[{"rank": 0}, {"rank": 1}]] * 2


def test_a_flag_of_one_rank_is_everybodys_answer_one_call_later(pair: list[dict[str, Any]]) -> None:
    assert [seen["agreed"] for seen in pair] == [[False, False, False, True, False]] * 2


def test_shares_are_contiguous_and_cover_all_rows(pair: list[dict[str, Any]]) -> None:
    assert [seen["slice"] for seen in pair] == [slice(0, 3), slice(3, 7)]
    for world in (1, 2, 3, 8):
        shares = [Ranks(rank, world, rank, torch.device("cpu")).slice_of(5) for rank in range(world)]
        assert [row for share in shares for row in range(5)[share]] == list(range(5))


def test_wrapped_networks_start_alike_and_average_their_gradients(pair: list[dict[str, Any]]) -> None:
    first, second = pair
    np.testing.assert_array_equal(first["weight"], second["weight"])
    for seen in pair:
        np.testing.assert_array_equal(seen["gradient"], [[1.5, 1.5]])


def test_the_group_is_gone_after_the_block(pair: list[dict[str, Any]]) -> None:
    assert [seen["left"] for seen in pair] == [True, True]


def test_a_defect_of_one_rank_is_told_by_that_rank_and_ends_the_other() -> None:
    other, cause = in_group(2, defect_on_rank_1)
    assert isinstance(cause, ValueError)
    assert isinstance(other, RuntimeError)


def test_the_death_of_one_rank_ends_the_other() -> None:
    other, status = in_group(2, death_of_rank_1)
    assert status == -signal.SIGKILL
    assert isinstance(other, RuntimeError)


@pytest.mark.usefixtures("alone")
def test_a_process_alone_needs_no_group_and_no_second_call() -> None:
    with join("cpu") as ranks:
        assert not dist.is_initialized()
        assert (ranks.rank, ranks.world, ranks.leads) == (0, 1, True)
        assert [ranks.agree(True), ranks.agree(False)] == [True, False]
        assert ranks.sum([0.5, 2]) == [0.5, 2.0]
        assert ranks.gather("me") == ["me"]
        assert ranks.slice_of(3) == slice(0, 3)
        network = nn.Linear(1, 1)
        assert ranks.wrap(network) is network


def test_half_an_environment_is_a_persons_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(UserError, match="WORLD_SIZE is 4 but RANK, LOCAL_RANK, MASTER_ADDR not set"), join("cpu"):
        pass


def test_more_processes_than_gpus_are_a_persons_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    if torch.cuda.is_available():
        monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count()))
    with pytest.raises(UserError, match=r"finds \d+ GPUs: set compute.processes"), join("cuda"):
        pass
