"""`python -m flows.servers`: four real servers, used, killed, restarted and stopped. The tests follow each other."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from uuid import uuid4

import boto3
import psutil
import pytest
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import SyncPrefectClient

from flows.servers.services import BUCKET, NAMES, TITLES
from tests.servers import ServerSet, passwords, running_servers

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def mortal() -> Iterator[ServerSet]:
    """A set that these tests may kill."""
    with running_servers() as started:
        yield started


@dataclass
class Clients:
    """What a run does with the servers, with no S3 credentials but those of `bucket`."""

    servers: ServerSet

    def __post_init__(self) -> None:
        self.environment = self.servers.environment
        self.mlflow = MlflowClient(self.environment["NS_TRACKING_URI"])

    def limit(self, tag: str) -> int:
        """Of Prefect's concurrency limit for the tag."""
        with SyncPrefectClient(self.environment["PREFECT_API_URL"]) as client:
            return client.read_concurrency_limit_by_tag(tag).concurrency_limit

    def set_limit(self, tag: str, limit: int) -> None:
        with SyncPrefectClient(self.environment["PREFECT_API_URL"]) as client:
            client.create_concurrency_limit(tag, limit)

    def keep_text(self, text: str) -> str:
        """In an artifact of a new run, whose id it returns."""
        run = str(self.mlflow.create_run(self.mlflow.create_experiment(uuid4().hex)).info.run_id)
        self.mlflow.log_metric(run, "gen/val_top1", 0.75)
        self.mlflow.log_text(run, text, "notes/text.txt")
        return run

    def kept_text(self, run: str, folder: Path) -> str:
        assert self.mlflow.get_run(run).data.metrics == {"gen/val_top1": 0.75}
        return Path(self.mlflow.download_artifacts(run, "notes/text.txt", str(folder))).read_text(encoding="utf-8")

    def keys(self) -> list[str]:
        """Of all objects in the bucket."""
        client = boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL_S3"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region_name=self.environment["AWS_DEFAULT_REGION"],
        )
        return [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def test_all_four_are_healthy_and_serve_what_a_run_needs(
    mortal: ServerSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    status = mortal("status")
    assert status.status == 0, status.stdout
    lines = status.stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(TITLES.values())
    assert all(line.split()[3] == "healthy" for line in lines), status.stdout
    clients = Clients(mortal)
    clients.set_limit("gpu", 3)
    assert clients.limit("gpu") == 3
    run = clients.keep_text("through MLflow into S3")
    assert clients.kept_text(run, tmp_path) == "through MLflow into S3"
    assert [key for key in clients.keys() if key.startswith("mlflow/") and run in key]  # noqa: SIM118


def test_up_again_changes_nothing(mortal: ServerSet) -> None:
    before = mortal.place.state.read_bytes(), mortal.place.env.read_bytes(), mortal.place.passwords.read_bytes()
    again = mortal("up")
    assert (again.status, again.stderr) == (0, "all four run already\n")
    assert before == (mortal.place.state.read_bytes(), mortal.place.env.read_bytes(), mortal.place.passwords.read_bytes())


def test_other_ports_are_refused_while_the_servers_run(mortal: ServerSet) -> None:
    refused = mortal("up", "--s3-filer-port", "12345")
    assert refused.status == 2
    assert "--s3-filer-port" in refused.stderr
    assert "`down`" in refused.stderr
    assert mortal("status").status == 0


def test_every_socket_is_on_loopback(mortal: ServerSet) -> None:
    listening: dict[int, str] = {}
    for process in mortal.processes():
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM:
                listening[connection.laddr.port] = connection.laddr.ip
    ports = mortal.state.ports
    assert {ports.postgres, ports.s3, ports.s3_filer, ports.prefect, ports.mlflow} <= listening.keys()
    assert all(ip_address(address).is_loopback for address in listening.values()), listening


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_server_is_told_and_started_again_alone_with_its_data(
    mortal: ServerSet, name: str, tmp_path: Path
) -> None:
    """PostgreSQL goes away in mid-use: Prefect and MLflow have connections to it, and are not started again."""
    clients = Clients(mortal)
    clients.set_limit(name, 7)
    run = clients.keep_text(name)
    before = mortal.state.processes
    mortal.kill(name)
    told = mortal("status")
    assert told.status == 1
    (line,) = [line for line in told.stdout.splitlines() if line.startswith(TITLES[name])]
    assert "down" in line
    again = mortal("up")
    assert again.status == 0, again.stderr
    assert again.stderr.endswith(f"started: {TITLES[name]}\n"), again.stderr
    after = mortal.state.processes
    assert {one for one in NAMES if before[one] != after[one]} == {name}
    assert clients.limit(name) == 7
    assert clients.kept_text(run, tmp_path) == name


def test_a_server_that_is_alive_and_answers_nobody_is_started_again(mortal: ServerSet) -> None:
    before = mortal.state.processes["s3"]
    psutil.Process(before.pid).suspend()
    assert "no answer" in mortal("status").stdout


def test_no_password_is_where_others_may_read_it(mortal: ServerSet) -> None:
    outputs = [mortal("status"), mortal("up")]
    texts = [part for outcome in outputs for part in (outcome.stdout, outcome.stderr)]
    texts += [" ".join(process.cmdline()) for process in mortal.processes()]
    texts += [path.read_text(encoding="utf-8", errors="replace") for path in mortal.place.root.glob("logs/*")]
    assert len(texts) > 12
    for password in passwords(mortal):
        assert not [text for text in texts if password in text]
    for secret in (mortal.place.passwords, mortal.place.env):
        assert secret.stat().st_mode & 0o777 == 0o600


def test_an_up_that_was_killed_half_way_is_taken_up_by_the_next(mortal: ServerSet) -> None:
    assert mortal("down").status == 0
    killed = mortal.start("up")
    assert killed.stderr is not None
    for line in killed.stderr:
        if TITLES["prefect"] in line:
            break
    killed.kill()
    killed.communicate()
    half = mortal.state.processes
    assert {"postgres", "s3"} <= half.keys()
    again = mortal("up")
    assert again.status == 0, again.stderr
    after = mortal.state.processes
    assert (half["postgres"], half["s3"]) == (after["postgres"], after["s3"])
    leaders = [process.pid for process in mortal.processes() if process.parent() not in mortal.processes()]
    assert sorted(leaders) == sorted(record.pid for record in after.values()), "one of each"


def test_after_down_nothing_is_left_and_down_again_is_fine(mortal: ServerSet) -> None:
    numbers = [str(getattr(mortal.state.ports, name)) for name in ("s3", "s3_filer")]
    first = mortal("down")
    assert (first.status, first.stderr) == (0, "stopped: Prefect, MLflow, PostgreSQL, S3\n")
    assert mortal.processes() == []
    assert not [path for number in numbers for path in Path("/tmp").glob(f"seaweedfs-*{number}.sock")]
    again = mortal("down")
    assert (again.status, again.stderr) == (0, "nothing runs\n")
    assert mortal("status").status == 1


def test_a_port_in_use_is_told_with_its_option_before_anything_is_started(mortal: ServerSet) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        refused = mortal("up", "--mlflow-port", str(port))
    assert refused.status == 2
    assert f"port {port}" in refused.stderr
    assert "--mlflow-port" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert mortal.processes() == []
