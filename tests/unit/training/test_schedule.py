"""Learning rates at points worked out by hand, by the official code's rule, and by timm's scheduler."""

from math import floor

import pytest
import torch
from timm.scheduler.scheduler_factory import create_scheduler_v2

from ns_core.config import FinetuneConfig, TrainConfig
from ns_core.training.schedule import learning_rate

COSINE = TrainConfig(lr=0.8, steps=1100, warmup_steps=100, schedule="cosine")
STAIRCASE = TrainConfig(lr=0.128, steps=10_000, warmup_steps=50, schedule="staircase", decay_steps=24.5, decay_rate=0.5)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.0), (1, 0.008), (50, 0.4), (99, 0.792), (100, 0.8), (350, 0.68284271), (600, 0.4), (850, 0.11715729)],
)
def test_cosine_warms_up_linearly_and_falls_as_half_a_wave(step: int, rate: float) -> None:
    """At a quarter of the way (1 + cos 45 degrees) / 2 = 0.8535533 of the peak."""
    assert learning_rate(COSINE, step) == pytest.approx(rate, abs=1e-8)


def test_cosine_is_almost_but_not_quite_0_at_the_last_update() -> None:
    assert 0 < learning_rate(COSINE, 1099) < 1e-5
    assert learning_rate(COSINE, 1100) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.0),
        (25, 0.064),
        (49, 0.12544),
        (50, 0.032),
        (73, 0.032),
        (74, 0.016),
        (97, 0.016),
        (98, 0.008),
        (245, 0.000125),
    ],
)
def test_a_staircase_counts_its_stairs_from_step_0_with_the_warm_up_inside(step: int, rate: float) -> None:
    """Stairs of 24.5 updates begin at 0, 24.5, 49, 73.5, 98, ...: at 50, two of them lie behind."""
    assert learning_rate(STAIRCASE, step) == pytest.approx(rate, rel=1e-9)


OFFICIAL_EPOCH = 1_281_167 / 2048
OFFICIAL_POINTS = [0, 1, 1500, 1501, 3126, 3127, 4504, 4505, 62_557, 109_474, 217_699, 218_948]
"""Updates within the warm-up, at its end, and on both sides of stairs."""


@pytest.mark.parametrize("train_ratio", [1, 2])
@pytest.mark.parametrize("step", OFFICIAL_POINTS)
def test_the_official_schedule_holds_at_its_corners(step: int, train_ratio: int) -> None:
    """google-research/noisystudent, `build_learning_rate`: 0.016 for each 256 images, five epochs of warm-up
    from 0, 3 % less every 2.4 epochs times `train_ratio`, in stairs that are counted from update 0."""
    peak = 0.016 * 2048 / 256
    warmup = int(5 * OFFICIAL_EPOCH)
    stairs = floor(step / (2.4 * train_ratio * OFFICIAL_EPOCH))
    expected = peak * step / warmup if step < warmup else peak * 0.97**stairs
    config = TrainConfig(
        lr=0.128,
        steps=218_949 * train_ratio,
        warmup_steps=3127,
        decay_steps=2.4 * train_ratio * OFFICIAL_EPOCH,
        decay_rate=0.97,
    )
    assert learning_rate(config, step) == pytest.approx(expected, rel=1e-12)


def test_the_official_rate_has_fallen_by_the_known_number_of_stairs() -> None:
    """Two stairs lie within the warm-up: after five epochs the rate is 6 % below its peak."""
    config = TrainConfig(lr=0.128, steps=218_949, warmup_steps=3127, decay_steps=2.4 * OFFICIAL_EPOCH, decay_rate=0.97)
    for epochs, stairs in ((5.01, 2), (100.5, 41), (349, 145)):
        rate = learning_rate(config, round(epochs * OFFICIAL_EPOCH))
        assert rate == pytest.approx(0.128 * 0.97**stairs, rel=1e-9)


def test_the_staircase_is_timms_step_schedule_per_update() -> None:
    """With the arguments that make timm's follow TensorFlow's; epochs of 40 updates, all 4,000 updates of them."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.128)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="step",
        num_epochs=100,
        decay_epochs=2.4,
        decay_rate=0.97,
        warmup_epochs=5,
        warmup_lr=0,
        step_on_epochs=False,
        updates_per_epoch=40,
        warmup_prefix=False,
    )
    assert scheduler is not None
    config = TrainConfig(lr=0.128, steps=4000, warmup_steps=200, decay_steps=2.4 * 40, decay_rate=0.97)
    for step in range(4000):
        scheduler.step_update(step)
        assert learning_rate(config, step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step


@pytest.mark.parametrize("schedule", ["cosine", "staircase"])
def test_finetuning_has_the_rates_of_the_end_of_the_long_schedule(schedule: str) -> None:
    settings = {"lr": 0.128, "warmup_steps": 50, "decay_steps": 24.5, "schedule": schedule}
    long = TrainConfig(steps=1000, **settings)
    tail = FinetuneConfig(steps=30, schedule_steps=1000, **settings)
    rates = [learning_rate(tail, step) for step in range(30)]
    assert rates == [learning_rate(long, step) for step in range(970, 1000)]
    assert 0 < rates[-1] <= rates[0] < 0.128 / 2


def test_a_tail_as_long_as_its_schedule_is_the_schedule_and_starts_with_its_warm_up() -> None:
    whole = FinetuneConfig(steps=100, schedule_steps=100, warmup_steps=10, lr=0.5)
    own = FinetuneConfig(steps=100, schedule_steps=0, warmup_steps=10, lr=0.5)
    rates = [learning_rate(whole, step) for step in range(100)]
    assert rates == [learning_rate(own, step) for step in range(100)]
    assert (rates[0], rates[5]) == (0.0, 0.25)


def test_a_tail_that_begins_within_the_warm_up_has_what_is_left_of_it() -> None:
    tail = FinetuneConfig(steps=95, schedule_steps=100, warmup_steps=10, lr=0.5, decay_steps=1000)
    assert [learning_rate(tail, step) for step in (0, 4, 5)] == pytest.approx([0.25, 0.45, 0.5])


@pytest.mark.parametrize("schedule", ["cosine", "staircase"])
def test_without_warm_up_the_first_update_has_the_peak_rate(schedule: str) -> None:
    assert learning_rate(TrainConfig(lr=0.3, schedule=schedule), 0) == 0.3


def test_a_run_that_is_all_warm_up_has_a_rate_at_every_update() -> None:
    config = TrainConfig(lr=1.0, steps=10, warmup_steps=10, schedule="cosine")
    assert [learning_rate(config, step) for step in range(10)] == pytest.approx([step / 10 for step in range(10)])
