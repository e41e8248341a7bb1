"""What is said of the speed adds up."""

import time
from collections.abc import Iterator

import pytest

from ns_core.training.meter import Meter


def _busy(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def _batches(count: int, seconds: float) -> Iterator[int]:
    for number in range(count):
        _busy(seconds)
        yield number


def _run(meter: Meter, batches: int, wait: float, work: float) -> None:
    for _ in meter.waiting(_batches(batches, wait)):
        _busy(work)
        meter.done()


def test_images_a_second_and_the_share_of_waiting_are_those_of_the_loop() -> None:
    meter = Meter(images=32)
    began = time.perf_counter()
    _run(meter, 10, wait=0.002, work=0.006)
    elapsed = time.perf_counter() - began
    speed = meter.take()
    assert speed is not None
    assert speed.images_per_second == pytest.approx(320 / elapsed, rel=0.05)
    assert 0.15 < speed.data_wait < 0.5
    median, slow, slowest = speed.step_ms
    assert 8 <= median <= slow <= slowest <= 1e3 * elapsed


def test_a_loop_that_never_waits_says_so() -> None:
    meter = Meter(images=1)
    _run(meter, 5, wait=0.0, work=0.003)
    speed = meter.take()
    assert speed is not None
    assert speed.data_wait < 0.05


def test_what_was_told_once_is_not_told_again_and_what_lies_between_updates_is_no_wait() -> None:
    meter = Meter(images=1)
    for number in meter.waiting(_batches(4, 0.0)):
        meter.done()
        if number == 1:
            first = meter.take()
            _busy(0.05)  # the holdout is looked at
    second = meter.take()
    assert first is not None
    assert second is not None
    assert second.step_ms[2] < 40
    assert meter.take() is None


def test_the_progress_line_and_the_metrics_have_words_for_it() -> None:
    meter = Meter(images=1000)
    _run(meter, 3, wait=0.0, work=0.002)
    assert " images/s, data wait " in meter.recent()
    speed = meter.take()
    assert speed is not None
    assert set(speed.points("train")) == {
        f"train/{name}" for name in ("images_per_second", "data_wait", "step_ms_p50", "step_ms_p95", "step_ms_p99")
    }
    assert "step " in str(speed)
