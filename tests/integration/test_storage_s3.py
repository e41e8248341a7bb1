"""A store on a real S3 server: the contract of every store, and what only S3 can get wrong."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from ns_core.errors import UserError
from ns_core.storage import Storage, open_storage, probe
from tests.storage_contract import StorageContract

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2]
PUT_FILE = """
import sys
from pathlib import Path
from ns_core.storage import open_storage
open_storage(sys.argv[1]).put_file("key", Path(sys.argv[2]))
"""


@pytest.fixture
def storage(s3_store_uri: str) -> Storage:
    return open_storage(s3_store_uri)


class TestS3Storage(StorageContract):
    def test_there_is_no_local_path(self, storage: Storage) -> None:
        storage.put_bytes("key", b"")
        assert storage.local_path("key") is None


def large_file(folder: Path) -> Path:
    """A file that is uploaded, moved and fetched in parts, and whose bytes tell their place."""
    path = folder / "large"
    with path.open("wb") as stream:
        for block in range(40):
            stream.write(hashlib.sha256(b"%d" % block).digest() * (1 << 15))
    return path


def test_a_file_of_many_parts_comes_back_whole(storage: Storage, tmp_path: Path) -> None:
    source = large_file(tmp_path)
    storage.put_file("key", source)
    storage.move("key", "moved")
    storage.fetch("moved", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == source.read_bytes()
    assert storage.read_range("moved", 17 << 20, 64) == source.read_bytes()[17 << 20 :][:64]
    assert list(storage.list("")) == ["moved"]


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_writer_killed_in_the_middle_of_an_upload_leaves_the_object_as_it_was(
    storage: Storage, tmp_path: Path, old: bytes | None
) -> None:
    if old is not None:
        storage.put_bytes("key", old)
    bucket, _, prefix = storage.uri.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    uploads: list[dict[str, str]] = []
    command = [sys.executable, "-c", PUT_FILE, storage.uri, str(large_file(tmp_path))]
    writer = subprocess.Popen(command, cwd=REPOSITORY)
    try:
        while not uploads:
            assert writer.poll() is None, "the writer ended before its upload was seen"
            answer = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
            uploads = answer.get("Uploads", [])
    finally:
        writer.kill()
        writer.wait()
    assert uploads[0]["Key"] == f"{prefix}/key"
    assert storage.size("key") == (None if old is None else len(old))
    assert list(storage.list("")) == ([] if old is None else ["key"])
    assert storage.create("key", b"new") is (old is None)


def test_the_stores_of_two_prefixes_do_not_see_each_other(storage: Storage) -> None:
    beside = open_storage(f"{storage.uri}-beside")
    beside.put_bytes("key", b"")
    storage.put_bytes("key", b"")
    assert list(storage.list("")) == ["key"]
    storage.delete("key")
    assert list(beside.list("")) == ["key"]


def test_the_probe_tells_a_missing_bucket_and_does_not_make_it(s3_store_uri: str) -> None:
    storage = open_storage("s3://no-such-bucket/runs")
    for _ in range(2):
        with pytest.raises(UserError, match=r"s3://no-such-bucket/runs.*create the bucket"):
            probe(storage)


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_a_persons_mistake(s3_store_uri: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, os.environ[name] + "-mistyped")
    storage = open_storage(s3_store_uri)
    with pytest.raises(UserError, match="check AWS_ACCESS_KEY_ID") as told:
        probe(storage)
    assert s3_store_uri in str(told.value)
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="check AWS_ACCESS_KEY_ID"):
        storage.size("key")
    with pytest.raises(UserError, match="check AWS_ACCESS_KEY_ID"):
        storage.put_file("key", Path(__file__))
