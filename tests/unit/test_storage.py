"""A store in a local directory, and what needs no real server to be shown of one on S3.

The same contract runs against a real S3 server in tests/integration/test_storage_s3.py.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from ns_core.errors import UserError
from ns_core.storage import Storage, open_storage, probe
from tests.scripted_s3 import ScriptedS3
from tests.storage_contract import StorageContract

REPOSITORY = Path(__file__).resolve().parents[2]
PUT_FILE = """
import sys
from pathlib import Path
from ns_core.storage import open_storage
open_storage(sys.argv[1]).put_file("folder/key", Path(sys.argv[2]))
"""


class TestLocalStorage(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return open_storage(str(tmp_path / "store"))

    @pytest.mark.parametrize("old", [None, b"old"])
    def test_a_writer_killed_in_the_middle_leaves_the_object_as_it_was(
        self, storage: Storage, tmp_path: Path, old: bytes | None
    ) -> None:
        if old is not None:
            storage.put_bytes("folder/key", old)
        before = list(storage.list(""))
        source = tmp_path / "pipe"
        os.mkfifo(source)
        command = [sys.executable, "-c", PUT_FILE, storage.uri, str(source)]
        writer = subprocess.Popen(command, cwd=REPOSITORY)
        with source.open("wb") as pipe:
            # A pipe holds 64 KiB: once this returns, the writer has copied some and waits for more.
            pipe.write(bytes(4 << 20))
            writer.kill()
            writer.wait()
        folder = tmp_path / "store" / "folder"
        assert [path.stat().st_size > 0 for path in folder.glob(".tmp-*")] == [True]
        assert list(storage.list("")) == before
        assert storage.size("folder/key") == (None if old is None else len(old))
        storage.put_bytes("folder/key", b"new")
        assert storage.read("folder/key") == b"new"
        storage.delete_tree("folder/")
        assert not folder.exists()

    def test_nothing_but_the_object_is_left_behind(self, storage: Storage, tmp_path: Path) -> None:
        storage.put_bytes("a", b"")
        storage.create("b", b"")
        storage.create("b", b"")
        with pytest.raises(FileNotFoundError):
            storage.put_file("c", tmp_path / "absent")
        assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["a", "b"]
        assert (tmp_path / "store" / "b").stat().st_nlink == 1

    def test_files_get_the_permissions_of_the_umask(self, storage: Storage, tmp_path: Path) -> None:
        before = os.umask(0o027)
        try:
            storage.put_bytes("put", b"")
            storage.create("created", b"")
            storage.fetch("put", tmp_path / "fetched")
        finally:
            os.umask(before)
        files = [storage.local_path("put"), storage.local_path("created"), tmp_path / "fetched"]
        assert [path.stat().st_mode & 0o777 for path in files if path] == [0o640] * 3

    def test_the_probe_leaves_no_folder(self, storage: Storage, tmp_path: Path) -> None:
        probe(storage)
        assert list((tmp_path / "store").iterdir()) == []

    def test_local_path_is_the_file_itself(self, storage: Storage, tmp_path: Path) -> None:
        storage.put_bytes("folder/key", b"data")
        assert storage.local_path("folder/key") == tmp_path / "store" / "folder" / "key"

    def test_a_create_below_a_file_fails_and_is_not_taken_for_lost(self, storage: Storage) -> None:
        storage.put_bytes("file", b"")
        with pytest.raises(NotADirectoryError):
            storage.create("file/key", b"")


def test_a_store_is_named_by_path_or_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert open_storage("runs/../store/").uri == f"{tmp_path}/store"
    assert open_storage("~/store").uri == "/home/somebody/store"
    assert open_storage("file:///a/with%20space").uri == "/a/with space"
    assert list(tmp_path.iterdir()) == []


def test_an_s3_uri_is_made_canonical() -> None:
    assert open_storage("s3://bucket").uri == "s3://bucket"
    assert open_storage("s3://bucket/").uri == "s3://bucket"
    assert open_storage("s3://bucket/some/prefix/").uri == "s3://bucket/some/prefix"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "s3://",
        "s3:///key",
        "s3:/bucket",
        "s3://b/a/../c",
        "s3://b//a",
        "gs://b",
        "file://host/a",
    ],
)
def test_a_uri_that_names_no_store_is_refused_with_the_right_form(uri: str) -> None:
    with pytest.raises(UserError, match="write it as s3://"):
        open_storage(uri)


@pytest.mark.parametrize("place", ["/proc/nope", "file/store"])
def test_the_probe_tells_a_place_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    uri = str(tmp_path / place)
    with pytest.raises(UserError, match="is not writable") as told:
        probe(open_storage(uri))
    assert str(told.value).startswith(f"store {uri} ")
    assert "\n" not in str(told.value)


def test_importing_storage_or_opening_a_directory_loads_no_boto3() -> None:
    code = (
        "import sys; from ns_core.storage import open_storage; open_storage('/tmp');"
        "sys.exit(bool({'boto3', 'botocore', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An AWS environment that owes nothing to the machine's own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    return monkeypatch


@pytest.fixture
def server(aws: pytest.MonkeyPatch) -> Iterator[ScriptedS3]:
    aws.setenv("AWS_ACCESS_KEY_ID", "key")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with ScriptedS3() as server:
        aws.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_the_probe_refuses_a_server_that_ignores_if_none_match(server: ScriptedS3) -> None:
    server.honours_conditions = False
    with pytest.raises(UserError, match=r"store s3://bucket/runs .*If-None-Match"):
        probe(open_storage("s3://bucket/runs"))
    assert server.objects == {}
    server.honours_conditions = True
    probe(open_storage("s3://bucket/runs"))
    assert server.objects == {}


def test_a_body_that_breaks_off_is_read_again(server: ScriptedS3) -> None:
    storage = open_storage("s3://bucket")
    storage.put_bytes("key", bytes(range(200)))
    server.broken_bodies = 2
    assert storage.read("key") == bytes(range(200))
    server.broken_bodies = 2
    assert storage.read_range("key", 10, 50) == bytes(range(10, 60))


def test_a_body_that_always_breaks_off_is_an_error_and_never_short(server: ScriptedS3) -> None:
    storage = open_storage("s3://bucket")
    storage.put_bytes("key", bytes(200))
    server.broken_bodies = 1000
    with pytest.raises(OSError, match="s3://bucket/key"):
        storage.read("key")
    with pytest.raises(OSError, match="s3://bucket/key"):
        storage.read_range("key", 0, 200)


def test_a_broken_fetch_goes_on_or_leaves_the_file(server: ScriptedS3, tmp_path: Path) -> None:
    storage = open_storage("s3://bucket")
    storage.put_bytes("key", bytes(range(200)))
    target = tmp_path / "file"
    target.write_bytes(b"old")
    server.broken_bodies = 1000
    with pytest.raises(OSError, match="s3://bucket/key"):
        storage.fetch("key", target)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]
    server.broken_bodies = 2
    storage.fetch("key", target)
    assert target.read_bytes() == bytes(range(200))


def test_a_conflict_is_tried_again_because_it_names_no_winner(server: ScriptedS3) -> None:
    storage = open_storage("s3://bucket")
    server.conflicts = 2
    assert storage.create("key", b"first") is True
    server.conflicts = 2
    assert storage.create("key", b"second") is False
    server.conflicts = 1000
    with pytest.raises(OSError, match="conflict"):
        storage.create("other", b"")
    assert server.objects == {"/bucket/key": b"first"}


def test_a_listing_of_many_pages_is_whole_and_sorted_and_shows_no_folders(
    server: ScriptedS3,
) -> None:
    keys = [f"folder/{number:04}" for number in range(1001)]
    server.objects = {f"/bucket/runs/{key}": b"" for key in ["folder/", *reversed(keys)]}
    assert list(open_storage("s3://bucket/runs").list("")) == keys


def test_delete_tree_removes_more_keys_than_one_request_may_name(server: ScriptedS3) -> None:
    server.objects = {f"/bucket/runs/folder/{number}": b"" for number in range(1001)}
    server.objects["/bucket/runs/folder-beside"] = b""
    open_storage("s3://bucket/runs").delete_tree("folder/")
    assert server.objects == {"/bucket/runs/folder-beside": b""}


def test_a_missing_bucket_is_a_persons_mistake_for_every_kind_of_put(server: ScriptedS3) -> None:
    storage = open_storage("s3://other-bucket")
    for put in (storage.put_bytes, storage.create):
        with pytest.raises(UserError, match=r"s3://other-bucket/key: .*create the bucket"):
            put("key", b"")
    with pytest.raises(UserError, match=r"s3://other-bucket/key: .*create the bucket"):
        storage.put_file("key", Path(__file__))


def test_missing_credentials_are_a_persons_mistake(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"s3://bucket/.*set AWS_ACCESS_KEY_ID"):
        probe(open_storage("s3://bucket"))


def test_an_endpoint_that_does_not_answer_is_a_persons_mistake(server: ScriptedS3, aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1/.*check AWS_ENDPOINT_URL_S3"):
        probe(open_storage("s3://bucket"))


def test_an_endpoint_that_is_no_url_is_a_persons_mistake(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_ENDPOINT_URL_S3", "no url")
    with pytest.raises(UserError, match=r"no url.*check AWS_ENDPOINT_URL_S3"):
        open_storage("s3://bucket")


def test_a_bucket_name_that_no_server_takes_is_a_persons_mistake(server: ScriptedS3) -> None:
    with pytest.raises(UserError, match="create the bucket or correct the URI"):
        probe(open_storage("s3://no bucket"))


@pytest.mark.parametrize(
    ("refusal", "remedy"),
    [("AccessDenied", "what they may do in this bucket"), ("RequestTimeTooSkewed", "set the clock of this machine")],
)
def test_a_refusal_names_the_object_the_cause_and_the_remedy_in_one_line(
    server: ScriptedS3, refusal: str, remedy: str
) -> None:
    storage = open_storage("s3://bucket/runs", retries=1)
    server.refusal = refusal
    for use in (lambda: storage.read("key"), lambda: storage.put_bytes("key", b"")):
        with pytest.raises(UserError, match=rf"^s3://bucket/runs/key: .*{refusal}.*{remedy}") as told:
            use()
        assert "\n" not in str(told.value)
