"""Where a secret could have gone: all that a deployed run leaves is opened, and searched for the secret in the forms
that it might have.

In: a `Deployed` whose runs have ended. Out: the names of the places that hold a secret: `s3/...`, `prefect/TABLE`,
`mlflow/TABLE`, `worker/...`, `servers/...`.
"""

import base64
import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import psycopg2
import pyarrow.parquet as pq
from PIL import Image

from flows.servers import postgres
from flows.servers.services import BUCKET
from tests.deployed import Deployed
from tests.servers import ServerSet, secrets_of

DATABASES = ("prefect", "mlflow")
FEW_BYTES = 16
"""Of a secret: shorter ones would be found by chance."""
OWN = ("env", "passwords.json")
"""The two files of the servers that are for secrets."""
STORES = ("postgres", "s3")
"""Folders of the servers that are read through their server."""
Place = tuple[str, bytes]


def leaks(deployed: Deployed, secrets: Iterable[str]) -> list[str]:
    """The places that hold any of the secrets, sorted."""
    forms = [form for secret in secrets for form in forms_of(secret)]
    places = (inner for place in places_of(deployed) for inner in opened(*place))
    return sorted({where for where, data in places if any(form in data for form in forms)})


def forms_of(secret: str) -> list[bytes]:
    """As it is, in hexadecimal, and within the base64 of a text that holds it, such as a header's user and password."""
    plain = secret.encode("ascii")
    assert len(plain) >= FEW_BYTES
    found = [plain, plain.hex().encode("ascii")]
    for shift in range(3):
        coded = base64.b64encode(bytes(shift) + plain)
        found.append(coded[4 if shift else 0 : 4 * ((shift + len(plain)) // 3)])
    return found


def places_of(deployed: Deployed) -> Iterator[Place]:
    """S3's bucket, both databases, the worker's folder, and the servers' files that are neither's data."""
    yield from _objects(deployed)
    for database in DATABASES:
        yield from _rows(deployed.servers, database)
    yield from _files("worker", deployed.folder)
    root = deployed.servers.place.root
    for entry in root.iterdir():
        if entry.name not in (*OWN, *STORES):
            yield from _files(f"servers/{entry.name}", entry)


def opened(name: str, data: bytes) -> Iterator[Place]:
    """The bytes, and what is packed in them, down to the last."""
    yield name, data
    for inner, part in _unpacked(data):
        yield from opened(f"{name}/{inner}" if inner else name, part)


def _unpacked(data: bytes) -> Iterator[Place]:
    if data[:2] == b"\x1f\x8b":
        yield "", gzip.decompress(data)
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            yield from ((name, packed.read(name)) for name in packed.namelist())
    elif data[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(data)) as packed:
            for member in packed:
                file = packed.extractfile(member)
                yield member.name, file.read() if file else b""
    elif data[:4] == b"PAR1":
        table = pq.read_table(io.BytesIO(data))
        yield "", f"{table.schema.metadata} {table.to_pydict()}".encode()
    elif data[:4] == b"\x89PNG":
        with Image.open(io.BytesIO(data)) as picture:
            yield "", str(picture.info).encode()


def s3_client(deployed: Deployed) -> Any:
    """Of the servers' S3, with what the worker is given."""
    own = deployed.environment
    return boto3.client(
        "s3",
        endpoint_url=own["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=own["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=own["AWS_SECRET_ACCESS_KEY"],
        region_name=own["AWS_DEFAULT_REGION"],
    )


def _objects(deployed: Deployed) -> Iterator[Place]:
    """Of all prefixes, MLflow's artifacts among them; with the metadata of each."""
    client = s3_client(deployed)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for entry in page.get("Contents", []):
            found = client.get_object(Bucket=BUCKET, Key=entry["Key"])
            yield f"s3/{entry['Key']}", found["Body"].read()
            yield f"s3/{entry['Key']}", f"{entry['Key']} {found['Metadata']}".encode()


def _rows(servers: ServerSet, database: str) -> Iterator[Place]:
    """Every row of every table."""
    login = {"host": "127.0.0.1", "port": servers.state.ports.postgres, "user": postgres.USER}
    tables = "select table_schema, table_name from information_schema.tables where table_type = 'BASE TABLE' and "
    with closing(psycopg2.connect(dbname=database, password=secrets_of(servers)[0], **login)) as connection:
        cursor = connection.cursor()
        cursor.execute(tables + "table_schema not in ('pg_catalog', 'information_schema')")
        for schema, table in cursor.fetchall():
            cursor.execute(f'select t::text from "{schema}"."{table}" t')
            yield f"{database}/{table}", "\n".join(row for (row,) in cursor).encode()


def _files(name: str, path: Path) -> Iterator[Place]:
    """A file, or all those of a folder, and their paths."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            where = f"{name}/{file.relative_to(path)}" if path.is_dir() else name
            yield where, file.read_bytes()
            yield where, where.encode()
