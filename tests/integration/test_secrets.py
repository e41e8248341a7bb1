"""Credentials come from a worker's environment and go nowhere: after a run they are in no record, log, parameter or
artifact. The tests follow each other: the run, then the same search for secrets that were put in each place."""

import base64
import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from flows.servers.services import BUCKET
from ns_core.errors import UserError
from ns_core.tracking import Tracker
from tests.campaigns import Campaign, deployed_in_s3, mlflow_client, smallest
from tests.deployed import Deployed
from tests.planted import forms_of, leaks, opened, s3_client
from tests.servers import running_servers, secrets_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

PLANTED = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_AUTH_STRING", "HF_TOKEN")
"""Variables that a team's servers may ask for; these servers take whatever comes."""
ATTEMPT = "prefect-workspace-attempt-*"
"""Folder in which Prefect's worker hands its environment on to a run; removed when the run's process has ended."""


@pytest.fixture(scope="module")
def planted() -> dict[str, str]:
    """Variable -> secret."""
    return {name: f"planted{token_hex(16)}" for name in PLANTED}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, planted: dict[str, str]) -> Iterator[Deployed]:
    with running_servers() as servers, deployed_in_s3(servers, tmp_path_factory.mktemp("worker")) as made:
        made.stop_worker()
        (made.folder / "tmp").mkdir()
        made.extra = {**planted, "TMPDIR": str(made.folder / "tmp")}
        made.start_worker()
        yield made


def test_after_a_run_no_secret_of_the_worker_is_anywhere(deployed: Deployed, planted: dict[str, str]) -> None:
    secrets = [*planted.values(), *secrets_of(deployed.servers)]
    assert deployed.environment["AWS_SECRET_ACCESS_KEY"] in secrets
    campaign = Campaign.start(deployed, smallest())
    worker = campaign.worker_of("train-noisy-student")
    environment, commands = worker.environ(), [" ".join(one.cmdline()) for one in (worker, *deployed.family())]
    assert planted.items() <= environment.items(), "they are where a stage could tell them"
    assert not [command for command in commands if any(secret in command for secret in secrets)]
    attempts = list((deployed.folder / "tmp").glob(ATTEMPT))
    assert [folder.stat().st_mode & 0o077 for folder in attempts] == [0], "only its own account may look into it"
    run = campaign.completed()
    assert set(deployed.states(run).values()) == {"computed"}
    handed_on = deployed.folder / "tmp"  # the flow's environment, in a private file until its process has ended
    deployed.until(lambda: not list(handed_on.glob(ATTEMPT)), 120, "Prefect removes the files of the run")
    assert deployed.family() == []
    assert leaks(deployed, secrets) == []


def test_an_address_of_mlflow_with_a_password_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a password goes into MLFLOW_TRACKING_PASSWORD") as caught:
        Tracker("http://somebody:hunter2hunter2@127.0.0.1:5000", "noisy-student", tmp_path)
    assert "hunter2" not in str(caught.value)


def _packed(secret: str) -> dict[str, bytes]:
    """Kind of file -> one that holds the secret where no plain search finds it."""
    parquet, archive, tar, picture = (io.BytesIO() for _ in range(4))
    pq.write_table(pa.table({"note": [secret]}), parquet, compression="gzip", write_statistics=False)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("deep/note.txt", f"{secret} " * 9)
    text = PngImagePlugin.PngInfo()
    text.add_text("note", secret, zip=True)
    Image.new("L", (4, 4)).save(picture, "PNG", pnginfo=text)
    with tarfile.open(fileobj=tar, mode="w") as shard:
        member = tarfile.TarInfo("0001.png")
        member.size = len(picture.getvalue())
        shard.addfile(member, io.BytesIO(picture.getvalue()))
    plain = {"table.parquet": parquet, "archive.zip": archive, "shard.tar": tar, "picture.png": picture}
    return {**{name: file.getvalue() for name, file in plain.items()}, "log.gz": gzip.compress(secret.encode())}


def test_the_search_opens_what_is_packed_and_knows_what_is_coded() -> None:
    secret = token_hex(16)
    forms = forms_of(secret)
    for name, data in _packed(secret).items():
        assert secret.encode() not in data, f"{name} is no proof"
        assert any(form in part for _, part in opened(name, data) for form in forms), name
    for user in ("", "a", "ab", "abc"):
        header = base64.b64encode(f"{user}:{secret}:{user}".encode())
        assert any(form in header for form in forms), user


def test_the_search_finds_a_secret_in_each_place(deployed: Deployed) -> None:
    """One secret for all; the places are those of the run before."""
    secret, client, expected = token_hex(16), mlflow_client(deployed), set[str]()
    for name, data in {**_packed(secret), "record.json": secret.encode()}.items():
        s3_client(deployed).put_object(Bucket=BUCKET, Key=f"planted/{name}", Body=data)
    s3_client(deployed).put_object(Bucket=BUCKET, Key="planted/metadata", Metadata={"note": secret})
    expected |= {f"s3/planted/{name}" for name in ("record.json", "metadata", "picture.png", "table.parquet", "log.gz")}
    expected |= {"s3/planted/archive.zip/deep/note.txt", "s3/planted/shard.tar/0001.png"}

    run = client.create_run(client.create_experiment("planted"), tags={"note": secret}).info.run_id
    client.log_param(run, "note", secret)
    client.log_metric(run, secret, 1.0)
    client.log_text(run, secret, "note.txt")
    expected |= {"mlflow/tags", "mlflow/params", "mlflow/metrics", "mlflow/latest_metrics"}

    flow = deployed.api.post("/flows/", json={"name": "planted"}).raise_for_status().json()["id"]
    body = {"flow_id": flow, "name": "planted", "parameters": {"note": secret}, "state": {"type": "COMPLETED"}}
    flow_run = deployed.api.post("/flow_runs/", json=body).raise_for_status().json()["id"]
    line = {"name": "planted", "level": 20, "message": secret, "timestamp": "2026-01-01T00:00:00Z"}
    deployed.api.post("/logs/", json=[{**line, "flow_run_id": flow_run}]).raise_for_status()
    deployed.api.post("/artifacts/", json={"key": "planted", "type": "markdown", "data": secret}).raise_for_status()
    deployed.api.post("/variables/", json={"name": "planted", "value": secret}).raise_for_status()
    expected |= {f"prefect/{table}" for table in ("flow_run", "log", "artifact", "variable")}

    for folder in (deployed.home, deployed.folder / "tmp", deployed.servers.place.root / "logs"):
        (folder / "planted.txt").write_text(secret, encoding="ascii")
    expected |= {"worker/home/planted.txt", "worker/tmp/planted.txt", "servers/logs/planted.txt"}

    deployed.until(lambda: expected <= set(leaks(deployed, [secret])), 60, "the log line is in the database")
    found = set(leaks(deployed, [secret]))
    assert [place for place in found if place.startswith("s3/mlflow/") and place.endswith("note.txt")]
