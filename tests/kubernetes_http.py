"""The wire of `KubernetesApi`: paths, chunked logs, and connections that break."""

import json
import re
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Document = dict[str, Any]
_WORDS = {403: "Forbidden", 404: "NotFound", 409: "AlreadyExists", 422: "Invalid", 429: "TooManyRequests"}
_PATH = re.compile(r"/(?:api/v1|apis/batch/v1)/namespaces/([^/]+)/(jobs|services|pods|events)(?:/([^/]+))?(/log)?")


def failure(status: int, message: str) -> tuple[int, Document]:
    return status, {"kind": "Status", "code": status, "reason": _WORDS.get(status, ""), "message": message}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    api: Any


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one piece: the kernel holds back a second one for 40 ms

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Not to a test's output."""

    def _handle(self) -> None:
        api, parts = self.server.api, urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        match = _PATH.fullmatch(parts.path)
        assert match, parts.path
        _, kind, name, log = match.groups()
        with api.lock:
            api.calls.append(f"{self.command} {kind}{'/log' if log else ''}")
            api.times.append(time.monotonic())
            fault = api.faults.popleft() if api.faults and not log else None
        if fault == "reset":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "hang":
            with api.lock:
                api.lock.wait_for(lambda: api.stopping, 30)
        elif isinstance(fault, int):
            self._send(*failure(fault, "the server is currently unable to handle the request"))
        elif log and name not in api.pods:
            self._send(*failure(404, f'pods "{name}" not found'))
        elif log:
            self._log(api.logs[str(name)], query)
        else:
            self._send(*api.answer(self.command, kind, name, query, body))

    def _send(self, status: int, document: Document) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _log(self, log: Any, query: Document) -> None:
        """Chunked, as it is written; `sinceSeconds` would reach back to the first line."""
        api = self.server.api
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent, cut = 0, log.cuts.popleft() if log.cuts else None
        limit = None if cut is None else abs(cut)
        log.since.append(query.get("sinceSeconds"))
        while True:
            with api.lock:
                data, over = log.text()[sent:limit], log.closed or query.get("follow") != "true" or api.stopping
                if not data and not over and (limit is None or sent < limit):
                    api.lock.wait(5)
                    continue
            if data:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()
                sent += len(data)
            if cut is not None and cut > 0 and sent >= cut:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if (over and not data) or sent == limit:
                self.wfile.write(b"0\r\n\r\n")
                return
