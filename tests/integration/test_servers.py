"""`python -m flows.servers`: four real servers, used, killed, restarted and stopped. The tests follow each other."""

import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from uuid import uuid4

import boto3
import psutil
import psycopg2
import pytest
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from psycopg2.extras import wait_select

from flows.servers import postgres, processes
from flows.servers.lifecycle import Wanted, up
from flows.servers.services import BUCKET, NAMES, TITLES
from tests.servers import ServerSet, running_servers, secrets_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def mortal() -> Iterator[ServerSet]:
    """A set that these tests may kill."""
    with running_servers() as started:
        yield started


def test_a_cluster_whose_making_was_cut_short_is_made_anew_and_then_left_alone() -> None:
    if not postgres.installed():
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        cluster = Path(folder) / "postgres"
        (cluster / "data.new" / "base").mkdir(parents=True)
        (cluster / "password.new").write_text("left over", encoding="ascii")
        postgres.make(cluster, "x" * 24)
        assert {path.name for path in cluster.iterdir()} == {"data"}
        made = (cluster / "data" / "PG_VERSION").stat()
        postgres.make(cluster, "y" * 24)
        assert (cluster / "data" / "PG_VERSION").stat() == made


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
    assert before == (
        mortal.place.state.read_bytes(),
        mortal.place.env.read_bytes(),
        mortal.place.passwords.read_bytes(),
    )


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


def test_a_query_that_outlives_postgresql_does_not_keep_it_from_starting(mortal: ServerSet) -> None:
    """A busy backend notices its server's death only at the end of its query, and holds the data until then."""
    (password, _), record = secrets_of(mortal), mortal.state.processes["postgres"]
    login = {"host": "127.0.0.1", "port": mortal.state.ports.postgres, "user": postgres.USER, "password": password}
    with closing(psycopg2.connect(dbname="mlflow", async_=1, **login)) as connection:
        wait_select(connection)
        connection.cursor().execute("select count(*) from generate_series(1, 30000000000)")
        mortal.kill("postgres")
        backend = connection.info.backend_pid
        assert backend in processes.members(record)
        again = mortal("up")
    assert again.status == 0, again.stderr
    assert again.stderr.endswith("started: PostgreSQL\n")
    assert backend not in processes.members(mortal.state.processes["postgres"])


def test_a_server_that_lives_and_answers_nobody_is_started_again(
    mortal: ServerSet, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A stopped process takes no SIGTERM: it gets SIGKILL when its grace, here half a second, is over."""
    state = mortal.state
    hung = state.processes["s3"]
    state.processes["s3"] = replace(hung, grace_seconds=0.5)
    state.save(mortal.place)
    psutil.Process(hung.pid).suspend()
    assert "no answer" in mortal("status").stdout
    monkeypatch.setattr("flows.servers.lifecycle.SILENT_SECONDS", 1.0)
    monkeypatch.setattr("flows.servers.processes.age_seconds", lambda record: 1e6)
    assert up(mortal.home, Wanted({})) == 0
    assert "S3 does not answer\nstarting S3 ...\nstarted: S3\n" in capfd.readouterr().err
    assert processes.members(hung) == {}
    assert mortal("status").status == 0


def test_no_password_is_where_others_may_read_it(mortal: ServerSet) -> None:
    outputs = [mortal("status"), mortal("up")]
    texts = [part for outcome in outputs for part in (outcome.stdout, outcome.stderr)]
    texts += [" ".join(process.cmdline()) for process in mortal.processes()]
    texts += [path.read_text(encoding="utf-8", errors="replace") for path in mortal.place.root.glob("logs/*")]
    assert len(texts) > 12
    for password in secrets_of(mortal):
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
