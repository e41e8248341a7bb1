"""Learning rates at points worked out by hand."""

import pytest

from ns_core.config import TrainConfig
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


def test_the_official_rate_falls_by_3_percent_every_2_4_epochs() -> None:
    """google-research/noisystudent: 0.128 at 2048 labelled images, 1,281,167 images an epoch."""
    epoch = 1_281_167 / 2048
    config = TrainConfig(
        lr=0.128, steps=218_949, decay_steps=2.4 * epoch, decay_rate=0.97, warmup_steps=round(5 * epoch)
    )
    assert learning_rate(config, round(100.5 * epoch)) == pytest.approx(0.128 * 0.97**41, rel=1e-9)
    assert learning_rate(config, round(349 * epoch)) == pytest.approx(0.128 * 0.97**145, rel=1e-9)


@pytest.mark.parametrize("schedule", ["cosine", "staircase"])
def test_without_warm_up_the_first_update_has_the_peak_rate(schedule: str) -> None:
    assert learning_rate(TrainConfig(lr=0.3, schedule=schedule), 0) == 0.3


def test_a_run_that_is_all_warm_up_has_a_rate_at_every_update() -> None:
    config = TrainConfig(lr=1.0, steps=10, warmup_steps=10, schedule="cosine")
    assert [learning_rate(config, step) for step in range(10)] == pytest.approx([step / 10 for step in range(10)])
