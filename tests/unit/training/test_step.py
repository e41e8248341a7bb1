"""One update: micro-batches, mixing, precision, and what the processes of a run have in common."""

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ns_core.config import StudentConfig
from ns_core.training.distributed import Ranks
from ns_core.training.job import Job, fresh_network
from ns_core.training.step import TrainStep
from tests.factories import TINY, TINY_MODEL

CPU = torch.device("cpu")
ALONE = Ranks(rank=0, world=1, local_rank=0, device=CPU)
CLASSES = tuple("abcd")
QUIET = {"dropout": 0.0, "stochastic_depth": 0.0}


def _config(**settings: Any) -> StudentConfig:
    return StudentConfig(**{**TINY, "model": TINY_MODEL, "batch_size": 4, "ratio": 3, **settings})


def _step(config: StudentConfig, compiled: bool = False) -> TrainStep:
    torch.manual_seed(0)
    network, card = fresh_network(config, CLASSES)
    job = Job(config, card, network, None, lambda _: 0.0, loss=config.loss)  # type: ignore[arg-type]
    step = TrainStep(job, ALONE, compiled)
    step.train_mode()
    return step


def _batch(rows: int, labelled: int) -> tuple[Tensor, Tensor, int]:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (rows, 16, 16, 3), dtype=np.uint8))
    targets = torch.from_numpy(rng.dirichlet(np.ones(len(CLASSES)), rows).astype(np.float32))
    return images, targets, labelled


def _weights(step: TrainStep) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in step.network.parameters()])


@pytest.mark.parametrize("form", ["concat", "official", "algorithm1"])
def test_micro_batches_give_the_gradient_of_the_whole_batch_where_no_batch_statistics_are_used(form: str) -> None:
    """The network's BatchNorm is put in eval mode, so that only the sum of gradients is at stake."""
    results = []
    for accumulation in (1, 2, 4):
        step = _step(_config(accumulation=accumulation, loss=form, lr=0.1, warmup_steps=0, **QUIET))
        for module in step.network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        loss = step.update(0, *_batch(16, 4))
        results.append((float(loss), _weights(step)))
    for loss, weights in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        assert torch.allclose(weights, results[0][1], atol=1e-6)


def test_every_micro_batch_has_the_mix_of_the_batch() -> None:
    step = _step(_config(accumulation=4))
    images, targets, labelled = _batch(16, 4)
    images[:4] = 7
    seen = [(part[1][0][:, 0, 0, 0].tolist(), part[1][2]) for part in step._micro_batches(images, targets, labelled)]
    assert all(first == 7 and count == 1 and len(rest) == 3 for (first, *rest), count in seen)
    rest = sorted(value for (_, *values), _ in seen for value in values)
    assert rest == sorted(images[4:, 0, 0, 0].tolist())


def test_the_draws_of_an_update_depend_on_its_number_and_the_seed_alone() -> None:
    config = _config(dropout=0.5, stochastic_depth=0.5)

    def losses(numbers: list[int], **changes: Any) -> list[float]:
        step = _step(config.model_copy(update={"lr": 1e-12, "ema_decay": 0.0, **changes}))
        batch = _batch(16, 4)
        return [round(float(step.update(number, *batch)), 6) for number in numbers]

    assert losses([5, 6]) == losses([5, 6])
    assert losses([5])[0] == losses([3, 5])[1]
    assert losses([5]) != losses([6])
    assert losses([5]) != losses([5], seed=1)


@pytest.mark.parametrize("option", ["mixup", "cutmix"])
def test_mixing_changes_the_update_and_can_be_repeated(option: str) -> None:
    plain, mixed, again = (
        float(_step(_config(**QUIET, **settings)).update(3, *_batch(16, 4)))
        for settings in ({}, {option: 1.0}, {option: 1.0})
    )
    assert mixed == again != plain


def test_bfloat16_is_near_float32_and_leaves_float32_weights() -> None:
    exact, coarse = (_step(_config(precision=precision, lr=0.01, **QUIET)) for precision in ("float32", "bfloat16"))
    batch = _batch(16, 4)
    losses = [float(step.update(40, *batch)) for step in (exact, coarse)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert {parameter.dtype for parameter in coarse.network.parameters()} == {torch.float32}


def test_activations_computed_again_give_the_same_weights_to_the_bit() -> None:
    config = _config(dropout=0.3, stochastic_depth=0.3, lr=0.1, warmup_steps=0)
    kept, again = _step(config), _step(config.model_copy(update={"recompute_groups": 2}))
    for number in range(3):
        for step in (kept, again):
            step.update(number, *_batch(16, 4))
    state = again.network.state_dict()
    for name, tensor in kept.network.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("accumulation", [1, 2])
def test_both_streams_go_through_one_forward_pass_of_each_micro_batch(accumulation: int) -> None:
    step = _step(_config(accumulation=accumulation))
    passes: list[int] = []
    step.network.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    step.update(0, *_batch(16, 4))
    assert passes == [16 // accumulation] * accumulation


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.timeout(400)
def test_a_compiled_step_makes_the_same_update_and_shares_its_weights_with_the_average() -> None:
    """By torch's own compiler: half a minute for the smallest network."""
    config = _config(lr=0.1, warmup_steps=0, **QUIET)
    eager, compiled = _step(config), _step(config, compiled=True)
    losses = [[float(step.update(number, *_batch(16, 4))) for number in range(2)] for step in (eager, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert torch.allclose(_weights(eager), _weights(compiled), atol=1e-4)
    averages = [step.average.network.state_dict() for step in (eager, compiled)]
    assert averages[0].keys() == averages[1].keys()
    for name, tensor in averages[0].items():
        assert torch.allclose(tensor.float(), averages[1][name].float(), atol=1e-4), name
