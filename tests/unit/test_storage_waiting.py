"""Waiting for an S3 server that is away: told once, bounded, and only for what another try may cure."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from ns_core.errors import NotFound, StageFailed, Unreachable, UserError
from ns_core.storage import Storage, open_storage
from ns_core.storage.s3 import S3Storage
from ns_core.storage.waiting import Waiting
from tests.scripted_s3 import ScriptedS3


class Clock:
    """A clock that only `sleep` moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def failing(clock: Clock, until: float) -> Callable[[], str]:
    """A request that fails until the clock shows `until`."""

    def request() -> str:
        if clock() < until:
            raise ConnectionError("refused\nby the server")
        return "answer"

    return request


def is_connection(error: Exception) -> bool:
    return isinstance(error, ConnectionError)


def test_an_outage_costs_time_and_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    waiting = Waiting("S3 http://s3", 120.0, clock, clock.sleep)
    assert waiting(failing(clock, 130.0), is_connection) == "answer"
    assert waiting(failing(clock, 130.0), is_connection) == "answer"
    first, second = caplog.messages
    assert first == "S3 http://s3 does not answer (refused by the server); trying again for up to 120 s"
    assert second.startswith("S3 http://s3 is back after 3")
    assert max(clock.slept) <= 8.0
    assert clock.now < 130.0 + 8.0


def test_the_time_is_bounded_and_the_end_is_one_line() -> None:
    clock = Clock()
    with pytest.raises(StageFailed, match=r"^S3 http://s3: no answer for 120 s: refused by the server; ") as told:
        Waiting("S3 http://s3", 120.0, clock, clock.sleep)(failing(clock, 1e9), is_connection)
    assert "\n" not in str(told.value)
    assert clock.now == pytest.approx(220.0)
    assert len(clock.slept) < 120, "it does not knock all the time"


def test_what_no_second_try_cures_is_raised_at_once() -> None:
    clock = Clock()

    def request() -> str:
        raise NotFound("key")

    with pytest.raises(NotFound):
        Waiting("S3", 120.0, clock, clock.sleep)(request, is_connection)
    with pytest.raises(ConnectionError):
        Waiting("S3", 0.0, clock, clock.sleep)(failing(clock, 1e9), is_connection)
    assert clock.slept == []


class Late(ScriptedS3):
    """A server that has its port and listens only from `arrive` on: until then connections are refused."""

    arrived = False

    def server_activate(self) -> None:
        pass

    def arrive(self) -> None:
        self.arrived = True
        super().server_activate()
        Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class FirstWord(logging.Handler):
    """Does something once, at the first line of the log."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self.actions = [action]

    def emit(self, record: logging.LogRecord) -> None:
        if self.actions:
            self.actions.pop()()


@contextmanager
def at_the_first_word(action: Callable[[], None]) -> Iterator[None]:
    """Inside, `action` is done as soon as the storage says that a server is away."""
    handler, logger = FirstWord(action), logging.getLogger("noisy_student.storage")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert handler.actions == [], "it was said"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Late]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Late() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        yield server
        if server.arrived:
            server.shutdown()


USES: dict[str, Callable[[Storage, Path], object]] = {
    "read": lambda storage, path: storage.read("key"),
    "read_range": lambda storage, path: storage.read_range("key", 1, 2),
    "no bytes": lambda storage, path: storage.read_range("key", 0, 0),
    "size": lambda storage, path: storage.size("key"),
    "list": lambda storage, path: list(storage.list("")),
    "fetch": lambda storage, path: storage.fetch("key", path / "fetched"),
    "put_bytes": lambda storage, path: storage.put_bytes("key", b"new"),
    "put_file": lambda storage, path: storage.put_file("key", Path(__file__)),
    "create": lambda storage, path: storage.create("other", b"new"),
    "delete": lambda storage, path: storage.delete("key"),
    "delete_tree": lambda storage, path: storage.delete_tree("folder/"),
}


@pytest.mark.parametrize("use", USES)
def test_every_request_outlives_an_outage(server: Late, tmp_path: Path, use: str) -> None:
    server.objects = {"/bucket/key": b"data", "/bucket/folder/key": b"data"}
    storage = S3Storage("bucket", "", retries=0, patience=60.0)
    with at_the_first_word(server.arrive):
        USES[use](storage, tmp_path)
    assert use != "delete_tree" or "/bucket/folder/key" not in server.objects


def test_a_server_that_is_too_busy_is_asked_again(server: Late) -> None:
    server.arrive()
    server.objects, server.refusal = {"/bucket/key": b"data"}, "SlowDown"
    with at_the_first_word(lambda: setattr(server, "refusal", "")):
        assert S3Storage("bucket", "", retries=0, patience=60.0).read("key") == b"data"


def test_a_refusal_is_no_outage(server: Late) -> None:
    server.arrive()
    server.refusal = "AccessDenied"
    with pytest.raises(UserError, match="AccessDenied"):
        open_storage("s3://bucket").read("key")


def test_who_names_the_retries_waits_by_himself(server: Late) -> None:
    with pytest.raises(Unreachable, match="check AWS_ENDPOINT_URL_S3"):
        open_storage("s3://bucket", retries=0).read("key")
