"""The calls of the cluster's API that a launcher makes, with patience, as JSON documents.

In: names and documents. Out: documents, as the API sends them. A server that is busy, restarted or away is asked
again with growing pauses for `PATIENCE_S`, then it is a `StageFailed`; a refusal is told in the API's own words:
`Missing` (404), `Exists` (409), or what a person has to do (`UserError`).
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, cast

import urllib3

from ns_core.errors import StageFailed, UserError

CONNECT_S, READ_S = 5.0, 30.0
PATIENCE_S = 300.0
"""A control plane is upgraded within minutes; the pods go on meanwhile."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
LOG_READ_S = 30.0
"""A stream in which nothing came for so long is opened anew: its other end may be gone without a word."""
_AGAIN = frozenset({429, 500, 502, 503, 504})
Document = dict[str, Any]


class Missing(Exception):
    """No object of this name."""


class Exists(Exception):
    """An object of this name is there already."""


class Cluster:
    """One namespace of a cluster, as whoever started this process may use it."""

    def __init__(self, api: Any, namespace: str) -> None:
        """`api`: a `kubernetes.client.ApiClient`."""
        client: Any = import_module("kubernetes.client")
        self._batch, self._core, self._refused = client.BatchV1Api(api), client.CoreV1Api(api), client.ApiException
        self.host, self.namespace = str(api.configuration.host), namespace

    @classmethod
    def open(cls, namespace: str) -> "Cluster":
        """The cluster in which this process runs, or else that of the person's kubeconfig.

        Raises `UserError` where there is neither, and where the client is not installed.
        """
        try:
            client: Any = import_module("kubernetes.client")
            config: Any = import_module("kubernetes.config")
        except ModuleNotFoundError as error:
            raise UserError(
                f"launcher=kubernetes needs a package that is missing ({error.name}): "
                "pip install 'noisy-student[kubernetes]'"
            ) from None
        settings = client.Configuration()
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=settings)
            else:
                config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=settings)
        except config.ConfigException as error:
            raise UserError(
                f"no cluster to run pods in: {' '.join(str(error).split())}; set KUBECONFIG, or compute.launcher=local"
            ) from None
        settings.retries = False  # here it is waited and counted
        return cls(client.ApiClient(settings), namespace)

    def create_job(self, body: Document) -> Document:
        """Raises `Exists`."""
        return self._ask("create Job", self._batch.create_namespaced_job, self.namespace, body)

    def job(self, name: str) -> Document:
        """Raises `Missing`."""
        return self._ask("read Job", self._batch.read_namespaced_job, name, self.namespace)

    def delete_job(self, name: str, uid: str = "") -> None:
        """And its pods, which are gone before it is; with `uid`, no other of that name. One that is gone is fine."""
        options: Document = {"propagationPolicy": "Foreground"}
        if uid:
            options["preconditions"] = {"uid": uid}
        with suppress(Missing, Exists):
            self._ask("delete Job", self._batch.delete_namespaced_job, name, self.namespace, body=options)

    def create_service(self, body: Document) -> None:
        """Raises `Exists`."""
        self._ask("create Service", self._core.create_namespaced_service, self.namespace, body)

    def service(self, name: str) -> Document:
        """Raises `Missing`."""
        return self._ask("read Service", self._core.read_namespaced_service, name, self.namespace)

    def delete_service(self, name: str) -> None:
        """One that is gone already is fine."""
        with suppress(Missing):
            self._ask("delete Service", self._core.delete_namespaced_service, name, self.namespace)

    def pods(self, selector: str) -> list[Document]:
        """With these labels."""
        found = self._ask("list Pods", self._core.list_namespaced_pod, self.namespace, label_selector=selector)
        return cast(list[Document], found["items"])

    def warnings(self, uid: str) -> list[Document]:
        """Events of type Warning about an object, none where they may not be seen."""
        fields = f"involvedObject.uid={uid},type=Warning"
        try:
            found = self._ask("list Events", self._core.list_namespaced_event, self.namespace, field_selector=fields)
        except UserError:
            return []
        return cast(list[Document], found["items"])

    @contextmanager
    def log(self, pod: str, container: str, since_seconds: int | None, follow: bool) -> Iterator[Iterator[bytes]]:
        """What a container said, each line after its time, as it comes, in pieces.

        No patience: the caller knows where to go on. Raises `Missing` where the pod is gone, and `OSError` for
        whatever else goes wrong.
        """
        since = {} if since_seconds is None else {"since_seconds": since_seconds}
        try:
            answer = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=container,
                follow=follow,
                timestamps=True,
                **since,
                _preload_content=False,
                _request_timeout=(CONNECT_S, LOG_READ_S),
            )
            try:
                yield answer.stream(decode_content=True)
            finally:
                answer.close()  # not back to the pool: it may be in the middle of a line
        except (self._refused, urllib3.exceptions.HTTPError) as error:
            gone = getattr(error, "status", None) == 404
            raise (Missing if gone else OSError)(_words(error)) from None

    def _ask(self, what: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Document:
        started, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                answer = call(*arguments, **options, _preload_content=False, _request_timeout=(CONNECT_S, READ_S))
                return cast(Document, json.loads(answer.data))
            except self._refused as error:
                if error.status is not None and error.status not in _AGAIN:
                    raise self._refusal(what, error) from None
                reason = _words(error)
            except (OSError, urllib3.exceptions.HTTPError) as error:
                reason = _words(error)
            except ValueError as error:  # the client's own check of a document, or an answer that is no JSON
                raise UserError(f"Kubernetes client: {what}: {' '.join(str(error).split())[:500]}") from None
            if time.monotonic() - started + pause > PATIENCE_S:
                raise StageFailed(
                    f"the Kubernetes API at {self.host} does not answer ({what}: {reason}); pods that run go on, and "
                    "the next attempt finds them"
                )
            time.sleep(pause)
            pause = min(LONGEST_PAUSE_S, 2 * pause)

    def _refusal(self, what: str, error: Any) -> Exception:
        """An answer of the API that another try would not change, but for one about quota."""
        message = _words(error)
        kinds: dict[int, type[Exception]] = {409: Exists, 404: Missing}
        if error.status in kinds and not (error.status == 404 and what.startswith("create")):
            return kinds[error.status](message)
        told = f"Kubernetes refuses to {what} in namespace '{self.namespace}': {message}"
        if error.status == 403 and "exceeded quota" in message:
            return StageFailed(f"{told}: wait until others have ended, raise the quota, or ask for less")
        return UserError(f"{told}: {_REMEDIES.get(error.status, _OTHER)}")


_OTHER = "mend compute.kubernetes, or what the cluster's policies ask for"
_REMEDIES: dict[int, str] = {
    401: "log in again, or renew the token",
    403: "give this account the Role of deployments/kubernetes, or satisfy the policy that is named",
    404: "create the namespace, or set compute.kubernetes.namespace",
}


def _words(error: Any) -> str:
    """On one line: the API's own message where there is one."""
    body = getattr(error, "body", None)
    try:
        text = json.loads(body)["message"] if body else ""
    except (ValueError, KeyError, TypeError):
        text = ""
    if not text and getattr(error, "status", None) is not None:
        text = f"{error.status} {error.reason}"
    return " ".join((text or f"{type(error).__name__}: {error}").split())
