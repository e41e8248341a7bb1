"""A server that is away is waited for, and told of once; a mistake is not."""

import itertools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from ns_core.data.patience import Patience
from ns_core.errors import NotFound, StageFailed, UserError
from ns_core.stage import Stopped
from ns_core.storage import open_storage


class Clock:
    """Time that passes while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def failing(error: Exception, clock: Clock, until: float) -> Callable[[], str]:
    """A request that fails until a time of the clock."""

    def request() -> str:
        if clock.now < until:
            raise error
        return "answer"

    return request


@pytest.mark.parametrize("away", [0.0, 1.0, 120.0, 290.0])
def test_an_outage_within_the_deadline_ends_in_the_answer_and_two_lines(
    away: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "noisy_student")
    clock = Clock()
    patience = Patience(deadline=300.0, clock=clock, sleep=clock.sleep)
    assert patience(failing(OSError("s3://b/k: reset"), clock, away)) == "answer"
    if away:
        first, last = caplog.messages
        assert first == "s3://b/k: reset; trying again for up to 300 s"
        assert last == f"the server is back after {clock.now:.0f} s"
    else:
        assert caplog.messages == []


def test_an_outage_beyond_the_deadline_fails_the_stage_with_its_length_and_reason() -> None:
    clock = Clock()
    patience = Patience(deadline=300.0, clock=clock, sleep=clock.sleep)
    with pytest.raises(StageFailed, match=r"no answer for 3\d\d s: s3://b/k: reset"):
        patience(failing(OSError("s3://b/k: reset"), clock, 10_000))
    assert 300 <= clock.now < 311


def test_waits_are_drawn_anew_for_each_reader_and_grow() -> None:
    tries = []
    for _ in range(30):
        clock, times = Clock(), list[float]()

        def request(clock: Clock = clock, times: list[float] = times) -> None:
            times.append(clock.now)
            if clock.now < 200:
                raise OSError

        Patience(deadline=300.0, clock=clock, sleep=clock.sleep)(request)
        tries.append(tuple(times))
        assert max(clock.slept) <= 0.5, "SIGTERM is seen twice a second"
    waits = [np.diff(times) for times in tries]
    assert len(set(tries)) == 30
    assert max(wait[0] for wait in waits) <= 0.5
    assert max(wait.max() for wait in waits) <= 10.01
    assert 4 < np.mean([wait[6:-1].mean() for wait in waits]) < 6


def test_sigterm_ends_the_waiting() -> None:
    clock = Clock()
    patience = Patience(lambda: clock.now > 5, clock=clock, sleep=clock.sleep)
    with pytest.raises(Stopped):
        patience(failing(OSError(), clock, 10_000))
    assert clock.now < 6


@pytest.mark.parametrize("error", [UserError("no such bucket"), NotFound("key"), ValueError("defect")])
def test_what_a_second_try_would_not_cure_comes_out_at_once(error: Exception) -> None:
    clock = Clock()
    with pytest.raises(type(error)):
        Patience(clock=clock, sleep=clock.sleep)(failing(error, clock, 1))
    assert clock.slept == []


def test_an_endpoint_where_nobody_answers_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage tells it as a person's mistake, which a server that is restarted is not."""
    for name, value in {
        "ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "ACCESS_KEY_ID": "k",
        "SECRET_ACCESS_KEY": "s",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    storage, clock = open_storage("s3://bucket", retries=0), Clock()
    with pytest.raises(UserError):
        storage.size("key")
    with pytest.raises(StageFailed, match="no answer for"):
        Patience(deadline=10.0, clock=clock, sleep=clock.sleep)(lambda: storage.size("key"))
    assert clock.now >= 10


def test_threads_tell_of_one_outage_once(caplog: pytest.LogCaptureFixture) -> None:
    """All four have failed before any is answered."""
    caplog.set_level(logging.INFO, "noisy_student")
    clock, together = Clock(), Barrier(4)
    patience = Patience(clock=clock, sleep=clock.sleep)

    def work(_: int) -> str:
        tries = itertools.count()

        def request() -> str:
            if next(tries) == 0:
                raise OSError("reset")
            together.wait(60)
            return "answer"

        return patience(request)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == ["answer"] * 4
    told, back = caplog.messages
    assert told.startswith("reset; trying again")
    assert back.startswith("the server is back")
