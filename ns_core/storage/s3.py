"""A store in a prefix of an S3 bucket. The promises are those of `Storage`.

Endpoint, credentials and region come from the usual AWS environment (`AWS_ENDPOINT_URL_S3` or
`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, `AWS_DEFAULT_REGION`, ...). A server that
rejects boto3's checksums needs `AWS_REQUEST_CHECKSUM_CALCULATION` and
`AWS_RESPONSE_CHECKSUM_VALIDATION` set to `when_required`. A killed writer leaves the parts of its
upload; no reader sees them, and a lifecycle rule `AbortIncompleteMultipartUpload` removes them.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from boto3.exceptions import Boto3Error, RetriesExceededError, S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, SSLError
from botocore.exceptions import ConnectionError as NoConnection

from ns_core.errors import NotFound, StageFailed, Unreachable, UserError
from ns_core.storage.keys import Stored, checked_folder, checked_key, checked_prefix
from ns_core.storage.local import arriving
from ns_core.storage.waiting import Waiting

T = TypeVar("T")

_TRIES = 4
"""For what botocore does not retry: a body that breaks off, conditional puts in conflict."""
_DELETE_BATCH = 1000
"""The most keys that one DeleteObjects request may name."""
_CHUNK = 1 << 20
_CLIENT_SECONDS = 300.0
"""After which a store that is opened reads the credentials anew: tools rewrite `~/.aws/credentials` every hour."""
_TRANSFER = TransferConfig(
    multipart_threshold=32 << 20,
    multipart_chunksize=16 << 20,
    max_concurrency=4,
    num_download_attempts=8,
)
_AWAY = "RequestTimeout SlowDown TooManyRequests 429"
"""What a server says, beside any status from 500 on, that wants to be asked again later."""
_UNREACHABLE = "ConnectTimeoutError EndpointConnectionError"
_REMEDIES = {
    "AccessDenied ExpiredToken InvalidAccessKeyId InvalidToken SignatureDoesNotMatch 403": (
        "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may do in this bucket"
    ),
    "NoCredentialsError PartialCredentialsError ProfileNotFound": (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile in AWS_PROFILE"
    ),
    _UNREACHABLE: "check AWS_ENDPOINT_URL_S3 and the server",
    "AuthorizationHeaderMalformed PermanentRedirect 301": "set AWS_DEFAULT_REGION to the bucket's",
    "InvalidBucketName NoSuchBucket ParamValidationError": "create the bucket or correct the URI",
    "RequestTimeTooSkewed": "set the clock of this machine",
}
"""How a person mends what S3 (error codes; a HEAD has but its status) or botocore complains of."""


class S3Storage:
    """Objects under `s3://bucket/prefix/`; an empty prefix is the whole bucket.

    A failed request is sent again by boto3 `retries` times within seconds; then, while the server is away, for
    `patience` seconds more.
    """

    def __init__(self, bucket: str, prefix: str, retries: int, patience: float = 0.0) -> None:
        self.uri = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self._waiting = Waiting(f"S3 {os.environ.get('AWS_ENDPOINT_URL_S3', self.uri)}", patience)
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        with _plainly(self.uri):
            own = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
            self._client = _client(retries, os.getpid(), own, int(time.monotonic() / _CLIENT_SECONDS))

    def put_file(self, key: str, path: Path) -> None:
        with self._request(key) as named:
            self._sent(self._client.upload_file, str(path), **named, Config=_TRANSFER)

    def take_file(self, key: str, path: Path) -> None:
        self.put_file(key, path)
        path.unlink()

    def put_bytes(self, key: str, data: bytes) -> None:
        with self._request(key) as named:
            self._sent(self._client.put_object, **named, Body=data)

    def create(self, key: str, data: bytes) -> bool:
        for _ in range(_TRIES):
            with self._request(key) as named:
                try:
                    self._sent(self._client.put_object, **named, Body=data, IfNoneMatch="*")
                    return True
                except ClientError as error:
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if status == 412:
                        return False
                    # 409 says that a rival request was under way, and nothing about its outcome.
                    if status != 409:
                        raise
        raise OSError(f"{self.uri}/{key}: {_TRIES} conditional puts in a row met a conflict")

    def read(self, key: str) -> bytes:
        return self._body(key)

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        assert offset >= 0, offset
        if length == 0:
            return self._nothing(key)
        data = self._body(key, Range=f"bytes={offset}-{offset + length - 1}")
        if len(data) != length:
            where = f"{self.uri}/{key}"
            raise OSError(f"{where}: {len(data)} bytes at {offset}, where {length} were asked for")
        return data

    def fetch(self, key: str, path: Path) -> None:
        with arriving(path) as copy, self._request(key) as named:
            if not self._stream(named, copy):
                self._sent(self._client.download_file, **named, Filename=str(copy), Config=_TRANSFER)

    def size(self, key: str) -> int | None:
        version = self.version(key)
        return None if version is None else version[0]

    def version(self, key: str) -> tuple[int, str] | None:
        with suppress(NotFound), self._request(key) as named:
            head = self._sent(self._client.head_object, **named)
            return int(head["ContentLength"]), str(head["ETag"])
        return None

    def list(self, prefix: str) -> Iterator[str]:
        # Servers that keep a directory tree list "a/b" before "a-b".
        return iter(sorted(key for key, _ in self._listed(checked_prefix(prefix))))

    def objects(self, prefix: str) -> Iterator[Stored]:
        for key, item in self._listed(checked_prefix(prefix)):
            yield Stored(key, int(item["Size"]), item["LastModified"].timestamp())

    def copy(self, source: str, target: str) -> None:
        assert source != target, source
        with self._request(target) as named, self._request(source) as origin:
            self._sent(self._client.copy, origin, **named, Config=_TRANSFER)

    def move(self, source: str, target: str) -> None:
        self.copy(source, target)
        self.delete(source)

    def delete(self, key: str) -> None:
        with self._request(key) as named:
            self._sent(self._client.delete_object, **named)

    def delete_tree(self, prefix: str) -> None:
        with suppress(OSError, StageFailed):
            keys = [{"Key": self._prefix + key} for key in self.list(checked_folder(prefix))]
            for start in range(0, len(keys), _DELETE_BATCH):
                batch = {"Objects": keys[start : start + _DELETE_BATCH], "Quiet": True}
                with _plainly(f"{self.uri}/{prefix}"):
                    self._sent(self._client.delete_objects, Bucket=self._bucket, Delete=batch)

    def local_path(self, key: str) -> Path | None:
        checked_key(key)
        return None

    def _listed(self, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The keys that start with `prefix` and what the server says of them, a page at a time."""
        request = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        while True:
            with _plainly(f"{self.uri}/{prefix}"):
                page = self._sent(self._client.list_objects_v2, **request)
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):  # some servers show a folder as "a/"
                    yield item["Key"][len(self._prefix) :], item
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _stream(self, named: dict[str, str], path: Path) -> bool:
        """One GET into a file, asked for again when the body breaks off; False for an object that several
        connections should share. A third of the CPU time of `download_file`, which takes one connection for
        an object below its threshold, too."""
        for left in reversed(range(_TRIES)):
            answer = self._sent(self._client.get_object, **named)
            with closing(answer["Body"]) as body:
                if answer["ContentLength"] > _TRANSFER.multipart_threshold:
                    return False
                try:
                    with path.open("wb") as stream:
                        shutil.copyfileobj(body, stream, _CHUNK)
                    return True
                except BotoCoreError:
                    if not left:
                        raise
        raise AssertionError("the last try returns or raises")

    def _body(self, key: str, **limits: str) -> bytes:
        """What one GET answers, asked for again when the body breaks off."""
        for left in reversed(range(_TRIES)):
            with self._request(key) as named:
                body = self._sent(self._client.get_object, **named, **limits)["Body"]
                try:
                    return bytes(body.read())
                except BotoCoreError:
                    if not left:
                        raise
        raise AssertionError("the last try returns or raises")

    def _nothing(self, key: str) -> bytes:
        """No bytes of an object that is there. HTTP has no way to ask for an empty range."""
        with self._request(key) as named:
            self._sent(self._client.head_object, **named)
        return b""

    def _sent(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """What a call of boto3 returns, which is made again while the server is away."""
        return self._waiting(partial(call, *arguments, **named), _is_away)

    @contextmanager
    def _request(self, key: str) -> Iterator[dict[str, str]]:
        """The names of bucket and object for a boto3 call, whose errors are told plainly."""
        name = self._prefix + checked_key(key)
        with _plainly(f"{self.uri}/{key}"):
            yield {"Bucket": self._bucket, "Key": name}


@lru_cache(maxsize=4)
def _client(retries: int, process: int, own: tuple[tuple[str, str], ...], age: int) -> Any:
    """An S3 client; 85 ms of CPU time, so stores share it where process, AWS environment and `age` are the same.

    A custom endpoint gets path addressing: few have a DNS name for each bucket.
    """
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it tells with each client where its settings come from
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    session = Session()
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"} if endpoint else None,
        retries={"mode": "standard", "max_attempts": retries},
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=64,  # as many threads as `compute.loader_workers` allows
    )
    region = session.region_name or "us-east-1"
    try:
        return session.client("s3", region_name=region, config=config)
    except ValueError as error:
        raise UserError(f"{error}; check AWS_ENDPOINT_URL_S3") from error


