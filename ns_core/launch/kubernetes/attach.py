"""Makes a stage's Job, or finds the one that an earlier or another orchestrator made.

The Job's name follows from the work, so that the cluster itself decides who was first: the second is refused (409)
and attaches. A Job that has failed, or that would do it with other settings, is deleted with its pods and made anew.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

from ns_core.errors import StageFailed
from ns_core.launch.kubernetes import manifests
from ns_core.launch.kubernetes.client import Cluster, Exists, Missing
from ns_core.launch.kubernetes.names import SPEC_HASH
from ns_core.launch.kubernetes.pod_sets import PodSet
from ns_core.launch.spec import WorkerSpec

POLL_S = 2.0
"""Between two looks at a set of pods."""
GOING_S = 300.0
"""For pods of a Job that is deleted, after their grace."""
TRIES = 10
Document = dict[str, Any]
How = Literal["created", "attached", "done"]
Verdict = Literal["Complete", "Failed"]


def ensure(cluster: Cluster, spec: WorkerSpec, pods: PodSet, committed: Callable[[], bool]) -> tuple[str, How]:
    """The UID of the Job that does it, and whether it was there.

    `committed`: whether what a complete Job made is still in the store; where not, it is made again.
    """
    body = manifests.job(spec, pods)
    for _ in range(TRIES):
        try:
            uid, how = _uid(cluster.create_job(body)), "created"
        except Exists:
            try:
                there = cluster.job(pods.name)
            except Missing:
                continue
            uid, how = _uid(there), _state(there, body, committed)
        if how == "stale":
            cluster.delete_job(pods.name, uid)
        if how in ("stale", "going"):
            _wait_until_gone(cluster, pods.name, uid, GOING_S + spec.compute.kubernetes.grace_seconds)
            continue
        if pods.together and how != "done":
            _ensure_service(cluster, manifests.service(spec, pods, uid), uid)
        return uid, "done" if how == "done" else "created" if how == "created" else "attached"
    raise StageFailed(f"{spec.stage}: Job {pods.name} is made and deleted again by others: stop all but one run of it")


def ended(job: Document) -> tuple[Verdict, Document] | None:
    """How a Job ended, with the condition that says why; None while it has not (FailureTarget and the like)."""
    verdicts: tuple[Verdict, ...] = ("Complete", "Failed")
    for condition in job.get("status", {}).get("conditions") or []:
        for verdict in verdicts:
            if condition["type"] == verdict and condition["status"] == "True":
                return verdict, condition
    return None


def same_work(job: Document, body: Document) -> bool:
    """Whether two Jobs would do the same in the same way."""
    marks = (one["metadata"].get("annotations") or {} for one in (job, body))
    first, second = (mark.get(SPEC_HASH) for mark in marks)
    return first is not None and first == second


def _state(there: Document, body: Document, committed: Callable[[], bool]) -> str:
    if there["metadata"].get("deletionTimestamp"):
        return "going"
    end = ended(there)
    if not same_work(there, body) or (end and end[0] == "Failed"):
        return "stale"
    if end:
        return "done" if committed() else "stale"
    return "attached"


def _ensure_service(cluster: Cluster, body: Document, owner: str) -> None:
    """One of the Job before goes with that, a moment later, and would take the name along."""
    name = body["metadata"]["name"]
    for _ in range(TRIES):
        try:
            cluster.create_service(body)
            return
        except Exists:
            pass
        try:
            there = cluster.service(name)
        except Missing:
            continue
        if any(reference["uid"] == owner for reference in there["metadata"].get("ownerReferences") or []):
            return
        cluster.delete_service(name)
    raise StageFailed(f"Service {name} is made and deleted again by others")


def _wait_until_gone(cluster: Cluster, name: str, uid: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if _uid(cluster.job(name)) != uid:
                return
        except Missing:
            return
        if time.monotonic() > deadline:
            raise StageFailed(
                f"Job {name} was deleted and is still there after {seconds:.0f} s: its pods do not end; see "
                f"`kubectl describe job {name}`"
            )
        time.sleep(POLL_S)


def _uid(job: Document) -> str:
    return str(job["metadata"]["uid"])
