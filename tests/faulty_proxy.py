"""A proxy in front of an HTTP server that breaks some of the answers, on loopback.

At random moments, from a seed, it resets the connection instead of answering, answers 503, or cuts a body short.
Which request meets which fault depends on the order in which they come; `faults` says what happened.
"""

import random
import socket
import struct
from collections import Counter
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Literal

Fault = Literal["reset", "503", "cut", "none"]
FAULTS: tuple[Fault, ...] = ("reset", "503", "cut")
NO_LINGER = struct.pack("ii", 1, 0)
"""SO_LINGER for 0 s: closing sends RST."""


class FaultyProxy(ThreadingHTTPServer):
    """Passes GET and HEAD on to the server at `port`. A share of the answers, `often` for each fault, goes wrong."""

    def __init__(self, port: int, seed: int, often: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = port
        self.faults: Counter[Fault] = Counter()
        self._random, self._often, self._lock = random.Random(seed), often, Lock()

    def draw(self, body: int) -> Fault:
        """What happens to the next answer, of so many bytes."""
        with self._lock:
            (fault,) = self._random.choices((*FAULTS, "none"), [self._often] * 3 + [1 - 3 * self._often])
            if fault == "cut" and body < 2:
                fault = "none"
            self.faults[fault] += 1
            return fault

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away."""


class Handler(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        connection = HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        fault = self.server.draw(len(body))
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            self.close_connection = True
            self.connection.close()
        elif fault == "503":
            error = b"<Error><Code>SlowDown</Code></Error>"
            self.answer(503, {"Content-Length": str(len(error))}, b"" if self.command == "HEAD" else error)
        else:
            self.close_connection = fault == "cut"
            self.answer(answer.status, dict(answer.getheaders()), body[: len(body) // 2] if fault == "cut" else body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
