"""A stage as pods of a cluster, from a `WorkerSpec` to its end, whoever has started them.

Whoever calls may be killed at any time: the pods go on, and the next call of the same finds them. Only a person who
gives up, by Ctrl-C or by cancelling the run, ends them.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ns_core.artifacts import Paths, find
from ns_core.errors import StageFailed, UserError
from ns_core.launch.kubernetes import attach, failures
from ns_core.launch.kubernetes.attach import Document, ended, ensure, same_work
from ns_core.launch.kubernetes.client import Cluster, Missing
from ns_core.launch.kubernetes.failures import Trouble
from ns_core.launch.kubernetes.logs import Followers
from ns_core.launch.kubernetes.manifests import job as job_manifest
from ns_core.launch.kubernetes.names import INDEX, JOB_UID
from ns_core.launch.kubernetes.pod_sets import PodSet, pod_sets
from ns_core.launch.listen import Ear, Event, LogLine
from ns_core.launch.parts import Parts
from ns_core.launch.spec import WorkerSpec
from ns_core.storage import open_storage

EVENTS_EVERY_S = 30.0
"""Between two looks at why the cluster makes no pods."""


def never() -> bool:
    """Of a caller whose run nobody cancels."""
    return False


def run_pods(spec: WorkerSpec, on_log: LogLine, on_event: Event, cancelling: Callable[[], bool] = never) -> None:
    """Returns once a pod has committed. `on_log` and `on_event` are called in this thread.

    On KeyboardInterrupt, and on another exception from outside while `cancelling()`, the pods are deleted; on any
    other they go on, and the next call attaches to them. Raises `UserError` where a person has to act, else
    `StageFailed`, in one line with the remedy.
    """
    spec = spec.model_copy(update={"compute": spec.compute.for_stage(spec.stage)})
    _check_store(spec)
    cluster = Cluster.open(spec.compute.kubernetes.namespace)
    sets = pod_sets(spec)
    for pods in sets:
        run = _Run(cluster, spec, pods, on_log, on_event)
        try:
            run.to_end()
        except (UserError, StageFailed):
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or cancelling():
                cluster.delete_job(pods.name, run.uid)
            raise
    for pods in sets[:-1]:  # complete, it would be taken for the work of an artifact that has to be made again
        cluster.delete_job(pods.name)


def _check_store(spec: WorkerSpec) -> None:
    """A pod sees no folder of this machine, but what `pod_fields` mounts."""
    if not spec.store.startswith("s3://") and "volumeMounts" not in spec.compute.kubernetes.pod_fields:
        raise UserError(
            f"pods do not see the store {spec.store}: make it s3://bucket/prefix, or mount a volume at that path with "
            "compute.kubernetes.pod_fields"
        )


class _Run:
    """One set of pods, until it has ended."""

    def __init__(self, cluster: Cluster, spec: WorkerSpec, pods: PodSet, on_log: LogLine, on_event: Event) -> None:
        self._cluster, self._spec, self._pods, self._log = cluster, spec, pods, on_log
        self._settings = spec.compute.kubernetes
        self._ears = _ears(pods, on_log, on_event)
        self._said: set[str] = set()
        self._stuck_since: float | None = None
        self._events_at = time.monotonic() + EVENTS_EVERY_S / 5
        self._refused: Trouble | None = None
        self.uid = ""

    def to_end(self) -> None:
        """Raises why the Job has failed."""
        self.uid, how = ensure(self._cluster, self._spec, self._pods, self._committed)
        what = {"created": "started", "attached": "is running already: attached", "done": "had ended well"}[how]
        self._log(f"Kubernetes: Job {self._pods.name} in namespace {self._cluster.namespace} {what}")
        if how == "done":
            return
        with tempfile.TemporaryDirectory(prefix="ns-logs-") as folder:
            followers = Followers(self._cluster, Path(folder), self._hear)
            try:
                self._watch(followers)
            except (UserError, StageFailed):
                self._keep(followers)
                raise
            finally:
                followers.leave()
            self._keep(followers)

    def _watch(self, followers: Followers) -> None:
        while True:
            began = time.monotonic()
            job = self._look()
            pods = self._cluster.pods(f"{JOB_UID}={self.uid}")
            for pod in pods:
                phase = pod["status"].get("phase")
                if phase in ("Running", "Succeeded", "Failed"):
                    followers.see(pod["metadata"]["name"], _index(pod), phase != "Running")
            followers.others_are_gone({pod["metadata"]["name"] for pod in pods})
            if end := ended(job):
                followers.finish()
                if end[0] == "Failed":
                    raise failures.cause(end[1], pods, self._settings.deadline_hours).error(self._spec.stage)
                return
            self._mind(job, pods)
            followers.listen(began + attach.POLL_S - time.monotonic())

    def _look(self) -> Document:
        """The Job, which another orchestrator may have made anew."""
        name = self._pods.name
        try:
            job = self._cluster.job(name)
        except Missing:
            raise StageFailed(
                f"{self._spec.stage}: Job {name} was deleted by somebody; the next attempt makes it again"
            ) from None
        if job["metadata"]["uid"] != self.uid:
            if not same_work(job, job_manifest(self._spec, self._pods)):
                raise StageFailed(f"{self._spec.stage}: Job {name} was replaced by one with other settings")
            self.uid = job["metadata"]["uid"]
        return job

    def _mind(self, job: Document, pods: list[Document]) -> None:
        """Tells once what pods wait for, and gives up after `pending_minutes`."""
        if job["spec"].get("suspend"):
            self._stuck_since = None
            self._once(f"Job {self._pods.name} is suspended: it waits for its queue, or for a person")
            return
        phases = [pod["status"].get("phase") for pod in pods]
        held_up = "Pending" in phases if self._pods.together else not {"Running", "Succeeded"} & set(phases)
        trouble = failures.waiting(pods) or (None if pods else self._no_pods())
        if trouble:
            self._once(f"waiting: {trouble.message}")
        if not held_up:
            self._stuck_since = None
            return
        now = time.monotonic()
        self._stuck_since = now if self._stuck_since is None else self._stuck_since
        if now - self._stuck_since > 60 * self._settings.pending_minutes:
            trouble = trouble or Trouble("pending", f"the pods of Job {self._pods.name} do not start", retried=True)
            self._cluster.delete_job(self._pods.name, self.uid)
            minutes = f"{self._settings.pending_minutes:g} minutes"
            raise Trouble(trouble.kind, f"given up after {minutes}: {trouble.message}", trouble.retried).error(
                self._spec.stage
            )

    def _no_pods(self) -> Trouble | None:
        if time.monotonic() >= self._events_at:
            self._events_at = time.monotonic() + EVENTS_EVERY_S
            self._refused = failures.no_pods(self._cluster.warnings(self.uid))
        return self._refused

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._log(f"Kubernetes: {text}")

    def _hear(self, index: int, line: str) -> None:
        self._ears[index].hear(f"{line}\n".encode())

    def _committed(self) -> bool:
        """Parts commit nothing: what they saved is found by the worker that does."""
        storage, paths = open_storage(self._spec.store), Paths(self._spec.stage, self._spec.fingerprint)
        return bool(self._pods.parts) or find(storage, paths) is not None

    def _keep(self, followers: Followers) -> None:
        """The whole logs, beside the artifact."""
        paths = Paths(self._spec.stage, self._spec.fingerprint)
        for file in followers.files():
            try:
                open_storage(self._spec.store).put_file(f"{paths.folder}/logs/{file.name}", file)
            except (OSError, UserError, StageFailed) as error:
                self._log(f"Kubernetes: the log of pod {file.stem} is not kept: {error}")


def _ears(pods: PodSet, on_log: LogLine, on_event: Event) -> list[Ear]:
    """By index. Of pods that train together the first tells how it goes."""
    if pods.parts:
        return Parts(pods.parts, on_log, on_event).ears
    if pods.pods == 1:
        return [Ear(on_log, on_event)]
    return [_ear_of(index, on_log, on_event) for index in range(pods.pods)]


def _ear_of(index: int, on_log: LogLine, on_event: Event) -> Ear:
    def silent(_: dict[str, Any]) -> None:
        """What rank 0 tells already."""

    return Ear(lambda line: on_log(f"pod {index}: {line}"), silent if index else on_event)


def _index(pod: Document) -> int:
    metadata = pod["metadata"]
    marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    return int(marks.get(INDEX, 0))
