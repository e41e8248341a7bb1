"""A stage's pods as a Job and a Service of the cluster's API.

In: a `WorkerSpec` and one of its `PodSet`s. Out: JSON documents, the same for the same input, quantities as strings.
How the worker is told: the spec is an environment variable, so that it appears with the Job and goes with it, and
no second object can be missing or old. It holds no secret: those come from Secrets of the cluster. Linux takes at
most 128 KiB in one variable.
"""

import hashlib
import json
import os
from typing import Any

from ns_core.config import KubernetesConfig
from ns_core.errors import UserError
from ns_core.launch import versions
from ns_core.launch.kubernetes import names
from ns_core.launch.kubernetes.failures import EXITS_OF_MISTAKES
from ns_core.launch.kubernetes.merge import merged
from ns_core.launch.kubernetes.pod_sets import PodSet, requests
from ns_core.launch.spec import WorkerSpec

EXIT_STOPPED = 143
"""The worker saved a checkpoint at SIGTERM and went: its own node's end, or that of a peer's."""
SPEC_BYTES = 96 * 1024
SCRATCH = "/tmp"
Document = dict[str, Any]


def job(spec: WorkerSpec, pods: PodSet) -> Document:
    """`pods` as an Indexed Job. Raises `UserError` where no image is named, or the spec is too long."""
    settings = spec.compute.kubernetes
    marks = names.labels(spec)
    body: Document = {
        "completionMode": "Indexed",
        "completions": pods.pods,
        "parallelism": pods.parallel,
        "activeDeadlineSeconds": round(settings.deadline_hours * 3600),
        "ttlSecondsAfterFinished": round(settings.keep_hours * 3600),
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _failure_rules()},
        "template": {"metadata": {"labels": marks}, "spec": _pod(spec, pods)},
    }
    if pods.parts:
        body["backoffLimitPerIndex"] = settings.restarts
    else:
        body["backoffLimit"] = settings.restarts * pods.pods
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    queue = {names.QUEUE: settings.queue} if settings.queue else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": pods.name,
            "namespace": settings.namespace,
            "labels": marks | queue,
            "annotations": {names.SPEC_HASH: digest},
        },
        "spec": body,
    }


def service(spec: WorkerSpec, pods: PodSet, owner: str) -> Document:
    """The headless Service that gives index 0 a name; it goes with its Job, whose UID is `owner`."""
    reference = {"apiVersion": "batch/v1", "kind": "Job", "name": pods.name, "uid": owner}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": pods.name,
            "namespace": spec.compute.kubernetes.namespace,
            "labels": names.labels(spec),
            "ownerReferences": [reference],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.JOB_NAME: pods.name},
            "ports": [{"name": "rendezvous", "port": names.PORT, "protocol": "TCP"}],
        },
    }


def _failure_rules() -> list[Document]:
    """The first that matches counts."""
    codes = {"containerName": names.CONTAINER, "operator": "In"}
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {**codes, "values": [EXIT_STOPPED]}},
        {"action": "FailJob", "onExitCodes": {**codes, "values": list(EXITS_OF_MISTAKES)}},
    ]


def _pod(spec: WorkerSpec, pods: PodSet) -> Document:
    settings = spec.compute.kubernetes
    shm = requests(pods, settings)[2]
    body: Document = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": settings.grace_seconds,
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(spec, pods)],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm}},
            {"name": "scratch", "emptyDir": {"sizeLimit": settings.scratch}},
        ],
    }
    if pods.together:
        body["subdomain"] = pods.name
    if settings.image_pull_secrets:
        body["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.node_selector:
        body["nodeSelector"] = dict(label.split("=", 1) for label in settings.node_selector)
    if settings.tolerations:
        body["tolerations"] = [_toleration(text) for text in settings.tolerations]
    if settings.priority_class:
        body["priorityClassName"] = settings.priority_class
    return merged(body, json.loads(settings.pod_fields)) if settings.pod_fields else body


def _container(spec: WorkerSpec, pods: PodSet) -> Document:
    settings = spec.compute.kubernetes
    image = settings.image or os.environ.get(names.IMAGE_VARIABLE, "")
    if not image:
        raise UserError(f"the pods have no image: set compute.kubernetes.image, or {names.IMAGE_VARIABLE} here")
    cpu, memory, _ = requests(pods, settings)
    gpus = {settings.gpu_resource: str(pods.gpus)} if pods.gpus else {}
    return {
        "name": names.CONTAINER,
        "image": image,
        "command": ["python", "-m", "ns_core.launch.kubernetes.pod"],
        "env": [{"name": name, "value": value} for name, value in _environment(spec, pods).items()],
        **({"envFrom": [{"secretRef": {"name": name}} for name in settings.secrets]} if settings.secrets else {}),
        "resources": {"requests": {"cpu": cpu, "memory": memory, **gpus}, "limits": {"memory": memory, **gpus}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "scratch", "mountPath": SCRATCH}],
    }


def _environment(spec: WorkerSpec, pods: PodSet) -> dict[str, str]:
    """A person's variables come before ours, and cannot change what the pod is."""
    settings: KubernetesConfig = spec.compute.kubernetes
    text = spec.model_dump_json()
    if len(text.encode()) > SPEC_BYTES:
        raise UserError(
            f"{spec.stage}: its settings take {len(text.encode())} bytes, more than the {SPEC_BYTES} that a pod can be "
            "told: shorten the longest lists of the recipe"
        )
    own = {
        names.SPEC: text,
        **versions.environment(),
        names.PROCESSES: str(pods.processes),
        names.PODS: str(1 if pods.parts else pods.pods),
        names.PARTS: str(pods.parts),
        "TMPDIR": SCRATCH,
        "HOME": SCRATCH,
        "NS_CACHE": f"{SCRATCH}/cache",
        "NS_IMAGE_DIGEST": _digest(settings.image or os.environ.get(names.IMAGE_VARIABLE, "")),
    }
    if pods.together:
        own[names.RENDEZVOUS] = f"{pods.name}-0.{pods.name}:{names.PORT}"
        own[names.PATIENCE] = str(round(settings.pending_minutes * 60))
    return dict(variable.split("=", 1) for variable in settings.environment) | own


def _digest(image: str) -> str:
    return image.partition("@")[2]


def _toleration(text: str) -> Document:
    """As kubectl writes a taint: key=value:effect, key:effect or key."""
    what, _, effect = text.partition(":")
    key, equals, value = what.partition("=")
    operator: Document = {"operator": "Equal", "value": value} if equals else {"operator": "Exists"}
    return {"key": key, **operator, **({"effect": effect} if effect else {})}
