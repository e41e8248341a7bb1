"""What a Job, its labels and a pod's environment variables are called."""

import hashlib

from ns_core.fingerprint import SHORT
from ns_core.launch.spec import WorkerSpec

CONTAINER = "worker"
PORT = 29500
"""Of index 0, where the processes that train together meet."""
SPEC_HASH = "noisy-student/spec-sha256"
"""Annotation of a Job: two that would do the same carry the same."""
JOB_NAME, JOB_UID = "batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid"
"""Labels that Kubernetes gives a Job's pods."""
INDEX = "batch.kubernetes.io/job-completion-index"
QUEUE = "kueue.x-k8s.io/queue-name"

SPEC, PROCESSES, PODS, PARTS, RENDEZVOUS, PATIENCE = (
    "NS_SPEC",
    "NS_PROCESSES",
    "NS_PODS",
    "NS_PARTS",
    "NS_RENDEZVOUS",
    "NS_RENDEZVOUS_SECONDS",
)
"""Environment variables of a pod: see pod.py."""
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Set by Kubernetes."""
IMAGE_VARIABLE = "NS_WORKER_IMAGE"
"""Of the orchestrator: the worker's image where the settings name none."""


def job_name(spec: WorkerSpec, suffix: str = "") -> str:
    """The same for the same work in the same store: whoever comes second finds the Job of the first.

    With `suffix`, at most 63 characters for the longest stage and an index of four digits: a pod's host name.
    """
    store = hashlib.sha256(spec.store.encode()).hexdigest()[:6]
    return f"ns-{spec.stage}-{spec.fingerprint[:SHORT]}-{store}{suffix}"


def labels(spec: WorkerSpec) -> dict[str, str]:
    """Of everything that belongs to a stage."""
    return {
        "app.kubernetes.io/name": "noisy-student",
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/managed-by": "noisy-student",
        "noisy-student/stage": spec.stage,
        "noisy-student/fingerprint": spec.fingerprint[:SHORT],
    }
