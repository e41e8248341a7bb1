"""What is wrong with a stage's pods, in words, with the remedy, and whether another try may cure it.

In: Jobs, pods and events as the API has them. Out: a `Trouble`, the most telling first; `error` makes it what the
stage raises: `StageFailed`, which is retried, or `UserError`, which waits for a person.

    a mistake that the worker told (exit 78)     not retried
    out of memory                                not retried: the next try would need as much
    no image, a Secret that is not there, no node that fits: waited for, then not retried
    the stage's time is over                     not retried
    evicted, preempted, node lost                retried, from the last checkpoint
    an image that cannot start the worker (64, 126, 127): not retried
    another exit status, SIGKILL                 retried, after the cluster's own restarts
    quota                                        retried
    the Job deleted or replaced by somebody      retried
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ns_core.errors import StageFailed, UserError
from ns_core.launch.kubernetes.names import CONTAINER, INDEX

EXIT_MISTAKE = 78
"""EX_CONFIG of sysexits.h: a person's mistake, whose words are the pod's last."""
EXITS_OF_MISTAKES = (64, EXIT_MISTAKE, 126, 127)
"""Wrong usage and wrong settings, a command that cannot be run or is not there: the same the next time."""
_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"})
_CONTAINER = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_TELLING = ("mistake", "memory", "disruption", "exit")
"""Of what pods that ended say, the first of these is the cause, and the rest its consequences."""
Document = dict[str, Any]


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong."""

    kind: str
    message: str
    retried: bool
    passing: bool = False
    """It may end by itself: waited for `pending_minutes`."""
    at: str = ""
    """When, as the API writes times."""

    def error(self, stage: str) -> Exception:
        """In one line; a mistake that the worker tells is its own sentence."""
        if self.kind == "mistake":
            return UserError(self.message)
        text = f"{stage}: {self.message}"
        return StageFailed(text) if self.retried else UserError(text)


def cause(condition: Document, pods: Iterable[Document], hours: float) -> Trouble:
    """Why a Job has failed, by its condition and by the last pod of each index; pods stay until it is deleted."""
    reason, told = condition.get("reason", ""), condition.get("message", "")
    if reason == "DeadlineExceeded":
        return Trouble(
            "deadline",
            f"it took longer than the {hours:g} hours that it has: raise compute.kubernetes.deadline_hours; what was "
            "saved is kept",
            retried=False,
        )
    troubles = sorted((end for pod in _last(pods) if (end := _end(pod))), key=lambda one: one.at)
    if troubles:
        return min(troubles, key=lambda one: _TELLING.index(one.kind))
    return Trouble("job", f"the Job has failed: {reason}: {told}", retried=True)


def waiting(pods: Iterable[Document]) -> Trouble | None:
    """What a pod waits for that may never come."""
    for pod in pods:
        status = pod["status"]
        if status.get("phase") != "Pending":
            continue
        for container in _containers(status):
            state = container.get("state", {}).get("waiting") or {}
            if trouble := _stuck(_who(pod), state, container):
                return trouble
        scheduled = _condition(status, "PodScheduled")
        if scheduled and scheduled["status"] == "False":
            return Trouble(
                "unschedulable",
                f"{_who(pod)} finds no node: {scheduled.get('message') or scheduled.get('reason')}: ask for less, or "
                "let the cluster grow, or raise compute.kubernetes.pending_minutes",
                retried=False,
                passing=True,
            )
    return None


def no_pods(events: Iterable[Document]) -> Trouble | None:
    """Why the cluster makes none for a Job: its own words, of the last event."""
    last = max(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""), default=None)
    if last is None:
        return None
    quota = "exceeded quota" in last.get("message", "")
    remedy = "wait until others have ended, raise the quota, or ask for less" if quota else "mend compute.kubernetes"
    return Trouble(
        "refused", f"the cluster makes no pods: {last.get('message')}: {remedy}", retried=quota, passing=True
    )


