"""Prefect's server away: what it is only shown costs a warning, and what is worth it is tried again for a while."""

import logging
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import monotonic

import httpx
import pytest

pytestmark = pytest.mark.timeout(300)


class Busy(ThreadingHTTPServer):
    """Answers with these statuses, one after the other."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), BusyHandler)
        self.statuses = list(statuses)
        self.url = f"http://127.0.0.1:{self.server_port}"


class BusyHandler(BaseHTTPRequestHandler):
    server: Busy

    def do_GET(self) -> None:
        self.send_response(self.server.statuses.pop(0))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def busy() -> Iterator[Busy]:
    with Busy(503, 500, 200, 404) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_a_report_is_shown_once_the_server_is_back_and_a_refusal_is_final(busy: Busy) -> None:
    from tasks.advisory import asked

    def request() -> int:
        return httpx.get(busy.url, trust_env=False).raise_for_status().status_code

    assert asked(request) == 200
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        asked(request)
    assert busy.statuses == []


def test_asking_ends_when_the_time_is_over(busy: Busy) -> None:
    from tasks.advisory import asked

    def request() -> httpx.Response:
        return httpx.get("http://127.0.0.1:9", trust_env=False)

    started = monotonic()
    with pytest.raises(httpx.ConnectError):
        asked(request, seconds=0.2)
    assert monotonic() - started < 30


@pytest.mark.usefixtures("prefect_server")
def test_a_stage_goes_on_without_its_progress_bar_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
    from prefect.context import SyncClientContext
    from prefect.runtime import flow_run

    from tasks.work import Bar

    bar = Bar("train-teacher", logging.getLogger("of.a.stage"))

    @flow(name="one-bar")
    def shown() -> str:
        context = SyncClientContext.get()
        assert context is not None
        line = context.client._client
        there, line.base_url = line.base_url, httpx.URL("http://127.0.0.1:9/api")
        for percent in (10.0, 20.0, 30.0):
            bar.show(percent)
        bar.fill()
        line.base_url = there
        bar.show(40.0)
        bar.fill()
        return str(flow_run.id)

    run = shown()
    assert len([line for line in caplog.messages if line.startswith("no progress bar in Prefect for now: ")]) == 1
    with get_client(sync_client=True) as client:
        own = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        (artifact,) = client.read_artifacts(artifact_filter=own)
    assert (artifact.type, artifact.data) == ("progress", 100.0)
