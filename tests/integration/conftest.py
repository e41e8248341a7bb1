"""A real S3 server for the integration tests.

`s3_server` runs one for the session; `s3_store_uri` is an empty prefix in its bucket for one test,
with endpoint and credentials in the environment, where child processes find them too. `mortal_s3` is a
server of one test's own, which it may kill and start again.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest

from tests.seaweedfs import BUCKET, SeaweedFS


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """A running server, as the environment variables that lead to its bucket `BUCKET`."""
    server = SeaweedFS(tmp_path_factory.mktemp("seaweedfs"))
    try:
        server.start()
        yield server.environment
    finally:
        server.kill()


@pytest.fixture
def mortal_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SeaweedFS]:
    """A running server of this test's own, which it may kill, with the environment that leads there."""
    (tmp_path / "seaweedfs").mkdir()
    server = SeaweedFS(tmp_path / "seaweedfs")
    try:
        server.start()
        lead_to(server.environment, monkeypatch)
        yield server
    finally:
        server.kill()


def lead_to(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients made from now on use this server."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3_store_uri(s3_server: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a store that no other test uses."""
    lead_to(s3_server, monkeypatch)
    return f"s3://{BUCKET}/{uuid4().hex}"
