"""An API server of a cluster, for tests: real HTTP, real rules, and pods that do what the test says.

It answers as kube-apiserver 1.36 does where a launcher can tell: 409 for a name that is taken, 422 for what the
published schema refuses, Foreground deletion that leaves the Job until its pods are gone, preconditions, services
that go with their owner, logs with times that are followed. What a controller would do is a test's `script`: each
read of a Job does its next step. Faults come at the next requests: a status, `reset`, or `hang` (half-open).
"""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import kubernetes_validate
import pytest

from ns_core.launch.kubernetes import attach
from tests.kubernetes_http import Handler, Server, failure

Document = dict[str, Any]
NOW = "2026-11-23T12:00:00Z"


@dataclass
class Log:
    """What a pod said: (second after noon, text)."""

    lines: list[tuple[float, str]] = field(default_factory=list)
    closed: bool = False
    cuts: deque[int] = field(default_factory=deque)
    """Bytes after which the next streams break off; below 0: end as if that were all."""
    since: list[str | None] = field(default_factory=list)
    """What was asked for, of each stream."""

    def text(self) -> bytes:
        return "".join(f"2026-11-23T12:00:{at:012.9f}Z {line}\n" for at, line in self.lines).encode()


class KubernetesApi:
    """One namespace."""

    def __init__(self) -> None:
        self.jobs: dict[str, Document] = {}
        self.services: dict[str, Document] = {}
        self.pods: dict[str, Document] = {}
        self.events: list[Document] = []
        self.logs: dict[str, Log] = {}
        self.calls: list[str] = []
        self.times: list[float] = []
        self.script: deque[Callable[[], object]] = deque()
        self.faults: deque[int | str] = deque()
        self.refusals: dict[str, tuple[int, str]] = {}
        """`POST jobs` -> status and message of every such request."""
        self.lock = threading.Condition(threading.RLock())
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.api = self
        self.stopping = False
        self.thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        with self.lock:
            self.stopping = True
            self.lock.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, file: Path) -> str:
        """`file`, as `kubectl` reads it too."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": "secret-token"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        }
        file.write_text(json.dumps(document), encoding="utf-8")
        return str(file)

    # What the controllers of a cluster would do.

    def job(self) -> Document:
        (job,) = self.jobs.values()
        return job

    def start(self, index: int = 0, job: str | None = None, phase: str = "Running") -> str:
        """A pod for an index of a Job; its name."""
        with self.lock:
            owner = self.jobs[job] if job else self.job()
            name = f"{owner['metadata']['name']}-{index}-{uuid4().hex[:5]}"
            marks = {
                "batch.kubernetes.io/controller-uid": owner["metadata"]["uid"],
                "batch.kubernetes.io/job-name": owner["metadata"]["name"],
            }
            self.pods[name] = {
                "metadata": {
                    "name": name,
                    "labels": {**owner["spec"]["template"]["metadata"]["labels"], **marks},
                    "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
                },
                "spec": owner["spec"]["template"]["spec"],
                "status": {"phase": phase},
            }
            self.logs[name] = Log()
            return name

    def say(self, pod: str, *lines: str, at: float | None = None) -> None:
        with self.lock:
            log = self.logs[pod]
            for line in lines:
                log.lines.append((at if at is not None else len(log.lines) / 10, line))
            self.lock.notify_all()

    def wait(self, pod: str, reason: str, message: str) -> None:
        """The container of a pending pod."""
        state = {
            "name": "worker",
            "image": "registry/worker:1",
            "state": {"waiting": {"reason": reason, "message": message}},
        }
        with self.lock:
            self.pods[pod]["status"] = {"phase": "Pending", "containerStatuses": [state]}

    def end(self, pod: str, code: int = 0, reason: str = "Error", message: str = "", **status: Any) -> None:
        at = f"2026-11-23T12:00:{len([one for one in self.pods.values() if one['status']['phase'] == 'Failed']):02d}Z"
        terminated = {"exitCode": code, "reason": reason if code else "Completed", "message": message, "finishedAt": at}
        state = {"name": "worker", "state": {"terminated": terminated}}
        with self.lock:
            phase = "Failed" if code else "Succeeded"
            self.pods[pod]["status"] = {"phase": phase, "containerStatuses": [state], **status}
            self.logs[pod].closed = True
            self.lock.notify_all()

    def complete(self, job: str | None = None) -> None:
        self.conclude("Complete", "CompletionsReached", "", job)

    def fail(
        self, reason: str = "BackoffLimitExceeded", message: str = "it has failed", job: str | None = None
    ) -> None:
        self.conclude("Failed", reason, message, job)

    def conclude(self, kind: str, reason: str, message: str, name: str | None = None) -> None:
        """Its pods have ended by then."""
        with self.lock:
            job = self.jobs[name] if name else self.job()
            conditions = job["status"].setdefault("conditions", [])
            conditions.append({"type": kind, "status": "True", "reason": reason, "message": message})
            for pod, log in self.logs.items():
                log.closed = log.closed or pod.startswith(job["metadata"]["name"])
            self.lock.notify_all()

    def vanish(self, job: str) -> None:
        """The Job, its pods and its Service."""
        with self.lock:
            uid = self.jobs.pop(job)["metadata"]["uid"]
            self.pods = {
                name: pod
                for name, pod in self.pods.items()
                if pod["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] != uid
            }
            self.services = {
                name: one for name, one in self.services.items() if one["metadata"]["ownerReferences"][0]["uid"] != uid
            }

    # Requests.

    def answer(
        self, method: str, kind: str, name: str | None, query: Document, body: Document | None
    ) -> tuple[int, Document]:
        with self.lock:
            if refusal := self.refusals.get(f"{method} {kind}"):
                return failure(*refusal)
            store: dict[str, Document] = {"jobs": self.jobs, "services": self.services, "pods": self.pods}.get(kind, {})
            if method == "POST":
                assert body is not None
                return self._create(kind, store, body)
            if name is None:
                return 200, {"kind": "List", "items": self._listed(kind, store, query)}
            if method == "GET" and kind == "jobs" and self.script:
                self.script.popleft()()
            if name not in store:
                return failure(404, f'{kind} "{name}" not found')
            if method == "DELETE":
                return self._delete(kind, store, name, body or {})
            found = store[name]
            if found["metadata"].get("deletionTimestamp"):
                self.vanish(name)  # the next read finds it gone
            return 200, found

    def _create(self, kind: str, store: dict[str, Document], body: Document) -> tuple[int, Document]:
        name = body["metadata"]["name"]
        if name in store:
            return failure(409, f'{kind} "{name}" already exists')
        try:
            kubernetes_validate.validate(body, "1.36", strict=True)
        except kubernetes_validate.ValidationError as error:
            return failure(422, f'{kind} "{name}" is invalid: {error.message}')
        body["metadata"] |= {"uid": uuid4().hex, "creationTimestamp": NOW}
        store[name] = {**body, "status": {}}
        return 201, store[name]

    def _listed(self, kind: str, store: dict[str, Document], query: Document) -> list[Document]:
        if kind == "events":
            return self.events
        label, _, value = query.get("labelSelector", "").partition("=")
        return [one for one in store.values() if not label or one["metadata"]["labels"].get(label) == value]

    def _delete(self, kind: str, store: dict[str, Document], name: str, options: Document) -> tuple[int, Document]:
        uid = options.get("preconditions", {}).get("uid")
        if uid and uid != store[name]["metadata"]["uid"]:
            return failure(409, f"Precondition failed: UID in precondition: {uid}")
        if kind == "jobs" and options.get("propagationPolicy") == "Foreground":
            store[name]["metadata"]["deletionTimestamp"] = NOW
            return 200, store[name]
        return 200, store.pop(name)


@contextmanager
def serving(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """A server of a test's own, to which this process's kubeconfig leads; the launcher looks often."""
    server = KubernetesApi()
    patch.setenv("KUBECONFIG", server.kubeconfig(folder / "kubeconfig"))
    patch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    patch.setattr(attach, "POLL_S", 0.02)
    try:
        yield server
    finally:
        server.close()
