"""The least of an S3 server, on loopback, with the faults that a good server never shows.

It speaks to a real boto3 over HTTP and knows one bucket, called `bucket`. Signatures go unchecked.
"""

import hashlib
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

BUCKET = "/bucket/"
PAGE = 400
"""Keys in one page of a listing; S3 has 1000."""
DELETE_LIMIT = 1000
"""As on S3."""


class ScriptedS3(ThreadingHTTPServer):
    """`objects` by path, "/bucket/key". A listing has them in the order in which they were put."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.honours_conditions = True
        self.conflicts = 0
        """How many of the next puts are answered with 409."""
        self.broken_bodies = 0
        """How many of the next bodies break off half-way."""
        self.ranges = 0
        """How many ranges were asked for so far."""
        self.refusal = ""
        """The code with which each request is refused; empty: none is."""


class Handler(BaseHTTPRequestHandler):
    server: ScriptedS3
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.refusal:
            return self.refuse(403, self.server.refusal)
        conditional = self.headers["If-None-Match"] and self.server.honours_conditions
        if not self.path.startswith(BUCKET):
            return self.refuse(404, "NoSuchBucket")
        if self.server.conflicts:
            self.server.conflicts -= 1
            return self.refuse(409, "ConditionalRequestConflict")
        if conditional and self.path in self.server.objects:
            return self.refuse(412, "PreconditionFailed")
        self.server.objects[self.path] = data
        return self.answer(200)

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if self.server.refusal:
            self.refuse(403, self.server.refusal)
        elif "list-type" in query:
            first = int(query.get("continuation-token", ["0"])[0])
            self.answer(200, self.listing(query.get("prefix", [""])[0], first).encode())
        elif self.path not in self.server.objects:
            self.refuse(404, "NoSuchKey")
        elif asked := self.headers["Range"]:
            self.server.ranges += 1
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
            self.answer(206, self.server.objects[self.path][first : last + 1])
        else:
            self.answer(200, self.server.objects[self.path])

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.path, None)
        self.answer(204)

    def do_POST(self) -> None:
        """DeleteObjects."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        keys = re.findall("<Key>(.*?)</Key>", body)
        if len(keys) > DELETE_LIMIT:
            return self.refuse(400, "MalformedXML")
        for key in keys:
            self.server.objects.pop(BUCKET + key, None)
        return self.answer(200, b"<DeleteResult/>")

    def listing(self, prefix: str, first: int) -> str:
        """One page of the keys under `prefix`. The place of the next page is its token."""
        paths = [path for path in self.server.objects if path.startswith(BUCKET + prefix)]
        keys = [path.removeprefix(BUCKET) for path in paths]
        following = first + PAGE
        page = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in keys[first:following])
        if following < len(keys):
            page += f"<NextContinuationToken>{following}</NextContinuationToken>"
            page += "<IsTruncated>true</IsTruncated>"
        return f"<ListBucketResult>{page}</ListBucketResult>"

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.md5(self.server.objects.get(self.path, b"")).hexdigest()}"')
        self.end_headers()
        if self.server.broken_bodies and status < 300 and self.command == "GET":
            self.server.broken_bodies -= 1
            self.close_connection = True
            body = body[: len(body) // 2]
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