def _stuck(who: str, state: Document, container: Document) -> Trouble | None:
    reason, told = state.get("reason", ""), state.get("message", "")
    if reason in _IMAGE:
        text = (
            f"{who} cannot get its image {container.get('image')}: {reason}: {told}: mend compute.kubernetes.image, "
            "or name a Secret in image_pull_secrets"
        )
        return Trouble("image", text, retried=False, passing=True)
    if reason in _CONTAINER:
        text = (
            f"{who} cannot be started: {reason}: {told}: create what is missing, or mend compute.kubernetes.secrets "
            "and pod_fields"
        )
        return Trouble("container", text, retried=False, passing=True)
    return None


def _end(pod: Document) -> Trouble | None:
    """Why a pod ended badly; None of one that did not, or has not ended."""
    status, who = pod["status"], _who(pod)
    ends = [container["state"]["terminated"] for container in _containers(status) if _terminated(container)]
    at = min((end.get("finishedAt") or "" for end in ends), default="")
    target = _condition(status, "DisruptionTarget")
    bad = [end for end in ends if end.get("exitCode")]
    for end in bad:
        if end["exitCode"] == EXIT_MISTAKE:
            return Trouble("mistake", _last_words(end) or f"{who} says that its settings are wrong", False, at=at)
        if end.get("reason") == "OOMKilled":
            return Trouble("memory", f"{who} ran out of memory ({_limit(pod)}): {_MORE_MEMORY}", False, at=at)
    if status.get("reason") == "Evicted" or (target and target["status"] == "True"):
        why = status.get("message") or (target and f"{target.get('reason')}: {target.get('message')}") or "no reason"
        text = f"{who} was evicted or preempted: {why}; the next attempt goes on from the last checkpoint"
        return Trouble("disruption", text, retried=True, at=at)
    for end in bad:
        words, code, reason = _last_words(end), end["exitCode"], end.get("reason") or "Error"
        text = f"{who} ended with exit status {code}" + (f" ({reason})" if reason != "Error" else "")
        if code == 137:
            text = f"{who} was killed (SIGKILL), for want of memory ({_limit(pod)}) or by its node"
        elif code in EXITS_OF_MISTAKES:
            text = f"{who} ended with exit status {code}: its image cannot start the worker: {_ANOTHER_IMAGE}"
        text = f"{text}: {words}" if words else text
        return Trouble("exit", text, retried=code not in EXITS_OF_MISTAKES, at=at)
    if status.get("phase") == "Failed":
        return Trouble("exit", f"{who} failed: {status.get('reason')}: {status.get('message')}", retried=True, at=at)
    return None


def _last(pods: Iterable[Document]) -> Iterable[Document]:
    """Of each index."""
    found: dict[str, Document] = {}
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", ""))):
        found[pod["metadata"].get("annotations", {}).get(INDEX, "")] = pod
    return found.values()


_ANOTHER_IMAGE = "mend compute.kubernetes.image"
_MORE_MEMORY = "raise compute.kubernetes.memory, or lower batch_size or compute.loader_workers"


def _who(pod: Document) -> str:
    index = pod["metadata"].get("annotations", {}).get(INDEX)
    return f"pod {pod['metadata']['name']}" if index is None else f"pod {index} ({pod['metadata']['name']})"


def _containers(status: Document) -> list[Document]:
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _terminated(container: Document) -> bool:
    return bool(container.get("state", {}).get("terminated"))


def _condition(status: Document, name: str) -> Document | None:
    return next((condition for condition in status.get("conditions") or [] if condition["type"] == name), None)


def _last_words(end: Document) -> str:
    """What the pod left as its message, or else the end of its log, on one line."""
    return " ".join((end.get("message") or "").split())[-1500:]


def _limit(pod: Document) -> str:
    for container in pod.get("spec", {}).get("containers", []):
        limit = container.get("resources", {}).get("limits", {}).get("memory")
        if container["name"] == CONTAINER and limit:
            return f"limit {limit}"
    return "no limit is set"