@contextmanager
def _plainly(where: str) -> Iterator[None]:
    """Turns what boto3 raises into `NotFound`, `UserError` or `OSError` about `where`."""
    try:
        yield
    except (Boto3Error, BotoCoreError, ClientError) as error:
        raise _plain(error, where) from error


def _is_away(error: Exception) -> bool:
    """Whether the server is, or is too busy: the same request may be answered in a while."""
    cause = error.__context__ if isinstance(error, S3UploadFailedError) else error
    if isinstance(cause, ClientError):
        status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or _code(cause) in _AWAY.split()
    return isinstance(cause, NoConnection | HTTPClientError | RetriesExceededError) and not isinstance(cause, SSLError)


def _plain(error: Exception, where: str) -> Exception:
    cause = error.__context__ if isinstance(error, S3UploadFailedError) else error
    code = _code(cause)
    if code in ("NoSuchKey", "404"):
        return NotFound(where)
    said = " ".join(str(cause).split())
    for codes, remedy in _REMEDIES.items():
        if code in codes.split():
            kind = Unreachable if codes == _UNREACHABLE else UserError
            return kind(f"{where}: {said}; {remedy}")
    return OSError(f"{where}: {said}")


def _code(error: BaseException | None) -> str:
    """The server's code for the error, or the exception's name when it was not the server's."""
    if isinstance(error, ClientError):
        return str(error.response["Error"]["Code"])
    return type(error).__name__
